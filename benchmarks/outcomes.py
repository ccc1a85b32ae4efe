"""What outcomes cost: requests a second through a gateway with outcomes by syslog and without."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from dev_stack.gateways import PluginServer
from harness.gateways import gateway, gateway_kind, has_wrk, known, load, upstream
from harness.policies import header_policy
from harness.results import Goal, in_rounds, report, row
from harness.servers import plugin_server, takes
from harness.service import service

ROUNDS = 9
SECONDS = 2
IN_FLIGHT = 16
ON, OFF = "syslog", "off"


def main() -> None:
    """Measure and report."""
    kind = gateway_kind().name
    if not takes("--outcomes"):
        raise SystemExit("outcomes: this plugin server has no --outcomes option")
    if not has_wrk():
        raise SystemExit("outcomes: wrk makes the load and is not installed: apt-get install wrk")
    decider = "local" if takes("--decider") else "remote"
    with tempfile.TemporaryDirectory(prefix="canary-bench-") as folder, ExitStack() as stack:
        run_dir = Path(folder)
        address = stack.enter_context(service(run_dir, header_policy())).address
        upstream_address = stack.enter_context(upstream(run_dir))
        loads = {}
        for way in (ON, OFF):
            path = stack.enter_context(plugin_server(run_dir, address, decider, way))
            server = known(PluginServer, path, way)
            at = stack.enter_context(
                gateway(run_dir / f"gateway-{way}", upstream_address, server, "canary-release")
            ).address
            loads[way] = partial(load, at, IN_FLIGHT, SECONDS)
            load(at, IN_FLIGHT, 1)  # warm, not counted
        found = in_rounds(loads, ROUNDS)
    report(
        "outcomes",
        [
            row(
                f"{kind}: outcomes by syslog, {decider}",
                found[ON],
                "requests/s",
                baseline="outcomes off",
                against=found[OFF],
                goal=Goal(limit=0.85),
            )
        ],
        [f"through the {kind} gateway, {IN_FLIGHT} connections, {ROUNDS} rounds by wrk"],
    )


if __name__ == "__main__":
    main()
