"""A decision service inside the test's process, on free ports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
from decision_svc.app import Running, running
from decision_svc.settings import Settings
from grpc_health.v1 import health_pb2, health_pb2_grpc

ANY_PORT = "127.0.0.1:0"
# Nothing listens there, and connecting fails at once.
NOWHERE = "unix:/nonexistent/decision-service"
READY_S = 60.0


@asynccontextmanager
async def running_service(**settings: Any) -> AsyncIterator[Running]:
    """A service with its own memory store, or the store that ``redis_url`` names.

    It asks nobody for credentials unless an ``access_file`` is given.
    """
    chosen = {"listen": ANY_PORT, "admin_listen": ANY_PORT, "metrics_listen": ""} | settings
    chosen.setdefault("insecure", "access_file" not in settings)
    async with running(Settings(**{"drain_s": 0.1, **chosen})) as addresses:
        yield addresses


@contextmanager
def serve_in_thread(**settings: Any) -> Iterator[Running]:
    """The same for tests that are not async."""
    started: threading.Event = threading.Event()
    found: list[Running] = []
    failed: list[BaseException] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        end = asyncio.Event()
        stop.append((asyncio.get_running_loop(), end))
        async with running_service(**settings) as addresses:
            found.append(addresses)
            started.set()
            await end.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="decision-service")
    thread.start()
    started.wait()
    if failed:
        raise failed[0]
    try:
        yield found[0]
    finally:
        loop, end = stop[0]
        loop.call_soon_threadsafe(end.set)
        thread.join()


def await_ready(service: Running) -> None:
    """Wait until the service says by health that it has read the policies."""
    with grpc.insecure_channel(service.decision_address) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=READY_S
        )
        for answer in watched:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
