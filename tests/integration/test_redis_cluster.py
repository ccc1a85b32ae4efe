"""The Redis adapter on a cluster: slots that move, servers that are gone, and URLs."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from canary_engine.model import Cohort, Profile, Variant
from canary_engine.outcomes import Labels, Tally
from decision_svc.outcomes.protocol import SLOT_S, Found, Reported, Wanted
from decision_svc.outcomes.redis import RedisOutcomes
from decision_svc.records.protocol import Record, RecordKey, RecordState
from decision_svc.records.redis import RedisRecords
from decision_svc.store.connection import Connection, slot_key
from decision_svc.store.protocol import (
    UNREACHABLE,
    Link,
    StoreError,
    StoreUnavailable,
    Tail,
)
from decision_svc.store.redis import RedisStore
from decision_svc.store.servers import Asked
from redis.asyncio import Redis
from redis.crc import key_slot
from support.calls import until
from support.redis_cluster import MASTERS, RedisCluster, free_ports, running_cluster
from support.redis_server import RedisServer, free_port, running_redis
from support.redis_store import PATIENCE_S, opened, write

TIMEOUT_S = 0.5
INDEX = "canary:services"
NOW_S = time.time()
PAGE = Path(__file__).resolve().parents[2] / "docs/operating.md"


@pytest.fixture(scope="module")
def whole() -> Iterator[RedisCluster]:
    with running_cluster("--cluster-require-full-coverage", "no", appendonly=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(whole: RedisCluster) -> RedisCluster:
    whole.empty()
    return whole


@pytest.fixture
async def store(cluster: RedisCluster) -> AsyncIterator[RedisStore]:
    async with opened(cluster.url) as store:
        yield store


def keepers(cluster: RedisCluster) -> dict[int, str]:
    """A service key for each server, by its place among the servers."""
    found: dict[int, str] = {}
    names = (f"shop-{number}" for number in range(1_000))
    while len(found) < MASTERS:
        name = next(names)
        found.setdefault(cluster.servers.index(cluster.keeper(slot_key(name))), name)
    return found


def index_at(cluster: RedisCluster) -> int:
    """The place of the server that keeps the index of service keys."""
    return cluster.servers.index(cluster.keeper(INDEX))


async def assert_unavailable(answer: Awaitable[Any], *words: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await answer
    for word in words:
        assert word in str(caught.value)


async def test_every_server_keeps_a_part(cluster: RedisCluster, store: RedisStore) -> None:
    names = keepers(cluster)
    for name in names.values():
        await write(store, 1, name)
    assert await store.revisions() == dict.fromkeys(names.values(), 1)
    for at, server in enumerate(cluster.servers):
        async with Redis.from_url(server.tcp_url) as client:
            kept = {key async for key in client.scan_iter(match="canary:*:policy")}
        assert kept == {slot_key(names[at], "policy").encode()}


async def test_questions_to_several_servers_are_answered_in_their_order(
    cluster: RedisCluster,
) -> None:
    connection = Connection.to(cluster.url, timeout_s=PATIENCE_S)
    names = [f"k{number}" for number in range(300)]
    await connection.ask_all([Asked(name, _sets(name)) for name in names])
    assert await connection.ask_all([Asked(name, _gets(name)) for name in names]) == [
        name.encode() for name in names
    ]
    await connection.aclose()


def _sets(name: str) -> Callable[[Redis], Any]:
    return lambda redis: redis.set(name, name)


def _gets(name: str) -> Callable[[Redis], Any]:
    return lambda redis: redis.get(name)


class Moving:
    """The slot of ``shop`` on its way from one server to the next one, as redis-cli moves it."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.slot = key_slot(slot_key("shop").encode())
        self.here = cluster.keeper(slot_key("shop"))
        at = cluster.servers.index(self.here)
        self.there = cluster.servers[(at + 1) % MASTERS]
        self._servers = cluster.servers

    async def begin(self) -> None:
        """Nothing is moved yet; what is not here is asked for there."""
        here, there = await self._id(self.here), await self._id(self.there)
        await _call(self.there, "CLUSTER SETSLOT", self.slot, "IMPORTING", here)
        await _call(self.here, "CLUSTER SETSLOT", self.slot, "MIGRATING", there)

    async def keys(self) -> None:
        """Move the keys that are here."""
        for key in await _call(self.here, "CLUSTER GETKEYSINSLOT", self.slot, 100):
            await _call(self.here, "MIGRATE", "127.0.0.1", self.there.port, key, 0, 10_000)

    async def end(self) -> None:
        """The slot is there."""
        there = await self._id(self.there)
        for server in (self.there, *(s for s in self._servers if s is not self.there)):
            await _call(server, "CLUSTER SETSLOT", self.slot, "NODE", there)

    async def _id(self, server: RedisServer) -> str:
        found: bytes = await _call(server, "CLUSTER MYID")
        return found.decode()


