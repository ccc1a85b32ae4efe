"""The controller: CPU of a tick over 1,000 releases, and from a breach to nobody on the canary."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import grpc
from canary.admin.v1 import admin_pb2 as admin_pb
from canary.admin.v1 import admin_pb2_grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary.policy.v1 import policy_pb2
from canary_controller.app import Running, assembled
from canary_controller.settings import Settings
from canary_documents import to_message
from canary_engine.histogram import Histogram
from dev_stack.processes import Process
from dev_stack.stack import CANARY, CANARY_UPSTREAM, SERVICE_KEY, STABLE, Plan, Stack, declared
from harness.results import Goal, Row, report, row

RELEASES = 1_000
TICKS = 60
WARM = 15
MOST_REQUESTS = 40
AT_ONCE = 32
ROUNDS = 7
CLIENTS = 16
WELL_S = 15.0
LONGEST_S = 10.0
ANY_PORT = "127.0.0.1:0"
CANARY_PLAN = {"steps": [{"weight": 50, "hold": "1h"}], "check_interval": "1m"}
VERSIONS = [
    {"version": STABLE, "status": "stable"},
    {"version": CANARY, "backend": {"upstream": CANARY_UPSTREAM}},
]
COHORTS = (
    (CANARY, policy_pb2.VARIANT_CANARY, policy_pb2.COHORT_DRAWN, 1),
    (STABLE, policy_pb2.VARIANT_STABLE, policy_pb2.COHORT_CONTROL, 4),
    (CANARY, policy_pb2.VARIANT_CANARY, policy_pb2.COHORT_CHOSEN, 1),
)


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory(prefix="canary-bench-") as folder:
        rows = asyncio.run(_ticks(Path(folder)))
    notes = [
        f"{RELEASES:,} releases, {TICKS} ticks of a second, in each of which every release had new "
        "outcomes of three cohorts; CPU of the controller's process, threads of gRPC and all"
    ]
    with tempfile.TemporaryDirectory(prefix="canary-bench-") as folder:
        found = asyncio.run(_breaches(Path(folder)))
    rows.append(
        row(
            "breach to the last answer of the canary",
            found,
            "s",
            goal=Goal(limit=2.0, of="value", at_most=True),
        )
    )
    notes.append(
        f"{ROUNDS} breaches at 50 %, each after {WELL_S:g} s in which all was well: from the first "
        f"request that fails to the last that a canary answers; the slowest took {max(found):.2f} s"
    )
    report("controller", rows, notes)


async def _ticks(run_dir: Path) -> list[Row]:
    with _service(run_dir) as (decision, admin):
        async with grpc.aio.insecure_channel(decision) as channel:
            stub: Any = decision_pb2_grpc.DecisionServiceStub(channel)
            keys = [f"service-{number}" for number in range(RELEASES)]
            releases = await _start(admin, keys)
            settings = Settings(admin=admin, holder="bench", metrics_listen="", lease_s=300)
            settings = replace(settings, call_deadline_ms=30_000)
            async with assembled(settings) as running:
                took = await _measured(running, stub, releases)
    at_most = Goal(limit=1.0, of="value", at_most=True)
    return [
        row(f"CPU of a tick, {RELEASES:,} releases", took, "s", goal=at_most),
        row("CPU of the costliest tick", [max(took)], "s", goal=at_most),
    ]


async def _measured(running: Running, stub: Any, releases: dict[str, str]) -> list[float]:
    """CPU seconds of each tick; what tells the outcomes runs in between and is not counted."""
    chance, took = Random(1), []
    for number in range(WARM + TICKS):
        began = time.monotonic()
        await _tell(stub, releases, f"batch-{number}", chance)
        cpu = time.process_time()
        await running.controller.tick()
        if number >= WARM:
            took.append(time.process_time() - cpu)
        await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))
    assert running.controller.is_well, "a tick failed"
    return took


async def _tell(stub: Any, releases: dict[str, str], batch: str, chance: Random) -> None:
    """One more second of traffic for every release."""
    keys = list(releases)
    for start in range(0, len(keys), 50):
        series = [
            _series(key, releases[key], *cohort, chance)
            for key in keys[start : start + 50]
            for cohort in COHORTS
        ]
        request = pb.ReportOutcomesRequest(batch_id=f"{batch}-{start}", series=series)
        await stub.ReportOutcomes(request)


def _series(
    key: str, release: str, version: str, variant: Any, cohort: Any, times: int, chance: Random
) -> pb.OutcomeSeries:
    requests = chance.randint(1, MOST_REQUESTS * times)
    histogram = Histogram()
    for _ in range(requests):
        histogram.add(int(chance.lognormvariate(10.5, 0.8)))
    buckets = list(histogram)
    latency = pb.LatencyHistogram(
        buckets=[bucket for bucket, _ in buckets],
        counts=[count for _, count in buckets],
        sum_us=histogram.sum_us,
    )
    failed = sum(chance.random() < 0.005 for _ in range(requests))
    statuses = {200: requests - failed, 500: failed} if failed else {200: requests}
    return pb.OutcomeSeries(
        service_key=key, version=version, variant=variant, release_id=release, cohort=cohort,
        statuses=statuses, request=latency,
    )  # fmt: skip


async def _start(address: str, keys: list[str]) -> dict[str, str]:
    """A release of every service key at 50 %; their ids."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        places = asyncio.Semaphore(AT_ONCE)

        async def one(key: str) -> str:
            async with places:
                await _release(stub, key, 50)
                policy = (await stub.GetPolicy(admin_pb.GetPolicyRequest(service_key=key))).policy
                return str(policy.release.id)

        found = await asyncio.gather(*map(one, keys))
    return dict(zip(keys, found, strict=True))


