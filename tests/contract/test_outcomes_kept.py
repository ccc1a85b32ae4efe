"""Outcomes, in memory and in Redis: every replica's add up, a batch counts once, all is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import pytest
from canary_engine.model import Cohort, Variant
from canary_engine.outcomes import Labels, Tally
from decision_svc.outcomes import redis as redis_module
from decision_svc.outcomes.memory import MemoryOutcomes
from decision_svc.outcomes.packing import (
    pack_labels,
    pack_tally,
    tally,
    unpack_flat,
    unpack_labels,
)
from decision_svc.outcomes.protocol import (
    KEPT_S,
    LATE_S,
    SLOT_S,
    SLOTS_AT_ONCE,
    Outcomes,
    Reported,
    Wanted,
)
from decision_svc.outcomes.redis import RedisOutcomes
from decision_svc.outcomes.slots import MAX_LABELS
from decision_svc.store.connection import Connection
from decision_svc.store.protocol import StoreError
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from support.clock import Clock

DRAWN = Labels("shop", "v2", Variant.CANARY, "r-1", Cohort.DRAWN)
CONTROL = Labels("shop", "v1", Variant.STABLE, "r-1", Cohort.CONTROL)
BAKERY = DRAWN._replace(service_key="bakery")


@dataclass
class Kept:
    """Outcomes as two replicas see them."""

    one: Outcomes
    other: Outcomes
    clock: Clock

    @property
    def slot(self) -> int:
        """The slot of now."""
        return int(self.clock.now // SLOT_S)


@pytest.fixture(params=["memory", "redis", "cluster"])
def kept(request: pytest.FixtureRequest) -> Kept:
    clock = Clock()
    if request.param == "memory":
        outcomes = MemoryOutcomes(clock)
        return Kept(outcomes, outcomes, clock)
    connections: Callable[[], Connection] = request.getfixturevalue(f"{request.param}_connections")
    one, other = RedisOutcomes(connections(), clock), RedisOutcomes(connections(), clock)
    return Kept(one, other, clock)


def a_tally(*statuses: int) -> Tally:
    tally = Tally(lost=1)
    for status in statuses:
        tally.add(status, 1_000 * status, None if status == 404 else 900 * status)
    return tally


def said(labels: Labels, *statuses: int, age_s: int = 0) -> Reported:
    return Reported(labels, age_s, a_tally(*statuses))


def plain(tally: Tally) -> tuple[object, ...]:
    return dict(tally.statuses), tally.request, tally.upstream, tally.lost


async def read(outcomes: Outcomes, window_s: int = 60, key: str = "shop") -> dict[Labels, object]:
    return {labels: plain(t) for labels, t in (await outcomes.read(key, window_s)).items()}


async def test_what_all_replicas_hear_adds_up_by_labels(kept: Kept) -> None:
    assert await kept.one.add("a", [said(DRAWN, 200, 404), said(CONTROL, 200)]) == {"shop"}
    assert await kept.other.add("b", [said(DRAWN, 200, 500)]) == {"shop"}
    both = a_tally(200, 404)
    both.merge(a_tally(200, 500))
    assert await read(kept.other) == {DRAWN: plain(both), CONTROL: plain(a_tally(200))}
    assert await read(kept.one, key="bakery") == {}


async def test_cohorts_of_one_version_are_told_apart(kept: Kept) -> None:
    labels = [DRAWN._replace(cohort=cohort) for cohort in Cohort]
    await kept.one.add("a", [said(one, 200) for one in labels])
    assert set(await read(kept.one)) == set(labels)


async def test_a_batch_that_is_repeated_to_another_replica_counts_once(kept: Kept) -> None:
    assert not await kept.one.is_added("a", "shop")
    assert await kept.one.add("a", [said(DRAWN, 200), said(BAKERY, 200)]) == {"shop", "bakery"}
    assert await kept.other.is_added("a", "shop")
    assert await kept.other.add("a", [said(DRAWN, 200), said(BAKERY, 200)]) == set()
    assert await read(kept.other) == {DRAWN: plain(a_tally(200))}


async def test_of_a_batch_that_was_added_in_part_the_rest_is_added(kept: Kept) -> None:
    await kept.one.add("a", [said(DRAWN, 200)])
    assert await kept.other.add("a", [said(DRAWN, 200), said(BAKERY, 500)]) == {"bakery"}
    assert await read(kept.one) == {DRAWN: plain(a_tally(200))}
    assert await read(kept.one, key="bakery") == {BAKERY: plain(a_tally(500))}


async def test_a_batch_without_outcomes_is_known_again_too(kept: Kept) -> None:
    assert await kept.one.add("a", []) == {""}
    assert await kept.other.add("a", []) == set()


async def test_one_batch_may_say_the_same_labels_of_several_moments(kept: Kept) -> None:
    batch = [said(DRAWN, 200), said(DRAWN, 500), said(DRAWN, 201, age_s=30)]
    await kept.one.add("a", batch)
    both = a_tally(200)
    both.merge(a_tally(500))
    assert await read(kept.one, 10) == {DRAWN: plain(both)}
    both.merge(a_tally(201))
    assert await read(kept.one, 60) == {DRAWN: plain(both)}


async def test_a_window_holds_what_happened_in_it(kept: Kept) -> None:
    await kept.one.add("a", [said(DRAWN, s, age_s=a) for s, a in ((200, 100), (201, 30), (202, 0))])

    async def seen(window_s: int) -> set[int]:
        return {s for t in (await kept.one.read("shop", window_s)).values() for s in t.statuses}

    assert await seen(10) == {202}
    assert await seen(60) == {202, 201}
    assert await seen(200) == {202, 201, 200}
    kept.clock.now += 120
    assert await seen(60) == set()
    assert await seen(200) == {202, 201}


async def test_what_is_told_too_late_is_not_added(kept: Kept) -> None:
    batch = [said(DRAWN, 200, age_s=LATE_S), said(DRAWN, 500, age_s=LATE_S + 1)]
    assert await kept.one.add("a", batch) == {"shop"}
    assert await read(kept.one, LATE_S) == {}
    newest = Wanted("shop", "r-1", kept.slot - LATE_S // SLOT_S - 1)
    ((_, _, found),) = (await kept.one.look([newest]))[0].slots
    assert found.statuses == [200, 1]


async def test_versions_without_end_become_one(kept: Kept) -> None:
    many = [said(DRAWN._replace(version=f"v{n}"), 200) for n in range(MAX_LABELS + 50)]
    await kept.one.add("a", many)
    await kept.other.add("b", many)
    found = await kept.one.read("shop", 60)
    assert len(found) == MAX_LABELS + 1
    assert sum(tally.requests for tally in found.values()) == 2 * len(many)
    (other,) = [tally for labels, tally in found.items() if labels.version == "other"]
    assert other.requests == 100


async def test_looking_ahead_tells_the_compared_cohorts_of_a_release_by_slot(kept: Kept) -> None:
    uncompared = DRAWN._replace(cohort=Cohort.OTHER)
    before = DRAWN._replace(release_id="r-0")
    batch = [said(one, 200) for one in (DRAWN, CONTROL, uncompared, before, BAKERY)]
    await kept.one.add("a", [*batch, said(DRAWN, 500, age_s=20), said(CONTROL, 404, age_s=40)])
    (found,) = await kept.other.look([Wanted("shop", "r-1", kept.slot - 3)])
    told = [(slot - kept.slot, labels, one.statuses) for slot, labels, one in found.slots]
    assert told[0] == (-2, DRAWN, [500, 1])
    assert sorted(told[1:]) == sorted([(0, DRAWN, [200, 1]), (0, CONTROL, [200, 1])])
    assert not found.has_more


async def test_looking_ahead_goes_on_where_it_ended_and_tells_all(kept: Kept) -> None:
    for age_s in range(0, LATE_S, SLOT_S):
        await kept.one.add(f"{age_s}", [said(DRAWN, 200, age_s=age_s)])
    seen: list[int] = []
    wanted, has_more = Wanted("shop", "r-1", kept.slot - 100), True
    while has_more:
        (found,) = await kept.one.look([wanted])
        assert len(found.slots) <= SLOTS_AT_ONCE
        seen += [slot for slot, _, _ in found.slots]
        wanted, has_more = wanted._replace(after=found.until), found.has_more
    assert seen == [kept.slot - n for n in reversed(range(LATE_S // SLOT_S))]


async def test_looking_ahead_leaves_out_slots_of_which_all_was_heard(kept: Kept) -> None:
    uncompared = DRAWN._replace(cohort=Cohort.OTHER)
    await kept.one.add("a", [said(DRAWN, 200, age_s=20), said(CONTROL, 200, age_s=20)])
    await kept.one.add("b", [said(DRAWN, 200), said(uncompared, 200)])
    wanted = Wanted("shop", "r-1", kept.slot - 3, {kept.slot - 2: 2, kept.slot: 1})
    assert [list(one.slots) for one in await kept.one.look([wanted])] == [[]]
    await kept.one.add("c", [said(CONTROL, 200)])
    (found,) = await kept.one.look([wanted])
    assert [(slot, labels) for slot, labels, _ in found.slots] == [
        (kept.slot, labels) for labels in (DRAWN, CONTROL)
    ]
    (found,) = await kept.one.look([wanted._replace(heard={})])
    assert len(found.slots) == 4


async def test_many_are_looked_for_together_and_answered_in_their_order(kept: Kept) -> None:
    keys = [f"shop {n}" for n in range(500)]
    for n in (0, 7, 499):
        await kept.one.add("a", [said(DRAWN._replace(service_key=keys[n]), 200)])
    found = await kept.one.look([Wanted(key, "r-1", kept.slot - 2) for key in keys])
    assert len(found) == 500
    assert [n for n, one in enumerate(found) if one.slots] == [0, 7, 499]
    assert await kept.one.look([]) == []


async def test_whoever_is_far_ahead_hears_nothing(kept: Kept) -> None:
    await kept.one.add("a", [said(DRAWN, 200)])
    (found,) = await kept.one.look([Wanted("shop", "r-1", kept.slot + 5)])
    assert (list(found.slots), found.has_more) == ([], False)


async def test_many_batches_at_once_are_all_counted_once(kept: Kept) -> None:
    replicas = (kept.one, kept.other)
    batches: Sequence[str] = [f"{n // 2}" for n in range(100)]
    await asyncio.gather(
        *(replicas[n % 2].add(id_, [said(DRAWN, 200)]) for n, id_ in enumerate(batches))
    )
    (tally,) = (await kept.one.read("shop", 60)).values()
    assert tally.requests == 50


async def test_any_tallies_add_up_and_stay_in_the_order_of_their_keys(kept: Kept) -> None:
    chance, both = Random(4), Tally()
    for number in range(60):
        part = a_tally(*(chance.choice([200, 404, 500, 503]) for _ in range(chance.randrange(9))))
        part.request.add(chance.randrange(10**9))
        status = chance.randrange(100, 600)
        part.statuses[status] = part.statuses.get(status, 0) + 1
        both.merge(part)
        await kept.one.add(f"{number}", [Reported(DRAWN, 0, part)])
    assert await read(kept.other) == {DRAWN: plain(both)}
    ((_, _, found),) = (await kept.one.look([Wanted("shop", "r-1", kept.slot - 1)]))[0].slots
    assert plain(tally(found)) == plain(both)
    for part_ in (found.statuses, found.request, found.upstream):
        assert list(part_[::2]) == sorted(part_[::2])


async def test_redis_forgets_slots_and_batches_by_itself(
    redis_connections: Callable[[], Connection],
    redis: Redis,
) -> None:
    connection, clock = redis_connections(), Clock()
    await RedisOutcomes(connection, clock).add("a", [said(DRAWN, 200)])
    slot = int(clock.now // SLOT_S)
    left_s = await redis.ttl(f"canary:{{shop}}:outcomes:{slot}")
    assert KEPT_S - 120 < left_s <= KEPT_S + 120
    assert 0 < await redis.ttl("canary:{shop}:outcome-batches") <= LATE_S
    assert await redis.dbsize() == 2


async def test_redis_forgets_a_batch_when_what_it_told_would_no_longer_be_taken(
    redis_connections: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, clock = redis_connections(), Clock()
    outcomes = RedisOutcomes(connection, clock)
    await outcomes.add("a", [said(DRAWN, 200)])
    clock.now += LATE_S - 1
    await outcomes.add("b", [said(DRAWN, 200)])
    assert await outcomes.is_added("a", "shop")
    clock.now += 2
    await outcomes.add("c", [said(DRAWN, 200)])
    assert not await outcomes.is_added("a", "shop")
    monkeypatch.setattr(redis_module, "MAX_BATCH_IDS", 1)
    await outcomes.add("d", [said(DRAWN, 200)])
    assert [await outcomes.is_added(id_, "shop") for id_ in "bcd"] == [False, False, True]


async def test_what_something_else_wrote_is_named_and_nothing_is_added_to_it(
    redis_connections: Callable[[], Connection],
    redis: Redis,
) -> None:
    connection, clock = redis_connections(), Clock()
    outcomes = RedisOutcomes(connection, clock)
    key = f"canary:{{shop}}:outcomes:{int(clock.now // SLOT_S)}"
    await redis.hset(key, pack_labels(DRAWN), b"\xc1")
    with pytest.raises(StoreError, match="CORRUPT"):
        await outcomes.add("a", [said(CONTROL, 200), said(DRAWN, 200)])
    with pytest.raises(StoreError, match="not a tally"):
        await outcomes.read("shop", 60)
    assert not await outcomes.is_added("a", "shop")
    await redis.set(key, "text")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await outcomes.add("a", [said(CONTROL, 200)])
    await redis.delete(key)
    await redis.hset(key, b"\xc1", pack_tally(a_tally(200)))
    with pytest.raises(StoreError, match="labels that cannot be read"):
        await outcomes.read("shop", 60)


@given(
    st.builds(
        Labels,
        st.just("shop"),
        st.text(),
        st.sampled_from(Variant),
        st.text(),
        st.sampled_from(Cohort),
    ),
    st.lists(st.integers(100, 599)),
)
def test_what_is_packed_is_what_is_unpacked(labels: Labels, statuses: list[int]) -> None:
    assert unpack_labels("shop", pack_labels(labels), "here") == labels
    packed = a_tally(*statuses)
    assert plain(tally(unpack_flat(pack_tally(packed), "here"))) == plain(packed)