async def _call(server: RedisServer, *command: Any) -> Any:
    async with Redis.from_url(server.tcp_url) as client:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]


@pytest.fixture
async def moving(cluster: RedisCluster) -> AsyncIterator[Moving]:
    moving = Moving(cluster)
    yield moving
    cluster.empty()
    moving.here, moving.there = moving.there, moving.here
    await moving.begin()
    await moving.end()


async def test_a_slot_that_was_moved_is_found(
    cluster: RedisCluster, store: RedisStore, moving: Moving
) -> None:
    await write(store, 1)
    await moving.begin()
    await moving.keys()
    await moving.end()
    assert await store.load("shop") == {"revision": 1}
    await write(store, 2)
    assert await store.revisions() == {"shop": 2}
    assert await _call(moving.there, "EXISTS", slot_key("shop", "policy")) == 1


async def test_questions_that_were_sent_together_find_a_moved_slot_too(
    cluster: RedisCluster, store: RedisStore, moving: Moving
) -> None:
    await write(store, 1)
    await moving.begin()
    await moving.keys()
    await moving.end()
    assert await store.listed_in("shop", "u1", ["beta", "other"]) == {"beta"}


async def test_while_a_slot_is_moved_what_is_there_already_is_asked_for_there(
    cluster: RedisCluster, store: RedisStore, moving: Moving
) -> None:
    await write(store, 1)
    await moving.begin()
    await moving.keys()
    assert await store.load("shop") == {"revision": 1}
    assert await store.listed_in("shop", "u1", ["beta"]) == {"beta"}
    await moving.end()
    assert await store.load("shop") == {"revision": 1}


async def test_a_link_that_is_written_while_a_slot_is_moved_is_written_where_it_goes(
    store: RedisStore, moving: Moving
) -> None:
    await _call(moving.there, "SCRIPT FLUSH")
    await moving.begin()
    links = [Link(sequence=number, entry="{}", hash=f"{number}") for number in (1, 2)]
    for link in links:
        await store.append("shop", link)
    await moving.end()
    assert await store.links("shop") == links
    assert await _call(moving.there, "LLEN", slot_key("shop", "audit")) == 2


async def test_a_change_of_many_keys_while_they_are_moved_is_not_done_and_says_so(
    store: RedisStore, moving: Moving
) -> None:
    await moving.begin()
    await assert_unavailable(write(store, 1), "Multiple keys request during rehashing of slot")
    await moving.end()
    assert await store.newest("shop") == (None, Tail())
    await write(store, 1)
    assert await store.revisions() == {"shop": 1}


async def test_scripts_that_every_server_forgot_are_told_anew(
    cluster: RedisCluster, store: RedisStore
) -> None:
    for revision in (1, 2):
        for server in cluster.servers:
            await _call(server, "SCRIPT FLUSH")
        for name in keepers(cluster).values():
            await write(store, revision, name)
    assert set((await store.revisions()).values()) == {2}


