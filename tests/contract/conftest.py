"""The adapters that every contract test of the store runs over.

They may do in Redis what docs/operating.md lets them, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from decision_svc.store.connection import Connection
from decision_svc.store.memory import MemoryStore
from decision_svc.store.redis import RedisStore
from redis.asyncio import Redis
from support.redis_cluster import RedisCluster, running_cluster
from support.redis_server import RedisServer, running_redis

Store = MemoryStore | RedisStore
Opens = Callable[[], Store]
OpensConnection = Callable[[], Connection]
PAGE = Path(__file__).resolve().parents[2] / "docs/operating.md"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with running_redis(options=_user()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    with running_cluster(*_user("+cluster|slots")) as cluster:
        yield cluster


@pytest.fixture(params=["memory", "redis", "cluster"])
def open_store(request: pytest.FixtureRequest) -> Opens:
    """Opens the same, at first empty, store once more: another process's view of it."""
    if request.param == "memory":
        only = MemoryStore()
        return lambda: only
    connections: OpensConnection = request.getfixturevalue(f"{request.param}_connections")
    return lambda: RedisStore(connections())


@pytest.fixture
def store(open_store: Opens) -> Store:
    return open_store()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of the server that ``redis_connections`` go to, which is empty at first."""
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def redis_connections(
    redis: Redis, redis_server: RedisServer
) -> AsyncIterator[OpensConnection]:
    """Opens another connection to the same, at first empty, Redis: another replica's."""
    async with AsyncExitStack() as at_end:
        yield _opens(_as_user(redis_server.url), at_end)


@pytest.fixture
async def cluster_connections(redis_cluster: RedisCluster) -> AsyncIterator[OpensConnection]:
    """The same, to a cluster."""
    redis_cluster.empty()
    async with AsyncExitStack() as at_end:
        yield _opens(_as_user(redis_cluster.url), at_end)


def _user(*more: str) -> Sequence[str]:
    """The options of a Redis that has the page's user besides its own, with ``more`` rights."""
    [rights] = re.findall(r"^user canary (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    return ("--user", "canary", *rights.split(), *more)


def _as_user(url: str) -> str:
    return url.replace("://", "://canary:PASSWORD@")


def _opens(url: str, at_end: AsyncExitStack) -> OpensConnection:
    def open_another() -> Connection:
        connection = Connection.to(url, timeout_s=60, connect_timeout_s=60)
        at_end.push_async_callback(connection.aclose)
        return connection

    return open_another
