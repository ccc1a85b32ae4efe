"""Two releases that nobody steers: a good one is promoted, a bad one is rolled back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import yaml
from canary.admin.v1 import admin_pb2 as pb
from canary.admin.v1 import admin_pb2_grpc
from canary.policy.v1 import policy_pb2 as policy_pb
from canary.record.v1 import record_pb2
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from dev_stack import steer
from dev_stack.shown import canaryctl
from dev_stack.stack import ANY_PORT, CANARY, SERVICE_KEY, STABLE, Stack, declared
from dev_stack.steer import DEADLINE_S
from dev_stack.traffic import Traffic

NEXT = "v1.4.0"
VISITORS = [f"visitor-{number}" for number in range(1_000)]
LONGEST_S = 90.0
LOOK_EVERY_S = 0.5
ROW_EVERY_S = 5.0
WINDOW_S = 30
COLUMNS = {
    "after": 6,
    "weight": 6,
    "canary\nerrors, p95": 14,
    "control\nerrors, p95": 14,
    "verdict": 12,
}
AROUND = 8
"""So many lines of a screen are not the table's."""

VERDICTS = {
    record_pb2.VERDICT_UNSPECIFIED: "",
    record_pb2.VERDICT_PASS: "[green]pass[/]",
    record_pb2.VERDICT_FAIL: "[bold red]fail[/]",
    record_pb2.VERDICT_INCONCLUSIVE: "inconclusive",
    record_pb2.VERDICT_ERROR: "[yellow]error[/]",
}
ENDS = {
    policy_pb.RELEASE_STATUS_COMPLETED: "completed",
    policy_pb.RELEASE_STATUS_ROLLED_BACK: "rolled back",
    policy_pb.RELEASE_STATUS_ABANDONED: "abandoned",
}
EVENTS = ("promoted", "rolled-back")
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


class Row(NamedTuple):
    """What the table shows of one moment."""

    weight: str
    canary: str
    control: str
    verdict: str
    why: str


def without_canary(addresses: Mapping[str, str]) -> dict[str, Any]:
    """The gateway's file, whose plugin declares no canary of its own that would rule afterwards."""
    document = declared(addresses)
    document["plugins"] = [{"name": "canary-release"}]
    return document


def tell(stack: Stack, reports: Path) -> None:
    """Both stories; leaves their reports there. Raises Unexpected where one goes otherwise."""
    client = steer.admin(stack.admin_address)
    steer.register_versions(client)
    print("\nNow nobody steers: a controller looks at each release every second. Its plan:")
    steps = ", ".join(f"{step['weight']} % for {step['hold'][:-1]} s" for step in PLAN["steps"])
    print(f"{steps}, then everybody; rolled back as soon as there is proof against it.")
    with Traffic(stack.gateway.address, VISITORS) as traffic:
        print(f"\n{CANARY} is as good as {STABLE}:")
        _release(stack, {"version": CANARY})
        _watch(client, "completed", traffic)
        _ctl(stack, "report", SERVICE_KEY, "-o", str(reports / f"{CANARY}.html"))
        print(f"\n{NEXT} answers every fifth request with 500:")
        stack.upstream_addresses[NEXT] = ANY_PORT
        stack.start_upstream(NEXT, "--fail", "0.2")
        host, _, port = stack.upstream_addresses[NEXT].rpartition(":")
        _release(stack, {"version": NEXT, "backend": {"host": host, "port": int(port)}})
        _watch(client, "rolled back", traffic)
    print("\nWhy, on which evidence, who was exposed, who did what: a page for a browser.")
    _ctl(stack, "report", SERVICE_KEY, "-o", str(reports / f"{NEXT}.html"))


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
    _ctl(stack, "apply", "-f", str(file), "--reason", "the demo", lines=1)


def _watch(client: admin_pb2_grpc.AdminServiceStub, expected: str, traffic: Traffic) -> None:
    """Show a release until its end, and check that it is the one expected, to nobody's harm."""
    before = traffic.answers.copy()
    watch = Watch(client)
    found = watch.until_end(LONGEST_S)
    answers = traffic.answers - before
    failed = {key: n for key, n in answers.items() if key[0] != 200}
    own = failed.pop((500, NEXT), 0)
    print(f"   {found}: {watch.why}")
    others = f"{own} got a 500 of {NEXT}'s own, all others a 200" if own else "all answered 200"
    print(f"   {answers.total():,} requests meanwhile: {others}")
    if found != expected or failed:
        raise Unexpected(f"NOT AS PROMISED: {found or 'no end'}, failed: {failed}")