async def test_a_killed_server_takes_its_own_keys_along_and_no_others(
    cluster: RedisCluster, store: RedisStore
) -> None:
    names, index = keepers(cluster), index_at(cluster)
    gone, other = (index + 1) % MASTERS, (index + 2) % MASTERS
    for name in names.values():
        await write(store, 1, name)
    cluster.servers[gone].kill()
    where = f"127.0.0.1:{cluster.servers[gone].port}"
    try:
        for _ in range(2):
            await assert_unavailable(store.load(names[gone]), where)
            await assert_unavailable(write(store, 2, names[gone]), where)
            await assert_unavailable(store.listed_in(names[gone], "u", ["beta"]), where)
            assert await store.load(names[other]) == {"revision": 1}
        await write(store, 2, names[other])
        expected = {names[gone]: UNREACHABLE, names[other]: 2, names[index]: 1}
        assert await store.revisions() == expected
    finally:
        await asyncio.to_thread(cluster.servers[gone].start)
        await asyncio.to_thread(cluster.wait)
    await write(store, 2, names[gone])
    assert await store.revisions() == {names[gone]: 2, names[other]: 2, names[index]: 1}


async def test_outcomes_and_records_on_a_server_that_is_gone_hold_up_no_others(
    cluster: RedisCluster, store: RedisStore
) -> None:
    names, index = keepers(cluster), index_at(cluster)
    gone, well = names[(index + 1) % MASTERS], names[index]
    connection = Connection.to(cluster.url, timeout_s=PATIENCE_S)
    outcomes, records = RedisOutcomes(connection, lambda: NOW_S), RedisRecords(connection)
    await outcomes.add("a", [Reported(drawn(key), 0, Tally(lost=1)) for key in (gone, well)])
    keys = [RecordKey(key, "r-1") for key in (gone, well)]
    for key in keys:
        await records.put(key, Record(data=b"", fence=1, is_closed=True))
    server = cluster.keeper(slot_key(gone))
    server.kill()
    try:
        after = int(NOW_S // SLOT_S) - 3
        wanted = [Wanted(key, "r-1", after) for key in (gone, well)]
        nothing, found = await outcomes.look(wanted)
        assert nothing == Found((), after, True)
        assert [(slot, labels) for slot, labels, _ in found.slots] == [(after + 3, drawn(well))]
        assert list((await records.states(keys)).values()) == [
            RecordState.OPEN,
            RecordState.CLOSED,
        ]
        await assert_unavailable(outcomes.look(wanted[:1]), f"127.0.0.1:{server.port}")
        await assert_unavailable(records.states(keys[:1]), f"127.0.0.1:{server.port}")
        await assert_unavailable(outcomes.read(gone, 60), f"127.0.0.1:{server.port}")
    finally:
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(cluster.wait)
    assert [len(one.slots) for one in await outcomes.look(wanted)] == [1, 1]
    await connection.aclose()


def drawn(service_key: str) -> Labels:
    return Labels(service_key, "v2", Variant.CANARY, "r-1", Cohort.DRAWN)


async def test_of_a_server_that_is_silent_the_others_are_not_held_up(
    cluster: RedisCluster,
) -> None:
    names, index = keepers(cluster), index_at(cluster)
    gone, other = (index + 1) % MASTERS, (index + 2) % MASTERS
    async with opened(cluster.url_of_all) as patient:
        for name in names.values():
            await write(patient, 1, name)
    cluster.servers[gone].freeze()
    try:
        # Begun while it is silent, so that the map of slots is read without it.
        async with opened(cluster.url_of_all, timeout_s=TIMEOUT_S) as store:
            await until(lambda: _loads(store, names[other]))
            await assert_unavailable(store.load(names[gone]), "no answer within 0.5 s")
            expected = {names[gone]: UNREACHABLE, names[other]: 1, names[index]: 1}

            async def are_listed() -> bool:
                with suppress(StoreUnavailable):
                    return await store.revisions() == expected
                return False

            # A busy machine may not let the others answer within this deadline either, at first.
            await until(are_listed)
            await until(lambda: _loads(store, names[other]))
    finally:
        cluster.servers[gone].thaw()


async def _loads(store: RedisStore, service_key: str) -> bool:
    with suppress(StoreUnavailable):
        return await store.load(service_key) == {"revision": 1}
    return False


async def test_without_the_index_no_service_key_is_listed_and_all_that_are_known_are_read(
    cluster: RedisCluster, store: RedisStore
) -> None:
    names, index = keepers(cluster), index_at(cluster)
    other = (index + 1) % MASTERS
    await write(store, 1, names[other])
    cluster.servers[index].kill()
    try:
        where = f"127.0.0.1:{cluster.servers[index].port}: {INDEX}"
        await assert_unavailable(store.revisions(), where)
        await assert_unavailable(write(store, 2, names[other]), where)
        assert await store.load(names[other]) == {"revision": 1}
    finally:
        await asyncio.to_thread(cluster.servers[index].start)
        await asyncio.to_thread(cluster.wait)
    await write(store, 2, names[other])
    assert await store.revisions() == {names[other]: 2}


async def test_a_watch_that_breaks_with_its_server_is_begun_again_at_another(
    cluster: RedisCluster, store: RedisStore
) -> None:
    index = index_at(cluster)
    name = keepers(cluster)[index]
    gone = (index + 1) % MASTERS
    async with AsyncWatches(store) as watches:
        cluster.servers[gone].kill()
        try:
            assert await watches.ended(1) == [StoreUnavailable]
            again = await watches.begun_again()
            await write(store, 1, name)
            assert await anext(again) == name
        finally:
            await asyncio.to_thread(cluster.servers[gone].start)
            await asyncio.to_thread(cluster.wait)


async def test_a_replica_that_takes_a_server_s_place_is_found_without_a_retry() -> None:
    key = slot_key("shop")
    at_once = ("--repl-diskless-sync-delay", "0")
    with running_cluster(*at_once) as cluster, cluster.replica(key) as replica:
        async with opened(cluster.url) as store:
            await write(store, 1)
            await _call(cluster.keeper(key), "WAIT", 1, 10_000)
            cluster.keeper(key).kill()
            await assert_unavailable(store.listed_in("shop", "u1", ["beta"]))
            await _call(replica, "CLUSTER FAILOVER", "TAKEOVER")

            async def is_found() -> bool:
                return await _listed(store) is not None

            await until(is_found)
            assert await _listed(store) == frozenset(["beta"])
            await write(store, 2)
            assert await store.revisions() == {"shop": 2}


async def _listed(store: RedisStore) -> frozenset[str] | None:
    with suppress(StoreUnavailable):
        return await store.listed_in("shop", "u1", ["beta"])
    return None


class AsyncWatches:
    """One watch at each server, for each is begun at another one."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._tasks: list[asyncio.Task[None]] = []
        self._more: list[Any] = []

    async def __aenter__(self) -> AsyncWatches:
        for _ in range(MASTERS):
            watch = self._store.watch()
            assert await anext(watch) == ""
            self._tasks.append(asyncio.create_task(_listen(watch)))
        return self

    async def ended(self, count: int) -> list[type[Any]]:
        """What the watches that end first, ``count`` of them, have ended with."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(task.done() for task in self._tasks) < count:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return [type(task.exception()) for task in self._tasks if task.done()]

    async def begun_again(self) -> Any:
        """One more watch; if it is begun at the one server that is gone, the next one is not."""
        first, second = self._store.watch(), self._store.watch()
        self._more += [first, second]
        try:
            assert await anext(first) == ""
            return first
        except StoreUnavailable:
            assert await anext(second) == ""
            return second

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for watch in self._more:
            await watch.aclose()


async def _listen(watch: Any) -> None:
    async with aclosing(watch):
        async for _ in watch:
            pass


async def test_any_of_the_named_servers_is_enough_to_find_the_others(
    cluster: RedisCluster,
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    url = f"redis+cluster://{nobody},127.0.0.1:{cluster.servers[2].port}/0"
    async with opened(url) as store:
        for name in keepers(cluster).values():
            await write(store, 1, name)
        assert len(await store.revisions()) == MASTERS


async def test_a_cluster_of_which_nobody_answers_is_unavailable_until_it_comes() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    async with opened(f"redis+cluster://ada:hunter2@{nobody}") as store:
        for ask in (store.revisions(), store.listed_in("shop", "u", ["beta"])):
            with pytest.raises(StoreUnavailable) as caught:
                await ask
            assert nobody in str(caught.value)
            assert "hunter2" not in str(caught.value)
        await assert_unavailable(anext(store.watch()), nobody)


async def test_the_password_is_for_every_server(cluster: RedisCluster) -> None:
    for server in cluster.servers:
        await _call(server, "ACL", "SETUSER", "ada", "on", ">hunter2", "~*", "&*", "+@all")
    url = cluster.url.replace("://", "://ada:{}@")
    async with opened(url.format("hunter2")) as store:
        for name in keepers(cluster).values():
            await write(store, 1, name)
    async with opened(url.format("wrong")) as store:
        await assert_unavailable(store.revisions(), "invalid username-password")


async def test_a_server_of_a_cluster_that_is_named_as_the_only_one_says_what_to_write(
    cluster: RedisCluster,
) -> None:
    names = keepers(cluster)
    async with opened(cluster.servers[0].tcp_url) as store:
        with pytest.raises(StoreUnavailable, match=r"write redis\+cluster://"):
            await store.load(names[1])


async def test_a_server_that_is_in_no_cluster_is_unavailable_as_one() -> None:
    with running_redis(port=free_port()) as server:
        async with opened(f"redis+cluster://127.0.0.1:{server.port}") as store:
            await assert_unavailable(store.revisions(), "cluster support disabled")


async def test_a_server_that_was_given_no_slots_yet_is_unavailable_until_it_is() -> None:
    port, bus = free_ports(2)
    alone = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
    with running_redis(port=port, options=alone) as server:
        async with opened(f"redis+cluster://127.0.0.1:{port}") as store:
            await assert_unavailable(store.revisions(), "knows of no server that keeps a slot")
            await assert_unavailable(anext(store.watch()), "knows of no server that keeps a slot")
            await _call(server, "CLUSTER ADDSLOTSRANGE", 0, 16_383)
            await until(lambda: _takes_writes(store))
            # It has met nobody, and tells no address of its own.
            assert await store.revisions() == {"shop": 1}


async def _takes_writes(store: RedisStore) -> bool:
    with suppress(StoreUnavailable):
        await write(store, 1)
        return True
    return False


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter2@h:1,",
        "redis+cluster://:hunter2@h:port",
        "redis+cluster://:hunter2@h:1/1",
        "redis+cluster://:hunter2#x@h:1",
        "unix+cluster://:hunter2@h:1",
        "http+cluster://:hunter2@h:1",
    ],
)
def test_a_wrong_url_of_a_cluster_is_refused_without_a_word_of_the_password(url: str) -> None:
    with pytest.raises(StoreError, match=r"redis\+cluster://HOST:PORT,HOST:PORT") as caught:
        RedisStore.connect(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_what_one_server_kept_is_taken_over_as_the_page_says(
    cluster: RedisCluster, store: RedisStore
) -> None:
    found = re.search(r"`(redis-cli --cluster import [^`]+)`", PAGE.read_text())
    assert found is not None
    link = Link(sequence=1, entry="{}", hash="ab")
    with running_redis(port=free_port()) as old:
        async with opened(old.tcp_url) as before:
            for name in keepers(cluster).values():
                await write(before, 1, name)
            await before.append("", link)
            await before.put_profile("u", Profile(tier="premium"))
        addresses = {"HOST": cluster.servers[0].port, "OLD": old.port}
        command = found[1]
        for name, port in addresses.items():
            command = command.replace(f"{name}:6379", f"127.0.0.1:{port}")
        done = await asyncio.to_thread(subprocess.run, command.split(), capture_output=True)
        assert done.returncode == 0, done.stdout
    assert await store.revisions() == dict.fromkeys(keepers(cluster).values(), 1)
    assert await store.links("") == [link]
    assert await store.profile("u") == Profile(tier="premium")
    for name in keepers(cluster).values():
        assert await store.listed_in(name, "u1", ["beta"]) == {"beta"}


async def test_profiles_are_kept_by_user_and_announced_to_everybody(
    cluster: RedisCluster, store: RedisStore
) -> None:
    async with opened(cluster.url) as other, aclosing(other.watch_profiles()) as users:
        assert await anext(users) == ""
        for number in range(20):
            user = f"u{number}"
            await store.put_profile(user, Profile(tier="premium"))
            assert await anext(users) == user
            assert await other.profile(user) == Profile(tier="premium")
