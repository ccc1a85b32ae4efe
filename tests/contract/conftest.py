"""The adapters that every contract test of the store runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from decision_svc.store.connection import Connection
from decision_svc.store.memory import MemoryStore
from decision_svc.store.redis import RedisStore
from redis.asyncio import Redis
from support.redis_server import RedisServer, running_redis

Store = MemoryStore | RedisStore
Opens = Callable[[], Store]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[Opens]:
    """Opens the same, at first empty, store once more: another process's view of it."""
    async with AsyncExitStack() as at_end:
        if request.param == "memory":
            only = MemoryStore()
            yield lambda: only
            return
        server: RedisServer = request.getfixturevalue("redis_server")
        await _empty(server)

        def open_another() -> Store:
            store = RedisStore.connect(server.url, timeout_s=10)
            at_end.push_async_callback(store.aclose)
            return store

        yield open_another


@pytest.fixture
def store(open_store: Opens) -> Store:
    return open_store()


@pytest.fixture
async def connections(redis_server: RedisServer) -> AsyncIterator[Callable[[], Connection]]:
    """Opens another connection to the same, at first empty, Redis: another replica's."""
    await _empty(redis_server)
    async with AsyncExitStack() as at_end:

        def open_another() -> Connection:
            connection = Connection.to(redis_server.url, timeout_s=10, connect_timeout_s=10)
            at_end.push_async_callback(connection.aclose)
            return connection

        yield open_another


async def _empty(server: RedisServer) -> None:
    async with Redis.from_url(server.url) as client:
        await client.flushall()
