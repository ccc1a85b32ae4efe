"""Through a gateway: no plugin, kong-pdk's empty one, ours; on Kong from PATH, else on ours."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from dev_stack.gateways import PluginServer
from harness.gateways import EmptyPlugin, gateway, gateway_kind, has_wrk, known, load, upstream
from harness.policies import header_policy
from harness.results import Goal, in_rounds, report, row
from harness.servers import EMPTY, empty_plugin_server, plugin_server, takes
from harness.service import service

ROUNDS = 5
SECONDS = 2
IN_FLIGHT = (16, 64)
GOALS = {"local": 1.1, "remote": 0.7}
NONE = "no plugin"


def main() -> None:
    """Measure and report."""
    kind = gateway_kind().name
    if not has_wrk():
        raise SystemExit("gateway: wrk makes the load and is not installed: apt-get install wrk")
    deciders = [name for name in GOALS if name == "remote" or takes("--decider")]
    with tempfile.TemporaryDirectory(prefix="canary-bench-") as folder, ExitStack() as stack:
        run_dir = Path(folder)
        address = stack.enter_context(service(run_dir, header_policy())).address
        upstream_address = stack.enter_context(upstream(run_dir))
        empty = known(EmptyPlugin, stack.enter_context(empty_plugin_server(run_dir)))
        setups = {NONE: (empty, ""), EMPTY: (empty, "empty")}
        for name in deciders:
            path = stack.enter_context(plugin_server(run_dir, address, name))
            setups[name] = (known(PluginServer, path), "canary-release")
        addresses = {
            name: stack.enter_context(
                gateway(run_dir / f"gateway-{number}", upstream_address, server, plugin)
            ).address
            for number, (name, (server, plugin)) in enumerate(setups.items())
        }
        rows = []
        for in_flight in IN_FLIGHT:
            loads = {name: partial(load, at, in_flight, SECONDS) for name, at in addresses.items()}
            found = in_rounds(loads, ROUNDS)
            for name in setups:
                if name == EMPTY:
                    continue
                rows.append(
                    row(
                        f"{kind}: {name}, {in_flight} connections",
                        found[name],
                        "requests/s",
                        baseline=EMPTY,
                        against=found[EMPTY],
                        goal=Goal(limit=GOALS[name]) if name in GOALS else None,
                    )
                )
    report("gateway", rows, [f"through the {kind} gateway, {ROUNDS} rounds of {SECONDS} s by wrk"])


if __name__ == "__main__":
    main()
