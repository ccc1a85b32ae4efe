"""Outcomes in the service's memory: bounded, forgotten, and what Prometheus is shown of them."""

from __future__ import annotations

from canary_engine.model import Cohort, Variant
from canary_engine.outcomes import Labels, Tally
from decision_svc.metrics import Metrics
from decision_svc.outcomes.memory import MEMORY_KEPT_S, MemoryOutcomes, Slots
from decision_svc.outcomes.protocol import Reported
from decision_svc.rpc.outcomes import listed

CANARY = Labels("orders", "v2", Variant.CANARY, "r1", Cohort.DRAWN)


class Clock:
    now = 5_000.0

    def __call__(self) -> float:
        return self.now


def report(*statuses: int, labels: Labels = CANARY, age_s: int = 0) -> Reported:
    tally = Tally()
    for status in statuses:
        tally.add(status, 1_000 * status, None)
    return Reported(labels, age_s, tally)


async def test_the_ids_that_are_remembered_are_bounded() -> None:
    outcomes = MemoryOutcomes(Clock(), max_batch_ids=2)
    for id_ in "abc":
        await outcomes.add(id_, [])
    assert [await outcomes.is_added(id_, "") for id_ in "abc"] == [False, True, True]


def test_what_is_old_is_forgotten() -> None:
    clock = Clock()
    slots = Slots(clock)
    slots.add([report(200)])
    assert slots.service_keys() == ["orders"]
    clock.now += MEMORY_KEPT_S + 20
    assert slots.service_keys() == []
    assert slots.read("orders", MEMORY_KEPT_S) == {}


async def test_reading_changes_nothing() -> None:
    outcomes = MemoryOutcomes(Clock())
    await outcomes.add("a", [report(200)])
    (tally,) = (await outcomes.read("orders", 60)).values()
    tally.merge(tally)
    (again,) = (await outcomes.read("orders", 60)).values()
    assert again.requests == 1


def test_people_see_a_version_s_cohorts_together_and_how_many_each_has() -> None:
    others = [CANARY._replace(cohort=cohort) for cohort in (Cohort.CHOSEN, Cohort.OTHER)]
    found = {one: report(200, 500, labels=one).tally for one in (CANARY, *others)}
    (version,) = listed(found).outcomes
    assert (version.requests, version.errors, version.request.count) == (6, 3, 6)
    assert [(one.cohort, one.requests, one.errors) for one in version.cohorts] == [
        (1, 2, 1),
        (3, 2, 1),
    ]


def test_latencies_of_versions_without_requests_are_no_longer_shown() -> None:
    metrics = Metrics()
    name = "canary_outcome_latency_seconds"
    names = {"service_key": "orders", "version": "v2", "variant": "canary", "quantile": "0.95"}
    metrics.outcomes.show_latencies("orders", {CANARY: report(200).tally})
    shown = metrics.registry.get_sample_value(name, names)
    assert shown is not None
    assert abs(shown - 0.2) <= 0.02 * 0.2
    metrics.outcomes.show_latencies("orders", {})
    assert metrics.registry.get_sample_value(name, names) is None
