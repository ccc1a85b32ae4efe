"""Outcomes in the service's memory: added once, read by window, bounded."""

from __future__ import annotations

from canary_engine.model import Variant
from canary_engine.outcomes import Labels, Tally
from decision_svc.metrics import Metrics
from decision_svc.outcomes.memory import MAX_LABELS, MemoryOutcomes
from decision_svc.outcomes.protocol import KEPT_S, Reported

CANARY = Labels("orders", "v2", Variant.CANARY, "r1")


class Clock:
    now = 5_000.0

    def __call__(self) -> float:
        return self.now


def report(*statuses: int, labels: Labels = CANARY, age_s: int = 0) -> Reported:
    tally = Tally()
    for status in statuses:
        tally.add(status, 1_000 * status, None)
    return Reported(labels, age_s, tally)


async def test_batches_add_up() -> None:
    outcomes = MemoryOutcomes(Clock())
    assert await outcomes.add("a", [report(200, 500)])
    assert await outcomes.add("b", [report(200)])
    (tally,) = (await outcomes.read("orders", 60)).values()
    assert dict(tally.statuses) == {200: 2, 500: 1}
    assert (tally.requests, tally.errors, tally.request.count) == (3, 1, 3)


async def test_a_batch_counts_once() -> None:
    outcomes = MemoryOutcomes(Clock())
    assert not await outcomes.is_added("a")
    assert await outcomes.add("a", [report(200)])
    assert await outcomes.is_added("a")
    assert not await outcomes.add("a", [report(200)])
    (tally,) = (await outcomes.read("orders", 60)).values()
    assert tally.requests == 1


async def test_the_ids_that_are_remembered_are_bounded() -> None:
    outcomes = MemoryOutcomes(Clock(), max_batch_ids=2)
    for id_ in "abc":
        await outcomes.add(id_, [])
    assert [await outcomes.is_added(id_) for id_ in "abc"] == [False, True, True]


async def test_a_window_holds_what_happened_in_it() -> None:
    clock = Clock()
    outcomes = MemoryOutcomes(clock)
    await outcomes.add("a", [report(200, age_s=100), report(201, age_s=30), report(202)])

    async def seen(window_s: int) -> set[int]:
        return {s for t in (await outcomes.read("orders", window_s)).values() for s in t.statuses}

    assert await seen(10) == {202}
    assert await seen(60) == {202, 201}
    assert await seen(200) == {202, 201, 200}
    clock.now += 120
    assert await seen(60) == set()
    assert await seen(200) == {202, 201}


async def test_what_is_old_is_forgotten() -> None:
    clock = Clock()
    outcomes = MemoryOutcomes(clock)
    await outcomes.add("a", [report(200), report(201, age_s=KEPT_S + 100)])
    assert await outcomes.service_keys() == ["orders"]
    clock.now += KEPT_S + 20
    assert await outcomes.service_keys() == []
    assert await outcomes.read("orders", KEPT_S) == {}


async def test_reading_changes_nothing() -> None:
    outcomes = MemoryOutcomes(Clock())
    await outcomes.add("a", [report(200)])
    (tally,) = (await outcomes.read("orders", 60)).values()
    tally.merge(tally)
    (again,) = (await outcomes.read("orders", 60)).values()
    assert again.requests == 1


async def test_versions_without_end_become_one() -> None:
    outcomes = MemoryOutcomes(Clock())
    many = [report(200, labels=CANARY._replace(version=f"v{n}")) for n in range(MAX_LABELS + 50)]
    await outcomes.add("a", many)
    found = await outcomes.read("orders", 60)
    assert len(found) == MAX_LABELS + 1
    assert sum(tally.requests for tally in found.values()) == MAX_LABELS + 50


def test_latencies_of_versions_without_requests_are_no_longer_shown() -> None:
    metrics = Metrics()
    name = "canary_outcome_latency_seconds"
    names = {"service_key": "orders", "version": "v2", "variant": "canary", "quantile": "0.95"}
    metrics.show_latencies("orders", {CANARY: report(200).tally})
    shown = metrics.registry.get_sample_value(name, names)
    assert shown is not None
    assert abs(shown - 0.2) <= 0.02 * 0.2
    metrics.show_latencies("orders", {})
    assert metrics.registry.get_sample_value(name, names) is None