async def _release(stub: Any, key: str, percentage: float) -> None:
    change = admin_pb.Change(service_key=key, actor="bench", reason="benchmark")
    policy = to_message({"versions": VERSIONS, "plan": CANARY_PLAN}, policy_pb2.Policy)
    await stub.Apply(admin_pb.ApplyRequest(change=change, policy=policy))
    start = admin_pb.StartReleaseRequest(
        change=change, version=CANARY, percentage=percentage, despite_rollback="once more"
    )
    await stub.StartRelease(start)


@contextmanager
def _service(run_dir: Path) -> Iterator[tuple[str, str]]:
    """A decision service with a store in memory; where decisions are made, and the admin API."""
    command = [sys.executable, "-m", "decision_svc", "--insecure", "--metrics-listen="]
    command += [f"--listen={ANY_PORT}", f"--admin-listen={ANY_PORT}"]
    process = Process("decision service", command, run_dir / "service.log", ready_word='"ready"')
    ready = json.loads(process.start())
    try:
        yield ready["decision"], ready["admin"]
    finally:
        process.stop()


async def _breaches(run_dir: Path) -> list[float]:
    """Seconds from each breach to the last answer of the canary."""
    with Stack(Plan(run_dir=run_dir, controller=(), declare=_declared)) as stack:
        stack.upstreams[CANARY].stop()
        stack.start_upstream(CANARY, "--fail", "1", "--only", "x-day=bad")
        found = []
        async with grpc.aio.insecure_channel(stack.admin_address) as channel:
            stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
            async with _load(stack.gateway.address) as load:
                for _ in range(ROUNDS):
                    await _release(stub, SERVICE_KEY, 50)
                    found.append(await _breach(load, stub))
        return found


def _declared(addresses: Mapping[str, str]) -> dict[str, Any]:
    """A gateway whose own baseline gives nobody the canary, also when there is no release."""
    document = declared(addresses)
    document["plugins"][0]["config"]["percentage"] = 0
    return document


class _Load:
    """Requests through the gateway, of days that are good until they are bad."""

    def __init__(self) -> None:
        self.day = "good"
        self.last_canary = 0.0


async def _breach(load: _Load, stub: Any) -> float:
    load.day = "good"
    await asyncio.sleep(WELL_S)
    load.day, began = "bad", time.monotonic()
    await asyncio.sleep(LONGEST_S)
    if await _status(stub) != policy_pb2.RELEASE_STATUS_ROLLED_BACK:
        raise SystemExit(f"controller: not rolled back within {LONGEST_S:g} s of the breach")
    return load.last_canary - began


async def _status(stub: Any) -> Any:
    request = admin_pb.GetPolicyRequest(service_key=SERVICE_KEY)
    return (await stub.GetPolicy(request)).policy.release.status


@asynccontextmanager
async def _load(address: str) -> AsyncIterator[_Load]:
    load, users = _Load(), [f"user-{number}" for number in range(2_000)]
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def ask(client: int) -> None:
            chance = Random(client)
            while True:
                headers = {"x-user-id": chance.choice(users), "x-day": load.day}
                async with session.get(f"http://{address}/api/v1/hello", headers=headers) as answer:
                    if (await answer.json())["version"] == CANARY:
                        load.last_canary = time.monotonic()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(client)) for client in range(CLIENTS)]
            yield load
            for task in tasks:
                task.cancel()


if __name__ == "__main__":
    main()
