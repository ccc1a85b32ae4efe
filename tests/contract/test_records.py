"""Records of releases, in memory and in Redis: a controller that is too late changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from decision_svc.records.memory import MemoryRecords
from decision_svc.records.protocol import (
    KEPT_S,
    Record,
    RecordKey,
    RecordState,
    RecordStore,
    TooLate,
)
from decision_svc.records.redis import RedisRecords
from decision_svc.store.connection import Connection
from decision_svc.store.protocol import StoreError
from redis.asyncio import Redis

KEY = RecordKey("shop", "r-1")
RECORD = Record(data=b"\x00\xff noted \n", fence=3, is_closed=False)


@pytest.fixture(params=["memory", "redis", "cluster"])
def records(request: pytest.FixtureRequest) -> RecordStore:
    if request.param == "memory":
        return MemoryRecords()
    connections: Callable[[], Connection] = request.getfixturevalue(f"{request.param}_connections")
    return RedisRecords(connections())


async def test_what_is_put_is_what_is_got(records: RecordStore) -> None:
    assert await records.get(KEY) is None
    await records.put(KEY, RECORD)
    assert await records.get(KEY) == RECORD
    closed = replace(RECORD, data=b"", is_closed=True)
    await records.put(KEY, closed)
    assert await records.get(KEY) == closed


async def test_records_of_other_releases_are_others(records: RecordStore) -> None:
    await records.put(KEY, RECORD)
    assert await records.get(RecordKey("shop", "r-2")) is None
    assert await records.get(RecordKey("bakery", "r-1")) is None


async def test_who_is_too_late_changes_nothing_and_hears_of_whom(records: RecordStore) -> None:
    await records.put(KEY, RECORD)
    with pytest.raises(TooLate, match=r"r-1 of shop: 2 is too late, a controller with 3") as found:
        await records.put(KEY, replace(RECORD, data=b"late", fence=2))
    assert found.value.newest == 3
    assert await records.get(KEY) == RECORD


async def test_who_comes_later_may_write_and_the_same_again(records: RecordStore) -> None:
    for fence in (3, 3, 4, 2**53 - 1):
        written = replace(RECORD, data=b"%d" % fence, fence=fence)
        await records.put(KEY, written)
        assert await records.get(KEY) == written


async def test_states_are_told_of_many_at_once(records: RecordStore) -> None:
    keys = [RecordKey(f"shop {n}", "r-1") for n in range(1_200)]
    await records.put(keys[3], RECORD)
    await records.put(keys[1_100], replace(RECORD, is_closed=True))
    states = await records.states(keys)
    assert list(states) == keys
    assert states[keys[3]] is RecordState.OPEN
    assert states[keys[1_100]] is RecordState.CLOSED
    assert list(states.values()).count(RecordState.NONE) == 1_198
    assert await records.states([]) == {}


async def test_redis_forgets_a_record_90_days_after_it_was_written_last(
    redis_connections: Callable[[], Connection],
    redis: Redis,
) -> None:
    connection = redis_connections()
    await RedisRecords(connection).put(KEY, RECORD)
    left_s = await redis.ttl("canary:{shop}:record:r-1")
    assert KEPT_S - 60 < left_s <= KEPT_S


async def test_what_is_no_record_is_no_answer(
    redis_connections: Callable[[], Connection], redis: Redis
) -> None:
    connection = redis_connections()
    records, key = RedisRecords(connection), "canary:{shop}:record:r-1"
    await redis.hset(key, mapping={"record": b"x", "fence": "soon", "closed": "0"})
    with pytest.raises(StoreError, match="not a record"):
        await records.get(KEY)
    with pytest.raises(StoreError, match="CORRUPT"):
        await records.put(KEY, RECORD)
    await redis.set(key, "text")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await records.put(KEY, RECORD)
