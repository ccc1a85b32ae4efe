"""What the Redis adapter keeps where, and what it makes of a Redis that holds something else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest
from canary_engine.model import Profile
from decision_svc.store.connection import Connection
from decision_svc.store.protocol import (
    KEPT_REVISIONS,
    UNREADABLE,
    ChangeRecord,
    Link,
    MemberEdit,
    StoreError,
    StoreUnavailable,
)
from decision_svc.store.redis import RedisStore
from decision_svc.store.servers import OneServer
from redis.asyncio import Redis
from support.calls import until
from support.redis_server import RedisServer, free_port, running_redis
from support.redis_store import PATIENCE_S, opened

AWKWARD_NAMES = ["shop", "支付服务", "{a}b}{", "}{", "{}", "", "%", "%7B", "a:policy"]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    # The cluster bus has a fixed port by default, over which parallel runs would fall out.
    bus = ("--cluster-port", str(free_port()))
    with running_redis(options=("--cluster-enabled", "yes", *bus)) as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    async with opened(server.url) as store:
        yield store


def record(revision: int) -> ChangeRecord:
    at = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
    return ChangeRecord(revision=revision, actor="ada", at=at, reason="因为", summary="what")


async def write(store: RedisStore, revision: int, key: str = "shop") -> None:
    edit = MemberEdit(segment="beta", add=[f"u{revision}"])
    await store.save(key, {"revision": revision}, record(revision), [edit])


async def test_everything_is_kept_where_the_adapter_says(store: RedisStore, client: Redis) -> None:
    await store.save(
        "shop",
        {"name": "支付", "a": 1},
        record(1),
        [MemberEdit(segment="beta", add=["u1"])],
    )
    await store.put_profile("u1", Profile(tier="premium", tags=frozenset("ba")))
    text = '{"a":1,"name":"支付"}'.encode()
    line = (
        '{"actor":"ada","at":"2024-02-29T12:30:00+00:00","reason":"因为","revision":1,'
        '"summary":"what"}'
    )
    assert await client.smembers("canary:services") == {b"shop"}
    assert await client.hgetall("canary:{shop}:policy") == {b"revision": b"1", b"document": text}
    assert await client.hgetall("canary:{shop}:revisions") == {b"1": text}
    assert await client.zrange("canary:{shop}:changes", 0, -1, withscores=True) == [
        (line.encode(), 1.0)
    ]
    assert await client.smembers("canary:{shop}:members:beta") == {b"u1"}
    assert await client.hgetall("canary:profile:u1") == {
        b"tier": b"premium",
        b"registered_at": b"",
        b"region": b"",
        b"tags": b'["a","b"]',
        b"custom": b"{}",
    }
    assert await client.dbsize() == 6


@pytest.mark.parametrize("service_key", AWKWARD_NAMES)
async def test_all_keys_of_a_service_key_share_a_slot_and_no_key_is_shared(
    store: RedisStore, client: Redis, cluster: RedisServer, service_key: str
) -> None:
    await store.save(
        service_key,
        {},
        record(1),
        [MemberEdit(segment=name, add=["u"]) for name in ("beta", "{x}", "}", "")],
    )
    keys = [key async for key in client.scan_iter() if key != b"canary:services"]
    assert len(keys) == 7
    async with Redis.from_url(cluster.url) as judge:
        assert len({await _call(judge, "CLUSTER KEYSLOT", key) for key in keys}) == 1


async def test_a_node_of_a_cluster_accepts_every_write(cluster: RedisServer) -> None:
    async with Redis.from_url(cluster.url) as client:
        await _call(client, "CLUSTER ADDSLOTSRANGE", 0, 16383)

        async def is_ready() -> bool:
            return b"cluster_state:ok" in _raw(await _call(client, "CLUSTER INFO"))

        await until(is_ready)
    async with opened(cluster.url) as store:
        for service_key in AWKWARD_NAMES:
            await write(store, 1, service_key)
            await write(store, 2, service_key)
            assert await store.listed_in(service_key, "u2", ["beta", "other"]) == {"beta"}
        await store.put_profile("{u}1", Profile(tier="premium"))
        assert await store.profile("{u}1") == Profile(tier="premium")


async def _call(client: Redis, *command: Any) -> Any:
    return await client.execute_command(*command)  # type: ignore[no-untyped-call]


def _raw(answer: Any) -> bytes:
    if isinstance(answer, dict):
        return "\n".join(f"{name}:{value}" for name, value in answer.items()).encode()
    return answer if isinstance(answer, bytes) else str(answer).encode()


async def test_writes_go_on_when_redis_forgets_the_scripts(
    store: RedisStore, client: Redis
) -> None:
    for revision in range(1, 4):
        await client.script_flush()
        await write(store, revision)
        await client.script_flush()
        await store.put_profile("u1", Profile(tier=str(revision)))
    assert await store.revisions() == {"shop": 3}
    assert await store.profile("u1") == Profile(tier="3")


async def test_a_name_in_the_index_without_a_policy_is_absent(
    store: RedisStore, client: Redis
) -> None:
    await write(store, 1)
    await client.sadd("canary:services", "crashed before the write")
    assert await store.revisions() == {"shop": 1}
    assert await store.load("crashed before the write") is None
    await write(store, 1, "crashed before the write")
    assert await store.revisions() == {"shop": 1, "crashed before the write": 1}


async def test_links_are_kept_where_the_adapter_says(store: RedisStore, client: Redis) -> None:
    await store.save("shop", {}, record(1), (), Link(sequence=1, entry="{}", hash="ab"))
    await store.append("shop", Link(sequence=2, entry='{"a":"支付"}', hash="cd"))
    await store.append("", Link(sequence=1, entry="{}", hash="ef"))
    assert await client.lrange("canary:{shop}:audit", 0, -1) == [
        b"ab {}",
        'cd {"a":"支付"}'.encode(),
    ]
    assert await client.lrange("canary:audit", 0, -1) == [b"ef {}"]


async def test_documents_that_were_kept_before_there_was_a_bound_are_forgotten_in_steps(
    store: RedisStore, client: Redis
) -> None:
    old: dict[Any, Any] = {str(n): "{}" for n in range(1, 2 * KEPT_REVISIONS + 501)}
    await client.hset("canary:{shop}:revisions", mapping=old)
    await client.hset("canary:{shop}:policy", mapping={"revision": str(len(old)), "document": "{}"})
    kept = []
    for revision in range(len(old) + 1, len(old) + 4):
        await write(store, revision)
        kept.append(await client.hlen("canary:{shop}:revisions"))
    assert kept == [1_501, 1_000, 1_000]
    assert await store.load("shop", len(old) + 3 - KEPT_REVISIONS) is None
    assert await store.load("shop", len(old) + 4 - KEPT_REVISIONS) == {}


async def test_a_write_puts_a_lost_index_right(store: RedisStore, client: Redis) -> None:
    await write(store, 1)
    await client.delete("canary:services")
    await write(store, 2)
    assert await store.revisions() == {"shop": 2}


async def test_thousands_of_services_are_listed(store: RedisStore, client: Redis) -> None:
    names = [f"shop-{number}" for number in range(1_200)]
    async with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.sadd("canary:services", name)
            pipeline.hset(f"canary:{{{name}}}:policy", "revision", 7)
        await pipeline.execute()
    assert await store.revisions() == dict.fromkeys(names, 7)


@pytest.mark.parametrize(
    "spoiled", [b"{", b"", b"[]", b"null", b"\xff", b'"text"', b"[" * 100_000], ids=repr
)
async def test_a_document_that_is_not_one_is_reported_by_its_key(
    store: RedisStore, client: Redis, spoiled: bytes
) -> None:
    await write(store, 1)
    await write(store, 1, "bakery")
    await client.hset("canary:{shop}:policy", "document", spoiled)
    await client.hset("canary:{shop}:revisions", "1", spoiled)
    for revision in (None, 1):
        with pytest.raises(StoreError, match=r"canary:\{shop\}:") as caught:
            await store.load("shop", revision)
        assert not isinstance(caught.value, StoreUnavailable)
    assert await store.load("bakery") == {"revision": 1}
    await write(store, 2)
    assert await store.load("shop") == {"revision": 2}


@pytest.mark.parametrize(
    "spoiled", ["{", "{}", '{"revision":1,"actor":"a","at":"noon","reason":"","summary":""}']
)
async def test_a_change_record_that_is_not_one_is_reported_by_its_key(
    store: RedisStore, client: Redis, spoiled: str
) -> None:
    await client.zadd("canary:{shop}:changes", {spoiled: 1})
    with pytest.raises(StoreError, match=r"canary:\{shop\}:changes"):
        await store.changes("shop")


@pytest.mark.parametrize(
    ("field", "spoiled"),
    [("registered_at", "noon"), ("tags", "alpha"), ("tags", "{}"), ("custom", "[]")],
)
async def test_a_profile_that_is_not_one_is_reported_by_its_key(
    store: RedisStore, client: Redis, field: str, spoiled: str
) -> None:
    await client.hset("canary:profile:u1", field, spoiled)
    with pytest.raises(StoreError, match="canary:profile:u1"):
        await store.profile("u1")


async def test_a_profile_that_another_program_wrote_is_read(
    store: RedisStore, client: Redis
) -> None:
    fields: dict[Any, Any] = {"tier": "free", "registered_at": "2024-05-01", "unheard": "of"}
    await client.hset("canary:profile:u1", mapping=fields)
    expected = Profile(tier="free", registered_at=datetime(2024, 5, 1, tzinfo=UTC))
    assert await store.profile("u1") == expected
    await store.put_profile("u1", Profile(tier="premium"))
    assert not await client.hexists("canary:profile:u1", "unheard")


@pytest.mark.parametrize("key", ["policy", "revisions", "changes", "audit", "members:beta"])
async def test_a_key_of_another_type_stops_a_write_before_it_begins(
    store: RedisStore, client: Redis, key: str
) -> None:
    await write(store, 1)
    await client.set(f"canary:{{shop}}:{key}", "something else")
    before = await _contents(client)
    with pytest.raises(StoreError, match=f"WRONGTYPE canary:{{shop}}:{key} is a string") as caught:
        await write(store, 2)
    assert not isinstance(caught.value, StoreUnavailable)
    assert await _contents(client) == before


async def test_a_revision_that_is_not_a_number_stops_a_write_and_is_reported(
    store: RedisStore, client: Redis
) -> None:
    await write(store, 1)
    await client.hset("canary:{shop}:policy", "revision", "one")
    before = await _contents(client)
    with pytest.raises(StoreError, match=r"canary:\{shop\}:policy has a revision"):
        await write(store, 2)
    assert await _contents(client) == before


@pytest.mark.parametrize("spoiled", ["not a number", "not a hash"])
async def test_a_revision_that_cannot_be_read_keeps_no_other_service_key_from_being_served(
    store: RedisStore, client: Redis, spoiled: str
) -> None:
    for key in ("bakery", "shop", "zoo"):
        await write(store, 1, key)
    if spoiled == "not a number":
        await client.hset("canary:{shop}:policy", "revision", "one")
    else:
        await client.set("canary:{shop}:policy", "something else")
    assert await store.revisions() == {"bakery": 1, "shop": UNREADABLE, "zoo": 1}


@pytest.mark.parametrize(
    "rights",
    [
        ["~*", "+@all", "resetchannels"],
        ["~*", "+@all", "&*", "-zadd"],
        ["~*", "+@all", "&*", "-srem"],
        ["%RW~*:policy", "%RW~*:members:*", "~canary:services", "+@all", "&*", "%R~*"],
    ],
    ids=repr,
)
async def test_a_user_who_may_not_do_all_of_a_write_does_none_of_it(
    server: RedisServer, store: RedisStore, client: Redis, rights: list[str]
) -> None:
    await write(store, 1)
    before = await _contents(client)
    await _call(client, "ACL", "SETUSER", "limited", "reset", "on", ">hunter2", *rights)
    limited = RedisStore.connect(f"{server.url}?username=limited&password=hunter2")
    with pytest.raises(StoreUnavailable, match="this user") as caught:
        await write(limited, 2)
    await limited.aclose()
    assert "hunter2" not in str(caught.value)
    assert await _contents(client) == before


async def _contents(client: Redis) -> dict[bytes, bytes | None]:
    return {key: await client.dump(key) async for key in client.scan_iter()}


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "²", "9" * 30])
async def test_a_cursor_that_is_not_one_is_refused(store: RedisStore, cursor: str) -> None:
    with pytest.raises(StoreError, match="is not a cursor"):
        await store.members("shop", "beta", cursor)


async def test_a_name_that_is_not_unicode_is_refused(store: RedisStore, client: Redis) -> None:
    with pytest.raises(StoreError, match="cannot be written as UTF-8"):
        await write(store, 1, "\ud800")
    assert await client.dbsize() == 0
    await write(store, 1)


@pytest.mark.parametrize(
    "options",
    [{"decode_responses": True}, {"protocol": 3}, {"protocol": 2}, {"db": 3}],
    ids=repr,
)
async def test_any_client_may_be_injected(
    server: RedisServer, client: Redis, options: dict[str, Any]
) -> None:
    async with Redis.from_url(server.url, **options) as injected:
        store = RedisStore(Connection(OneServer(injected), timeout_s=PATIENCE_S), silence_s=0.01)
        async with aclosing(store.watch()) as announcements:
            assert await anext(announcements) == ""
            await write(store, 1, "支付")
            assert await anext(announcements) == "支付"
        assert await store.revisions() == {"支付": 1}
        assert await store.load("支付") == {"revision": 1}
        assert await store.changes("支付") == [record(1)]
        assert await store.members("支付", "beta") == (["u1"], "", 1)
        assert await store.listed_in("支付", "u1", ["beta"]) == {"beta"}
        await store.put_profile("u1", Profile(tier="premium"))
        assert await store.profile("u1") == Profile(tier="premium")


async def test_a_store_is_reached_over_tcp_too() -> None:
    with running_redis(port=free_port()) as server:
        async with opened(f"{server.tcp_url}/0") as store:
            await write(store, 1)
            assert await store.revisions() == {"shop": 1}


@pytest.mark.parametrize(
    "url",
    [
        "http://ada:hunter2@host",
        "redis://:hunter2#x@host:1",
        "redis://u:hunter2@h:port",
        "",
        "redis",
    ],
)
def test_a_wrong_url_is_refused_without_a_word_of_the_password(url: str) -> None:
    with pytest.raises(StoreError, match=r"write redis://, rediss:// or unix://") as caught:
        RedisStore.connect(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
