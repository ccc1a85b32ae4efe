"""What the Redis adapter does when Redis is down, silent, or loses an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from canary_engine.model import Profile
from decision_svc.store import was_saved
from decision_svc.store.connection import Connection
from decision_svc.store.protocol import (
    LostRace,
    StoreUnavailable,
)
from decision_svc.store.redis import RedisStore
from decision_svc.store.servers import OneServer
from redis.asyncio import Redis
from support.calls import until
from support.redis_server import RedisServer, free_port, running_redis
from support.redis_store import opened, record, write

TIMEOUT_S = 0.5
# For a machine that is busy; without a deadline, a silent server would be waited for for ever.
SLACK_S = 8.0

OPERATIONS: dict[str, Callable[[RedisStore], Awaitable[Any]]] = {
    "revisions": lambda store: store.revisions(),
    "load": lambda store: store.load("shop"),
    "save": lambda store: write(store, 2),
    "changes": lambda store: store.changes("shop"),
    "listed_in": lambda store: store.listed_in("shop", "u1", ["beta"]),
    "members": lambda store: store.members("shop", "beta"),
    "profile": lambda store: store.profile("u1"),
    "put_profile": lambda store: store.put_profile("u1", Profile(tier="premium")),
    "watch": lambda store: anext(store.watch()),
    "watch_profiles": lambda store: anext(store.watch_profiles()),
}
every_operation = pytest.mark.parametrize("ask", OPERATIONS.values(), ids=OPERATIONS.keys())


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis(appendonly=True) as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    async with opened(server.url) as store:
        yield store


@pytest.fixture
async def impatient(server: RedisServer) -> AsyncIterator[RedisStore]:
    """It is connected, which on a busy machine may have taken more than one try."""
    async with opened(server.url, timeout_s=TIMEOUT_S) as store:
        await until_answered(store)
        yield store


async def until_answered(store: RedisStore) -> None:
    async def is_answered() -> bool:
        with suppress(StoreUnavailable):
            await store.revisions()
            return True
        return False

    await until(is_answered)


async def assert_unavailable(answer: Awaitable[Any], within_s: float) -> str:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await answer
    assert time.monotonic() - started < within_s
    return str(caught.value)


@every_operation
async def test_a_killed_server_is_unavailable_in_time(
    server: RedisServer, impatient: RedisStore, ask: Callable[[RedisStore], Awaitable[Any]]
) -> None:
    server.kill()
    for _ in range(2):
        told = await assert_unavailable(ask(impatient), TIMEOUT_S + SLACK_S)
        assert str(server.socket_path) in told


@every_operation
async def test_a_silent_server_is_unavailable_in_time(
    server: RedisServer, impatient: RedisStore, ask: Callable[[RedisStore], Awaitable[Any]]
) -> None:
    server.freeze()
    told = await assert_unavailable(ask(impatient), TIMEOUT_S + SLACK_S)
    assert str(server.socket_path) in told


@every_operation
async def test_a_server_that_is_back_is_used_again(
    server: RedisServer, store: RedisStore, ask: Callable[[RedisStore], Awaitable[Any]]
) -> None:
    await write(store, 1)
    server.kill()
    await assert_unavailable(store.revisions(), TIMEOUT_S + SLACK_S)
    server.start()
    await ask(store)
    assert await store.load("shop", 1) == {"revision": 1}


async def test_a_restart_between_two_questions_goes_unnoticed(
    server: RedisServer, store: RedisStore
) -> None:
    await write(store, 1)
    await asyncio.to_thread(server.restart)
    await write(store, 2)
    assert await store.revisions() == {"shop": 2}


async def test_acknowledged_writes_survive_a_kill_of_a_server_that_syncs(
    server: RedisServer, store: RedisStore
) -> None:
    for revision in range(1, 11):
        await write(store, revision)
    server.kill()
    await asyncio.to_thread(server.start)
    assert await store.revisions() == {"shop": 10}
    assert [await store.load("shop", revision) for revision in range(1, 11)] == [
        {"revision": revision} for revision in range(1, 11)
    ]
    assert (await store.members("shop", "beta"))[2] == 10


async def test_many_impatient_callers_leave_no_connection_behind(
    server: RedisServer, store: RedisStore
) -> None:
    async with opened(server.url, timeout_s=TIMEOUT_S, max_connections=2) as narrow:
        await write(store, 1)
        await until_answered(narrow)
        server.freeze()
        callers = [asyncio.create_task(narrow.load("shop")) for _ in range(40)]
        await asyncio.sleep(0)
        for caller in callers[::2]:
            caller.cancel()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {asyncio.CancelledError, StoreUnavailable}
        server.thaw()

        async def are_all_answered() -> bool:
            questions = (narrow.load("shop") for _ in range(50))
            answers = await asyncio.gather(*questions, return_exceptions=True)
            return answers == [{"revision": 1}] * 50

        await until(are_all_answered)


async def test_a_watch_breaks_with_the_server_and_can_be_begun_again(
    server: RedisServer, store: RedisStore
) -> None:
    async with aclosing(store.watch()) as announcements:
        assert await anext(announcements) == ""
        server.kill()
        await assert_unavailable(anext(announcements), TIMEOUT_S + SLACK_S)
    server.start()
    async with aclosing(store.watch()) as announcements:
        assert await anext(announcements) == ""
        await write(store, 1)
        assert await anext(announcements) == "shop"


async def test_a_watch_breaks_although_the_server_is_back_at_once(
    server: RedisServer, store: RedisStore
) -> None:
    async with aclosing(store.watch()) as announcements:
        assert await anext(announcements) == ""
        await asyncio.to_thread(server.restart)
        await write(store, 1)
        await assert_unavailable(anext(announcements), TIMEOUT_S + SLACK_S)


async def test_a_watch_of_a_peer_that_vanished_breaks(server: RedisServer) -> None:
    async with (
        opened(server.url, timeout_s=2.0, silence_s=0.05) as store,
        aclosing(store.watch()) as announcements,
    ):
        assert await anext(announcements) == ""
        server.freeze()
        with pytest.raises(StoreUnavailable, match="the connection fell silent"):
            await anext(announcements)


async def test_a_watch_outlives_quiet_times(server: RedisServer) -> None:
    async with (
        opened(server.url, silence_s=0.01) as store,
        aclosing(store.watch()) as announcements,
        Redis.from_url(server.url) as client,
    ):
        assert await anext(announcements) == ""
        hearing = asyncio.ensure_future(anext(announcements))

        async def was_asked_often() -> bool:
            stats = await client.info("commandstats")
            return int(stats.get("cmdstat_ping", {"calls": 0})["calls"]) > 5

        await until(was_asked_often)
        await write(store, 1)
        assert await hearing == "shop"


async def test_watches_that_end_give_their_connections_back(server: RedisServer) -> None:
    async with opened(server.url, max_connections=2) as store, Redis.from_url(server.url) as client:
        for _ in range(6):
            async with aclosing(store.watch()) as announcements:
                assert await anext(announcements) == ""
        for _ in range(6):
            watching = asyncio.ensure_future(anext(store.watch()))
            await asyncio.sleep(0)
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

        async def nobody_listens() -> bool:
            return await client.client_list(_type="pubsub") == []

        await until(nobody_listens)
        await write(store, 1)


@pytest.mark.parametrize("revision", [1, 2])
async def test_a_write_whose_answer_is_lost_is_neither_repeated_nor_doubled(
    server: RedisServer, store: RedisStore, revision: int
) -> None:
    for earlier in range(1, revision):
        await write(store, earlier)
    async with Relay(server).running() as relay, opened(relay.url) as unlucky:
        await assert_unavailable(write(unlucky, revision), TIMEOUT_S + SLACK_S)
        assert relay.scripts_seen == 1

    with pytest.raises(LostRace) as caught:
        await write(store, revision)
    assert caught.value.current == revision
    assert await was_saved(store, "shop", record(revision))
    assert len(await store.changes("shop")) == revision


async def test_an_injected_client_that_would_retry_does_not(
    server: RedisServer, store: RedisStore
) -> None:
    await write(store, 1)
    async with Relay(server).running() as relay:
        eager = Redis(unix_socket_path=str(relay.path))
        async with eager:
            await assert_unavailable(
                write(RedisStore(Connection(OneServer(eager))), 2), TIMEOUT_S + SLACK_S
            )
        assert relay.scripts_seen == 1
    assert await store.revisions() == {"shop": 2}


async def test_a_refused_password_is_unavailable_and_stays_secret(server: RedisServer) -> None:
    port = free_port()
    with running_redis(port=port, options=("--requirepass", "right")):
        for url in (f"redis://:hunter2@127.0.0.1:{port}", f"redis://ada:hunter2@127.0.0.1:{port}"):
            async with opened(url) as store:
                told = await assert_unavailable(store.revisions(), TIMEOUT_S + SLACK_S)
                assert f"127.0.0.1:{port}" in told
                assert "hunter2" not in told
        async with opened(f"redis://:right@127.0.0.1:{port}") as store:
            await write(store, 1)
            assert await store.revisions() == {"shop": 1}


async def test_a_port_nobody_listens_on_is_unavailable_and_the_password_stays_secret() -> None:
    port = free_port()
    async with opened(f"redis://ada:hunter2@127.0.0.1:{port}") as store:
        told = await assert_unavailable(store.revisions(), TIMEOUT_S + SLACK_S)
        assert f"127.0.0.1:{port}" in told
        assert "hunter2" not in told


async def test_a_server_that_refuses_writes_is_unavailable_and_still_read(
    server: RedisServer, store: RedisStore
) -> None:
    await write(store, 1)
    async with Redis.from_url(server.url) as client:
        await client.replicaof("127.0.0.1", str(free_port()))
        await assert_unavailable(write(store, 2), TIMEOUT_S + SLACK_S)
        assert await store.load("shop") == {"revision": 1}
        await client.replicaof("NO", "ONE")
    await write(store, 2)


async def test_a_full_server_refuses_a_write_whole(server: RedisServer, store: RedisStore) -> None:
    await write(store, 1)
    async with Redis.from_url(server.url) as client:
        await client.config_set("maxmemory", "1")
        await assert_unavailable(write(store, 2), TIMEOUT_S + SLACK_S)
        await client.config_set("maxmemory", "0")
    assert await store.revisions() == {"shop": 1}
    assert await store.load("shop", 2) is None
    assert (await store.members("shop", "beta"))[2] == 1
    await write(store, 2)


class Relay:
    """Passes bytes between clients and a server, and hangs up when a script was answered."""

    def __init__(self, server: RedisServer) -> None:
        self.path: Path = server.directory / "relay"
        self.url = f"unix://{self.path}"
        self.scripts_seen = 0
        self._server = server
        self._at_work: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        listener = await asyncio.start_unix_server(self._serve, self.path)
        async with listener:
            yield self
            await asyncio.gather(*self._at_work)

    async def _serve(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        current = asyncio.current_task()
        assert current is not None
        self._at_work.add(current)
        current.add_done_callback(self._at_work.discard)
        from_server, to_server = await asyncio.open_unix_connection(self._server.socket_path)
        answering = asyncio.create_task(self._answer(from_server, to_client))
        while question := await from_client.read(2**16):
            self.scripts_seen += question.count(b"EVALSHA")
            to_server.write(question)
            await to_server.drain()
        to_server.close()
        await answering
        await to_server.wait_closed()

    async def _answer(
        self, from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        while answer := await from_server.read(2**16):
            if self.scripts_seen and not answer.startswith(b"-NOSCRIPT"):
                break
            self.scripts_seen = 0
            to_client.write(answer)
        to_client.close()
        with suppress(ConnectionError):
            await to_client.wait_closed()
