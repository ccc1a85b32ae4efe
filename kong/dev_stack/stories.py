"""Two releases that nobody steers: a good one is promoted, a bad one is rolled back."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import yaml
from canary.admin.v1 import admin_pb2 as pb
from canary.admin.v1 import admin_pb2_grpc
from canary.policy.v1 import policy_pb2 as policy_pb
from canary.record.v1 import record_pb2
from rich.console import Console
from rich.live import Live
from rich.table import Table

from dev_stack import steer
from dev_stack.gateways import command
from dev_stack.stack import ANY_PORT, CANARY, SERVICE_KEY, STABLE, Stack, declared
from dev_stack.steer import DEADLINE_S
from dev_stack.traffic import Traffic

NEXT = "v1.4.0"
VISITORS = [f"visitor-{number}" for number in range(1_000)]
LONGEST_S = 90.0
LOOK_EVERY_S = 0.5
SHOWN = 18
"""So many of the latest lines are on the screen."""

VERDICTS = {
    record_pb2.VERDICT_UNSPECIFIED: "",
    record_pb2.VERDICT_PASS: "pass",
    record_pb2.VERDICT_FAIL: "[bold red]fail[/]",
    record_pb2.VERDICT_INCONCLUSIVE: "see more",
    record_pb2.VERDICT_ERROR: "[yellow]no data[/]",
}
STATUSES = {
    policy_pb.RELEASE_STATUS_IN_PROGRESS: "in progress",
    policy_pb.RELEASE_STATUS_PAUSED: "paused",
    policy_pb.RELEASE_STATUS_COMPLETED: "[bold green]completed[/]",
    policy_pb.RELEASE_STATUS_ROLLED_BACK: "[bold red]rolled back[/]",
    policy_pb.RELEASE_STATUS_ABANDONED: "abandoned",
}
ENDED = (policy_pb.RELEASE_STATUS_COMPLETED, policy_pb.RELEASE_STATUS_ROLLED_BACK)
# A real plan holds for minutes or hours; see examples/plan.yaml.
PLAN: dict[str, Any] = {
    "steps": [
        {"weight": 5, "hold": "6s", "min_samples": 40},
        {"weight": 25, "hold": "5s", "min_samples": 100},
        {"weight": 50, "hold": "5s", "min_samples": 100},
    ],
    "check_interval": "1s",
    "comparison": {"control_times": 1000},
}


class Unexpected(RuntimeError):  # noqa: N818 - it says what happened
    """A release did not end as the story goes."""


def without_canary(addresses: Mapping[str, str]) -> dict[str, Any]:
    """The gateway's file, whose plugin declares no canary of its own that would rule afterwards."""
    document = declared(addresses)
    document["plugins"] = [{"name": "canary-release"}]
    return document


def tell(stack: Stack) -> None:
    """Both stories. Raises Unexpected where one goes otherwise."""
    client = steer.admin(stack.admin_address)
    steer.register_versions(client)
    with Traffic(stack.gateway.address, VISITORS) as traffic:
        print(f"\nA controller looks every second. {CANARY} is as good as {STABLE}:")
        _release(stack, {"version": CANARY})
        _check(Watch(client).until_end(LONGEST_S), "completed", traffic)
        print(f"\n{NEXT} answers every fifth request with 500:")
        stack.upstream_addresses[NEXT] = ANY_PORT
        stack.start_upstream(NEXT, "--fail", "0.2")
        host, _, port = stack.upstream_addresses[NEXT].rpartition(":")
        _release(stack, {"version": NEXT, "backend": {"host": host, "port": int(port)}})
        _check(Watch(client).until_end(LONGEST_S), "rolled back", traffic)
    _ctl(stack, "history", SERVICE_KEY, "--limit", "4")
    print("\nWhy, and who was exposed: canaryctl report SERVICE shows it all:")
    _ctl(stack, "report", SERVICE_KEY, "--format", "md", lines=24)


def _release(stack: Stack, version: dict[str, Any]) -> None:
    """Register a version and start its release under the plan, as people do: by a file."""
    document = {
        "service_key": SERVICE_KEY,
        "versions": [version],
        "plan": PLAN,
        "release": {"version": version["version"], "percentage": 0},
    }
    file = stack.plan.run_dir / f"{version['version']}.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    _ctl(stack, "apply", "-f", str(file), "--reason", "the demo", lines=0)


