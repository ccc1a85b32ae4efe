"""A service that is killed where it waits: reads "URL MOVE N" lines, answers how each child ended.

The child is a whole decision service with the store at URL, which is asked over gRPC to move the
release of ``shop``. It is killed the moment that call waits for the N-th time, or has done all and
is about to answer. It is forked from a process that has imported everything, for one is made for
every place where a service can die.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from canary.admin.v1 import admin_pb2 as pb
from canary.admin.v1 import admin_pb2_grpc
from canary_engine.release import Move
from decision_svc.editor import Editor
from decision_svc.metrics import Metrics
from decision_svc.rpc.admin import AdminService
from decision_svc.rpc.admin.releases import MOVES
from decision_svc.snapshot import Snapshot
from decision_svc.store.redis import RedisStore
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.service import running_service

SHOP = "shop"


class Killed:
    """Awaits ``work``; this process is killed when it waits for the N-th time, from 0 on.

    Its end counts as one time more.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], waits: int) -> None:
        self._work, self._left = work, waits

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        step = partial(next, inner)
        while True:
            try:
                waited_for = step()
            except StopIteration as stop:
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return stop.value
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
            try:
                yield waited_for
            except BaseException as error:
                step = partial(inner.throw, error)
            else:
                step = partial(next, inner)


def editor_of(store: RedisStore) -> Editor:
    """An editor as the service has it."""
    return Editor(
        store,
        Snapshot(),
        Metrics(),
        clock=lambda: datetime.now(UTC),
        new_id=lambda: secrets.token_hex(4),
    )


def kill_moves(waits: int) -> None:
    """Have this process killed by a call that moves a release, at that wait."""
    move = AdminService.MoveRelease

    async def killed(self: AdminService, request: Any, context: Any) -> Any:
        return await Killed(move(self, request, context), waits)

    setattr(AdminService, move.__name__, killed)


async def serve_one(url: str, which: str) -> None:
    """A service that is asked to move the release."""
    async with (
        running_service(redis_url=url, store_deadline_ms=60_000) as service,
        grpc.aio.insecure_channel(service.admin_address) as channel,
    ):
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        async for answer in watched:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
        change = pb.Change(service_key=SHOP, actor="kim", reason="now or never")
        wanted = next(number for number, move in MOVES.items() if move is Move(which))
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        await stub.MoveRelease(pb.MoveReleaseRequest(change=change, move=wanted))
        os._exit(0)


def main() -> None:
    """Fork a child for each line."""
    for line in sys.stdin:
        url, which, waits = line.split()
        child = os.fork()
        if child == 0:
            kill_moves(int(waits))
            asyncio.run(serve_one(url, which))
            os._exit(1)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


class Writers:
    """Makes services that are killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def move(self, url: str, which: str, waits: int) -> bool:
        """Whether the move was killed; else it came to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(url, which, waits, file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL), f"the writer ended with {code}"
        return code != 0


@contextmanager
def killed_writers() -> Iterator[Writers]:
    """They are forked from a process of their own."""
    folder = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-m", "support.killed_writer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": folder},
    ) as process:
        yield Writers(process)


if __name__ == "__main__":
    # What the service would log is of no interest here, and stdout is for answers.
    import structlog

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    main()
