"""The controller: CPU of a tick over 1,000 releases, and from a breach to nobody on the canary."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import grpc
import uvloop
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary_controller.__main__ import collect_rarely
from canary_controller.app import Running, assembled
from canary_controller.settings import Settings
from harness import timed_service
from harness.breaches import WELL_S, breaches, start_release
from harness.results import Goal, Row, report, row

RELEASES = 1_000
TICKS = 25
WARM_S, WARM_EVERY_S = 75, 5
"""Until then slots are complete, judged and forgotten, and every record was written once."""
AT_ONCE = 16
ROUNDS = 5
PLAN = {
    "steps": [
        {"weight": 5, "hold": "30m", "min_samples": 500},
        {"weight": 20, "hold": "1h", "min_samples": 2_000},
        {"weight": 50, "hold": "1h", "gates": [{"kind": "approval"}]},
    ],
    "success": [
        {"metric": "error-rate", "max": 5},
        {"metric": "error-rate", "max": 200, "of_stable": True},
        {"metric": "p95-response-time", "max": 500},
        {"metric": "p99-response-time", "max": 150, "of_stable": True},
    ],
}
"""Alerts and rollback conditions are the defaults: five limits and three."""


def main() -> None:
    """Measure and report."""
    at_most = Goal(limit=1.0, of="value", at_most=True)
    collect_rarely()
    took = uvloop.run(_ticks())
    rows = [
        row(f"CPU of a tick, {RELEASES:,} releases", took, "s", goal=at_most),
        row("CPU of a tick, mean", [fmean(took)], "s", goal=at_most),
        row("CPU of the costliest tick", [max(took)], "s"),
    ]
    with tempfile.TemporaryDirectory(prefix="canary-bench-") as folder:
        found = asyncio.run(breaches(Path(folder), ROUNDS))
    rows += _breach_rows(found)
    report(
        "controller",
        rows,
        [
            f"{RELEASES:,} releases, {TICKS} ticks; gateways tell every second of three cohorts of "
            "each; CPU of the controller's process with all its threads, from tick to tick",
            f"{ROUNDS} breaches at 50 %, each after {WELL_S:g} s in which all was well: from the "
            "first request that fails to the last that a canary answers",
        ],
    )


def _breach_rows(found: list[float]) -> list[Row]:
    at_most = Goal(limit=2.0, of="value", at_most=True)
    return [
        row("breach to the last answer of the canary", found, "s", goal=at_most),
        row("the slowest of them", [max(found)], "s"),
    ]


async def _ticks() -> list[float]:
    """CPU seconds of each tick once it is warm, with all that is done between it and the next."""
    async with _service() as service:
        admin = await service.says()
        releases = await _start(admin, [f"service-{number}" for number in range(RELEASES)])
        settings = Settings(
            admin=admin, holder="bench", metrics_listen="", lease_s=300, call_deadline_ms=60_000
        )
        async with assembled(settings) as running:
            for second in range(WARM_S):
                await service.passes(releases)
                if second % WARM_EVERY_S == 0:
                    await _tick(running)
            return [await _measured(running, service, releases) for _ in range(TICKS)]


async def _measured(running: Running, service: _Service, releases: bytes) -> float:
    began = time.process_time()
    await service.passes(releases)
    await _tick(running)
    return time.process_time() - began


async def _tick(running: Running) -> None:
    await running.controller.tick()
    if not running.controller.is_well:
        raise SystemExit("controller: a tick failed")


async def _start(address: str, keys: list[str]) -> bytes:
    """A release of every service key at its first step; their ids, as the service wants them."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        places = asyncio.Semaphore(AT_ONCE)

        async def one(key: str) -> str:
            async with places:
                await start_release(stub, key, PLAN, 5)
                request = admin_pb2.GetPolicyRequest(service_key=key)
                return str((await stub.GetPolicy(request)).policy.release.id)

        found = await asyncio.gather(*map(one, keys))
    return json.dumps(dict(zip(keys, found, strict=True))).encode() + b"\n"


class _Service:
    """A decision service in a process of its own, whose seconds pass when it is told."""

    def __init__(self, child: Process) -> None:
        self._child = child

    async def says(self) -> str:
        """Its next line."""
        assert self._child.stdout is not None, "it is a pipe"
        if not (line := await self._child.stdout.readline()):
            raise SystemExit("controller: the decision service ended")
        return line.decode().strip()

    async def passes(self, releases: bytes) -> None:
        """Another second, with outcomes of all the releases."""
        assert self._child.stdin is not None, "it is a pipe"
        self._child.stdin.write(releases)
        await self.says()


@asynccontextmanager
async def _service() -> AsyncIterator[_Service]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, timed_service.__file__, stdin=PIPE, stdout=PIPE
    )
    try:
        yield _Service(child)
    finally:
        assert child.stdin is not None, "it is a pipe"
        child.stdin.close()
        await child.wait()


if __name__ == "__main__":
    main()