def _check(release: policy_pb.Release, expected: str, traffic: Traffic) -> None:
    failed = {key: n for key, n in traffic.answers.items() if key[0] != 200}
    print(f"   {traffic.answers.total()} requests, {sum(failed.values())} not answered with 200")
    others = [key for key in failed if key != (500, NEXT)]
    if expected not in STATUSES[release.status] or others:
        raise Unexpected(f"NOT AS PROMISED: {STATUSES[release.status]}, failed: {failed}")


def _ctl(stack: Stack, *arguments: str, lines: int | None = None) -> None:
    """Run canaryctl and print so many lines of what it says; None: all."""
    called = command("canaryctl", "--address", stack.admin_address, "--actor", "demo", *arguments)
    done = subprocess.run(called, capture_output=True, text=True, check=True, timeout=60)
    print(f"   $ canaryctl {shlex.join(arguments)}")
    for line in done.stdout.splitlines()[:lines]:
        print(f"   {line}")


class Watch:
    """The live table of one release."""

    def __init__(self, client: admin_pb2_grpc.AdminServiceStub) -> None:
        self._client = client
        self._began = time.monotonic()
        self._lines: list[tuple[str, ...]] = []

    def until_end(self, longest_s: float) -> policy_pb.Release:
        """Show the release until it has ended, or for so long; the release as it is then."""
        console = Console()
        if not console.is_terminal:
            looks = list(self._printed(console, longest_s))
            return looks[-1]
        release = policy_pb.Release()
        with Live(self._table(), console=console, auto_refresh=False) as live:
            for found, _ in self._looks(longest_s):
                live.update(self._table(), refresh=True)
                release = found
        return release

    def _printed(self, console: Console, longest_s: float) -> Iterator[policy_pb.Release]:
        for release, line in self._looks(longest_s):
            console.print("   " + "  ".join(part for part in line if part))
            yield release

    def _looks(self, longest_s: float) -> Iterator[tuple[policy_pb.Release, tuple[str, ...]]]:
        """The release and its line, whenever that has changed."""
        told: Sequence[str] = ()
        while time.monotonic() - self._began < longest_s:
            release, record = self._release(), self._record()
            line = _line(release, record)
            if line != told:
                told = line
                self._lines.append((f"{time.monotonic() - self._began:5.1f} s", *line))
                yield release, self._lines[-1]
            if release.status in ENDED and record.is_closed:
                return
            time.sleep(LOOK_EVERY_S)

    def _release(self) -> policy_pb.Release:
        request = pb.GetPolicyRequest(service_key=SERVICE_KEY)
        return self._client.GetPolicy(request, timeout=DEADLINE_S).policy.release

    def _record(self) -> record_pb2.ReleaseRecord:
        request = pb.GetRecordRequest(service_key=SERVICE_KEY)
        try:
            return self._client.GetRecord(request, timeout=DEADLINE_S).record
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.NOT_FOUND:
                return record_pb2.ReleaseRecord()  # the controller has not come by yet
            raise

    def _table(self) -> Table:
        table = Table(title=f"{SERVICE_KEY}, {datetime.now(UTC):%H:%M:%S} UTC")
        for name in ("time", "release", "weight", "canary", "control", "verdict", "waits for"):
            table.add_column(name, no_wrap=name != "waits for")
        for line in self._lines[-SHOWN:]:
            table.add_row(*line)
        return table


def _line(release: policy_pb.Release, record: record_pb2.ReleaseRecord) -> tuple[str, ...]:
    point = record.points[-1] if record.points else record_pb2.Point()
    return (
        STATUSES.get(release.status, ""),
        f"{release.percentage:g} %",
        _side(point.canary),
        _side(point.control),
        VERDICTS[record.verdict],
        record.waits_for,
    )


def _side(found: record_pb2.MetricSnapshot) -> str:
    if not found.performance.requests:
        return "-"
    return f"{found.errors.rate:.1f} % errors, p95 {found.performance.p95_ms:.0f} ms"