def _ctl(stack: Stack, *arguments: str, lines: int | None = None) -> None:
    if code := canaryctl(stack.admin_address, *arguments, lines=lines):
        raise Unexpected(f"NOT AS PROMISED: canaryctl ended with {code}")


class Watch:
    """The live table of one release; ``why`` it ended, once it has."""

    def __init__(self, client: admin_pb2_grpc.AdminServiceStub) -> None:
        self._client = client
        self._began = time.monotonic()
        self._rows: list[tuple[float, Row]] = []
        self._console = Console(highlight=False)
        self.why = ""

    def until_end(self, longest_s: float) -> str:
        """Show the release until it has ended, or for so long; how it ended."""
        end, printed = "", 0
        if not self._console.is_terminal:
            for found in self._looks(longest_s):
                for after_s, row in self._rows[printed:]:
                    self._console.print(f"   {after_s:4.1f} s  {'  '.join(filter(None, row))}")
                printed, end = len(self._rows), found
            return end
        with Live(self._table(), console=self._console, auto_refresh=False) as live:
            for found in self._looks(longest_s):
                live.update(self._table(), refresh=True)
                end = found
        return end

    def _looks(self, longest_s: float) -> Iterator[str]:
        """How the release has ended, or "", at every look."""
        while time.monotonic() - self._began < longest_s:
            release, record = self._release(), self._record()
            self._see(_row(release, record, self._sides()))
            yield ENDS.get(release.status, "")
            noted = [event for event in record.events if event.what in EVENTS]
            if release.status in ENDS and noted:
                self.why = noted[-1].why
                return
            time.sleep(LOOK_EVERY_S)

    def _see(self, row: Row) -> None:
        """Go on with the last row, or begin one: at a change, or when that is a while ago."""
        after_s = time.monotonic() - self._began
        if self._rows:
            began_s, last = self._rows[-1]
            is_same = (row.weight, row.verdict) == (last.weight, last.verdict)
            if is_same and after_s - began_s < ROW_EVERY_S:
                self._rows[-1] = (began_s, row)
                return
        self._rows.append((after_s, row))

    def _sides(self) -> dict[int, str]:
        """Errors and p95 of each cohort in the last half minute."""
        request = pb.GetMetricsRequest(service_key=SERVICE_KEY, window_s=WINDOW_S)
        found = self._client.GetMetrics(request, timeout=DEADLINE_S)
        return {one.cohort: _side(one.metrics) for one in found.cohorts}

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
        """The newest rows, each one line, so that they fit the screen."""
        title = f"{SERVICE_KEY}, {datetime.now(UTC):%H:%M:%S} UTC"
        table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", expand=True)
        for name, width in COLUMNS.items():
            table.add_column(name, no_wrap=True, width=width)
        table.add_column("why, or what it waits for", no_wrap=True, overflow="ellipsis", ratio=1)
        for after_s, row in self._rows[-max(self._console.height - AROUND, 5) :]:
            table.add_row(f"{after_s:.1f} s", *row)
        return table


def _row(
    release: policy_pb.Release, record: record_pb2.ReleaseRecord, sides: Mapping[int, str]
) -> Row:
    end = ENDS.get(release.status, "")
    return Row(
        weight="all" if end == "completed" else f"{release.percentage:g} %",
        canary=sides.get(policy_pb.COHORT_DRAWN, "-"),
        control=sides.get(policy_pb.COHORT_CONTROL, "-"),
        verdict=VERDICTS[record.verdict],
        why=f"[bold]{end}[/]" if end else escape(record.waits_for),
    )


def _side(found: record_pb2.MetricSnapshot) -> str:
    if not found.performance.requests:
        return "-"
    return f"{found.errors.rate:.1f} %, {found.performance.p95_ms:.0f} ms"
