"""Reported metrics, in memory and in Redis: added up over replicas, whole, once and bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from canary_engine.plan import Metric
from canary_engine.reports import Series, Total, total_of
from decision_svc.reported.memory import MemoryReported
from decision_svc.reported.protocol import (
    KEPT_S,
    MAX_SERIES,
    ReportedStore,
    Sample,
    TooManySeries,
)
from decision_svc.reported.redis import RedisReported
from decision_svc.store.connection import Connection
from redis.asyncio import Redis
from support.clock import Clock

SATISFACTION = Series(Metric.SATISFACTION, "", "v2")
REVENUE = Series(Metric.REVENUE, "", "v2", (("currency", "欧元"), ("region", "eu")))


@dataclass
class Kept:
    """Reported metrics as two replicas see them."""

    one: ReportedStore
    other: ReportedStore
    clock: Clock


@pytest.fixture(params=["memory", "redis", "cluster"])
def kept(request: pytest.FixtureRequest) -> Kept:
    clock = Clock()
    if request.param == "memory":
        reported = MemoryReported(clock)
        return Kept(reported, reported, clock)
    connections: Callable[[], Connection] = request.getfixturevalue(f"{request.param}_connections")
    one, other = RedisReported(connections(), clock), RedisReported(connections(), clock)
    return Kept(one, other, clock)


def said(series: Series, value: float, count: int = 1, age_s: float = 0) -> Sample:
    return Sample(series, age_s, total_of(series.metric, value, count))


async def test_reports_to_all_replicas_add_up_by_series(kept: Kept) -> None:
    assert await kept.one.add("shop", "a", [said(SATISFACTION, 4, 3), said(REVENUE, 10.25, 2)])
    assert await kept.other.add("shop", "b", [said(SATISFACTION, 2), said(REVENUE, -0.25)])
    assert await kept.one.read("shop", 60) == {SATISFACTION: Total(14, 4), REVENUE: Total(10, 3)}
    assert await kept.one.read("bakery", 60) == {}


async def test_a_report_counts_once_whichever_replica_hears_it(kept: Kept) -> None:
    assert await kept.one.add("shop", "a", [said(SATISFACTION, 4)])
    assert not await kept.other.add("shop", "a", [said(SATISFACTION, 4)])
    assert await kept.one.add("bakery", "a", [said(SATISFACTION, 4)])
    assert await kept.one.read("shop", 60) == {SATISFACTION: Total(4, 1)}


async def test_reports_without_an_id_are_all_counted(kept: Kept) -> None:
    for _ in range(2):
        assert await kept.one.add("shop", "", [said(SATISFACTION, 4)])
    assert await kept.one.read("shop", 60) == {SATISFACTION: Total(8, 2)}


async def test_one_report_may_say_the_same_twice_and_of_several_minutes(kept: Kept) -> None:
    samples = [said(SATISFACTION, 4), said(SATISFACTION, 3), said(SATISFACTION, 1, age_s=300)]
    await kept.one.add("shop", "a", samples)
    assert await kept.one.read("shop", 60) == {SATISFACTION: Total(7, 2)}
    assert await kept.one.read("shop", 600) == {SATISFACTION: Total(8, 3)}


async def test_a_window_has_every_minute_that_it_touches(kept: Kept) -> None:
    await kept.one.add("shop", "a", [said(SATISFACTION, 4)])
    kept.clock.now += 70
    assert await kept.one.read("shop", 10) == {}
    assert await kept.one.read("shop", 30) == {SATISFACTION: Total(4, 1)}


async def test_a_minute_without_room_takes_nothing_of_a_report(kept: Kept) -> None:
    def many(first: int, count: int) -> list[Sample]:
        names = [f"m{n}" for n in range(first, first + count)]
        return [said(Series(Metric.CUSTOM, name, "v2"), 1) for name in names]

    await kept.one.add("shop", "a", many(0, MAX_SERIES - 1))
    with pytest.raises(TooManySeries, match="more than 1,000 series"):
        await kept.other.add("shop", "b", [*many(MAX_SERIES - 1, 2), said(SATISFACTION, 1)])
    assert len(await kept.one.read("shop", 60)) == MAX_SERIES - 1
    assert await kept.one.add("shop", "b", many(MAX_SERIES - 2, 2))
    assert len(await kept.one.read("shop", 60)) == MAX_SERIES


async def test_redis_forgets_a_minute_by_itself(
    redis_connections: Callable[[], Connection], redis: Redis
) -> None:
    connection, clock = redis_connections(), Clock()
    await RedisReported(connection, clock).add("shop", "a", [said(SATISFACTION, 4)])
    left_s = await redis.ttl(f"canary:{{shop}}:reported:{int(clock.now // 60)}")
    assert KEPT_S - 120 < left_s <= KEPT_S + 120
    assert await redis.ttl("canary:{shop}:report:a") > 0
