"""Evidence: the same however it is gathered, whole after a restart, right where weights change."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from canary_engine.errors import InvalidEvidence
from canary_engine.histogram import LAST_BUCKET, Histogram, bucket_of
from canary_engine.judge import document
from canary_engine.judge.evidence import (
    Evidence,
    Track,
    add,
    begin,
    bounds,
    follow,
    relative_risk,
)
from canary_engine.judge.findings import Compared, Ground, compared, ground
from canary_engine.judge.measures import LEAST_EVENTS, Consequence, Subject, measures
from canary_engine.judge.slots import Side, Slot, side
from canary_engine.judge.traffic import Traffic
from canary_engine.judge.verdict import Look, judge
from canary_engine.outcomes import Tally
from hypothesis import given, settings
from hypothesis import strategies as st

LOOK = Look(now_s=0.0, drawn=lambda _, __: None, stable=lambda _, __: None)
counts = st.integers(0, 10**15)
histograms = st.dictionaries(st.integers(0, LAST_BUCKET), st.integers(1, 10**9), max_size=6).map(
    Histogram
)
any_side = st.builds(Side, requests=counts, errors=counts, client_errors=counts, latency=histograms)
any_slots = st.lists(
    st.builds(
        Slot,
        start_s=st.integers(0, 10**6),
        canary=any_side,
        control=any_side,
        expected=st.none() | st.floats(0, 1),
    ),
    max_size=6,
)


def timed(
    source: random.Random, requests: int, *, slower: float = 1.0, spread: float = 0.6
) -> Side:
    """A side without errors; its latencies are log-normal around 60 ms times ``slower``."""
    latency = Histogram()
    for _ in range(requests):
        latency.add(int(60_000 * slower * math.exp(source.gauss(0, spread))))
    return Side(requests=requests, latency=latency)


def failing(requests: int, errors: int) -> Side:
    return Side(requests=requests, errors=errors)


def gathered(*slots: tuple[Side, Side]) -> Evidence:
    evidence = begin()
    for number, (canary, control) in enumerate(slots):
        evidence = add(evidence, Slot(start_s=10 * number, canary=canary, control=control))
    return evidence


def on(evidence: Evidence, subject: Subject) -> Compared:
    return next(one for one in compared(evidence) if one.subject is subject)


def track(evidence: Evidence, subject: Subject) -> Track:
    return dict(zip([m.subject for m in evidence.measures], evidence.tracks, strict=True))[subject]


def test_a_tally_makes_a_side_whose_latency_is_the_backend_s() -> None:
    statuses = {200: 90, 302: 1, 404: 5, 499: 1, 500: 2, 503: 1}
    tally = Tally(statuses, Histogram({100: 100}, 9), Histogram({90: 99}, 7))
    assert side(tally) == Side(
        requests=100, errors=3, client_errors=6, latency=Histogram({90: 99}, 7)
    )


def test_doubled_errors_are_worse_than_control() -> None:
    found = on(gathered(*[(failing(100, 2), failing(400, 4))] * 40), Subject.ERRORS)
    assert found.ground is Ground.WORSE
    assert (found.canary, found.control) == (0.02, 0.01)
    assert found.risk == pytest.approx(2)
    assert found.least is not None
    assert found.most is not None
    assert found.least < 2 < found.most
    assert found.e_value >= found.limit == pytest.approx(1 / 0.007)
    assert found.p_value == 1 / found.e_value
    assert str(found).startswith(
        "errors: canary 2 % of 4,000 requests, control 1 % of 16,000, 2 times as many; e-value"
    )


def test_what_nothing_is_known_of_says_so() -> None:
    said = str(on(gathered((failing(0, 0), failing(0, 0))), Subject.ERRORS))
    assert said.startswith("errors: canary without a request, control without a request; e-value 1")


def test_equal_errors_are_level() -> None:
    found = on(gathered(*[(failing(100, 1), failing(400, 4))] * 400), Subject.ERRORS)
    assert found.ground is Ground.LEVEL
    assert found.e_value < 1


def test_errors_that_are_worse_by_less_than_the_margin_roll_nothing_back() -> None:
    slots = [(failing(10_000, 105), failing(40_000, 400))] * 1_000
    assert on(gathered(*slots), Subject.ERRORS).ground is Ground.LEVEL


def test_a_few_errors_may_be_one_user_and_only_hold() -> None:
    few = gathered((failing(100, LEAST_EVENTS - 1), failing(10_000, 0)))
    assert on(few, Subject.ERRORS).e_value >= 1 / 0.007
    assert on(few, Subject.ERRORS).ground is Ground.SUSPICIOUS
    enough = gathered((failing(100, LEAST_EVENTS), failing(10_000, 0)))
    assert on(enough, Subject.ERRORS).ground is Ground.WORSE


def test_without_one_of_the_sides_there_is_nothing_to_compare() -> None:
    for evidence in (begin(), gathered((failing(9, 9), Side())), gathered((Side(), failing(9, 0)))):
        assert {one.ground for one in compared(evidence)} == {Ground.NOTHING}


def test_client_errors_never_roll_back() -> None:
    slots = [(Side(requests=100, client_errors=50), Side(requests=400, client_errors=4))] * 9
    found = on(gathered(*slots), Subject.CLIENT_ERRORS)
    assert (found.ground, found.consequence) == (Ground.WORSE, Consequence.HOLD)


def test_what_may_roll_back_shares_one_chance() -> None:
    spent = [m.chance for m in measures(0.02) if m.consequence is Consequence.ROLL_BACK]
    assert sum(spent) == pytest.approx(0.02)
    assert len(measures()) == len(Subject) == 5


def test_a_weight_that_rises_together_with_the_error_rate_looks_like_no_difference() -> None:
    calm, rough = (failing(100, 0), failing(9_900, 10)), (failing(5_000, 250), failing(5_000, 250))
    found = on(gathered(*[calm, rough] * 20), Subject.ERRORS)
    assert found.canary is not None
    assert found.control is not None
    assert found.canary > 2 * found.control * 0.7
    assert found.risk == pytest.approx(1, abs=0.02)
    assert found.ground is Ground.LEVEL


def test_doubled_latency_is_found_within_a_thousand_requests() -> None:
    source, evidence, sent = random.Random(1), begin(), 0
    while on(evidence, Subject.P95).ground is not Ground.WORSE:
        canary, control = timed(source, 20, slower=2), timed(source, 80)
        evidence = add(evidence, Slot(start_s=sent, canary=canary, control=control))
        sent += 20
    assert sent <= 1_000


def test_a_tail_that_doubles_alone_is_found_within_a_thousand_requests() -> None:
    source, evidence, sent = random.Random(2), begin(), 0
    while not any(one.ground is Ground.WORSE for one in compared(evidence)):
        canary, control = timed(source, 90), timed(source, 400)
        canary.latency.merge(timed(source, 10, slower=5).latency)
        evidence = add(evidence, Slot(start_s=sent, canary=canary, control=control))
        sent += 100
    assert sent <= 1_000


def test_a_canary_slower_by_less_than_the_margin_is_level_however_steady_latencies_are() -> None:
    source, evidence = random.Random(3), begin()
    for number in range(40):
        canary = timed(source, 100, slower=1.05, spread=0.05)
        control = timed(source, 400, spread=0.05)
        evidence = add(evidence, Slot(start_s=number, canary=canary, control=control))
    grounds = {m: on(evidence, m).ground for m in (Subject.P50, Subject.P95, Subject.P99)}
    assert set(grounds.values()) == {Ground.LEVEL}


def test_bad_minutes_of_both_sides_are_no_difference() -> None:
    source, evidence = random.Random(4), begin()
    for number in range(60):
        slower = 5.0 if 20 <= number < 30 else 1.0
        canary = timed(source, 50, slower=slower)
        control = timed(source, 200, slower=slower)
        evidence = add(evidence, Slot(start_s=number, canary=canary, control=control))
    assert {on(evidence, m).ground for m in (Subject.P50, Subject.P95, Subject.P99)} == {
        Ground.LEVEL
    }


def test_limits_are_settled_before_the_requests_that_they_are_for() -> None:
    source = random.Random(5)
    evidence = gathered(*[(timed(source, 100), timed(source, 400))] * 2)
    limits = evidence.yardstick.limits
    assert [one.beyond_ms for one in compared(evidence)][:2] == [None, None]
    slow = Slot(start_s=50, canary=timed(source, 10), control=timed(source, 10, slower=9))
    assert on(add(evidence, slow), Subject.P95).control_requests == 810
    late = slow.control.latency.above(limits[1])
    before = track(evidence, Subject.P95).counts.control
    assert track(add(evidence, slow), Subject.P95).counts.control == before + late


def test_limits_follow_the_time_of_day() -> None:
    source, evidence = random.Random(6), begin()
    for number in range(160):
        slower = 1.0 if number < 30 else 3.0
        slot = Slot(
            start_s=number,
            canary=timed(source, 10, slower=slower),
            control=timed(source, 100, slower=slower),
        )
        evidence = add(evidence, slot)
    found = on(evidence, Subject.P50).beyond_ms
    assert found == pytest.approx(180, rel=0.1)


@pytest.mark.parametrize("buckets", [0, 1, 4])
def test_a_canary_slower_by_no_more_than_is_tolerated_is_never_late_more_often(
    buckets: int,
) -> None:
    control = Histogram(dict.fromkeys(range(200, 300), 7))
    canary = Histogram({bucket + buckets: 7 for bucket in range(200, 300)})
    evidence = gathered(
        *[(Side(requests=700, latency=canary), Side(requests=700, latency=control))] * 3
    )
    for subject in (Subject.P50, Subject.P95, Subject.P99):
        found = on(evidence, subject)
        assert found.canary is not None
        assert found.control is not None
        assert found.canary <= found.control


def test_latencies_that_are_all_alike_are_compared_all_the_same() -> None:
    canary = Histogram({bucket_of(80_000): 10})
    control = Histogram({bucket_of(40_000): 40})
    slots = [(Side(requests=10, latency=canary), Side(requests=40, latency=control))] * 4
    assert on(gathered(*slots), Subject.P95).ground is Ground.WORSE
    same = [(Side(requests=40, latency=control), Side(requests=40, latency=control))] * 9
    assert on(gathered(*same), Subject.P95).ground is Ground.LEVEL


@given(
    half=st.tuples(
        st.integers(1, 1_000), st.integers(1, 1_000), st.integers(0, 50), st.integers(0, 50)
    )
)
def test_a_slot_in_two_parts_says_what_it_says_at_once(half: tuple[int, int, int, int]) -> None:
    canary_of, control_of, canary, control = half
    canary, control = min(canary, canary_of), min(control, control_of)
    twice = gathered(*[(failing(canary_of, canary), failing(control_of, control))] * 2)
    once = gathered((failing(2 * canary_of, 2 * canary), failing(2 * control_of, 2 * control)))
    parts, whole = track(twice, Subject.ERRORS).counts, track(once, Subject.ERRORS).counts
    assert (parts.canary, parts.control_requests) == (whole.canary, whole.control_requests)
    assert relative_risk(parts) == pytest.approx(relative_risk(whole))


@given(any_slots)
@settings(deadline=None, max_examples=30)
def test_recent_slots_count_as_they_will_once_they_are_complete(slots: list[Slot]) -> None:
    slots = sorted(slots, key=lambda slot: slot.start_s)
    whole = begin()
    for slot in slots:
        whole = add(whole, slot)
    for complete in range(len(slots) + 1):
        evidence = begin()
        for slot in slots[:complete]:
            evidence = add(evidence, slot)
        assert judge(evidence, slots[complete:], LOOK) == judge(whole, (), LOOK)


def test_a_slot_that_was_counted_is_not_counted_again() -> None:
    once = gathered((failing(10, 1), failing(40, 1)), (failing(10, 1), failing(40, 1)))
    for start_s in (0, 5, 10):
        slot = Slot(start_s=start_s, canary=failing(10, 9), control=failing(40, 0))
        assert add(once, slot) is once


def test_only_what_has_changed_since_the_last_look_is_counted_again() -> None:
    evidence = gathered((failing(10, 1), failing(40, 1)))
    slots = [
        Slot(start_s=20 + 10 * n, canary=failing(10, n), control=failing(40, 1)) for n in range(4)
    ]
    first = follow(evidence, slots)
    slots[2] = replace(slots[2], canary=failing(11, 3))
    second = follow(evidence, slots, first)
    assert [new is old for new, old in zip(second, first, strict=True)] == [
        True,
        True,
        False,
        False,
    ]
    assert second == follow(evidence, slots)
    assert follow(gathered(), slots, second)[0] is not second[0]


@given(any_slots)
@settings(deadline=None, max_examples=30)
def test_evidence_is_whole_after_a_restart(slots: list[Slot]) -> None:
    evidence = begin()
    for slot in sorted(slots, key=lambda slot: slot.start_s):
        again = document.read(json.loads(json.dumps(document.write(evidence))), evidence.measures)
        assert again == evidence
        assert add(again, slot) == add(evidence, slot)
        evidence = add(evidence, slot)


def test_a_document_is_bounded() -> None:
    everything = Histogram(dict.fromkeys(range(LAST_BUCKET + 1), 10**12))
    full = Side(requests=10**15, errors=10**12, client_errors=10**12, latency=everything)
    evidence = gathered(*[(full, full)] * 70)
    assert evidence.yardstick.old.count
    assert len(json.dumps(document.write(evidence))) < 70_000


@pytest.mark.parametrize("part", ["version", "tracks", "yardstick", "traffic", "until_s"])
def test_a_document_without_a_part_is_none(part: str) -> None:
    whole = document.write(begin())
    with pytest.raises(InvalidEvidence):
        document.read({name: value for name, value in whole.items() if name != part}, measures())
    for wrong in ("no", [1], {"no": 1}):
        with pytest.raises(InvalidEvidence):
            document.read({**whole, part: wrong}, measures())


def test_evidence_by_other_measures_cannot_be_gone_on_with() -> None:
    whole = document.write(begin())
    with pytest.raises(InvalidEvidence, match="another margin"):
        document.read(whole, measures(margin=0.5))
    with pytest.raises(InvalidEvidence, match="it is about"):
        document.read(whole, measures()[:2])
    with pytest.raises(InvalidEvidence, match="version 2"):
        document.read({**whole, "version": 2}, measures())


@given(any_slots)
@settings(deadline=None, max_examples=30)
def test_nothing_raises_whatever_the_counts(slots: list[Slot]) -> None:
    found = judge(begin(), sorted(slots, key=lambda slot: slot.start_s), LOOK)
    for one in found.compared:
        assert 0 <= one.e_value < math.inf
        assert 0 < one.p_value <= 1
        assert str(one)
    assert isinstance(found.traffic.is_alarming, bool)


def test_bounds_close_in_on_the_risk() -> None:
    few, many = (
        bounds(measures()[0], track(gathered(*[slot] * n), Subject.ERRORS))
        for slot, n in [((failing(100, 3), failing(400, 4)), n) for n in (2, 2_000)]
    )
    assert few is not None
    assert many is not None
    assert few[0] < many[0] < 3 < many[1] < few[1]
    assert many == pytest.approx((3, 3), rel=0.15)
    assert bounds(measures()[0], track(begin(), Subject.ERRORS)) is None


def test_where_the_canary_is_proven_worse_the_bounds_say_so_too() -> None:
    evidence = begin()
    while ground(measures()[0], track(evidence, Subject.ERRORS)) is not Ground.WORSE:
        start_s = 0 if evidence.until_s is None else evidence.until_s + 10
        slot = Slot(start_s=start_s, canary=failing(100, 2), control=failing(400, 4))
        evidence = add(evidence, slot)
    found = compared(evidence)[0]
    assert found.least is not None
    assert found.risk is not None
    assert found.most is not None
    assert 1 <= found.least < found.risk < found.most


def shared(canary: int, control: int, slots: int, *, expected: float | None = 0.2) -> Traffic:
    evidence = begin()
    for number in range(slots):
        slot = Slot(
            start_s=number,
            canary=failing(canary, 0),
            control=failing(control, 0),
            expected=expected,
        )
        evidence = add(evidence, slot)
    return evidence.traffic


def test_traffic_that_does_not_fit_the_weights_is_alarming() -> None:
    for canary in (60, 140):
        found = shared(canary, 400, 200)
        assert found.is_alarming
        assert found.deviation == pytest.approx(canary / (0.2 * (canary + 400)) - 1)


def test_traffic_that_nearly_fits_is_not_alarming_however_much_there_is() -> None:
    found = shared(10_500, 40_000, 5_000)
    assert found.odds.e_value < 1_000 or abs(found.deviation or 0) < 0.1
    assert not found.is_alarming


def test_traffic_is_not_judged_where_the_weights_are_unknown() -> None:
    found = shared(400, 100, 100, expected=None)
    assert found == Traffic()
    assert found.deviation is None


def test_errors_of_users_who_try_three_times_count_as_one_each() -> None:
    source, worse = random.Random(8), 0
    for _ in range(20):
        evidence = begin()
        for number in range(300):
            own = sum(source.random() < 0.2 for _ in range(source.randrange(4)))
            others = sum(source.random() < 0.8 for _ in range(source.randrange(4)))
            slot = Slot(
                start_s=number, canary=failing(300, 3 * own), control=failing(1_200, 3 * others)
            )
            evidence = add(evidence, slot)
        assert track(evidence, Subject.ERRORS).dispersion.clump > 2
        worse += on(evidence, Subject.ERRORS).ground is Ground.WORSE
    assert worse == 0


def test_errors_that_come_one_by_one_do_not_look_like_clumps() -> None:
    for chance in (0.2, 0.4):
        source, evidence = random.Random(9), begin()
        for number in range(500):
            own = sum(source.random() < chance for _ in range(5))
            slot = Slot(start_s=number, canary=failing(300, own), control=failing(1_200, 5 - own))
            evidence = add(evidence, slot)
        assert track(evidence, Subject.ERRORS).dispersion.clump < 1.15


def test_users_who_make_many_requests_each_do_not_alarm() -> None:
    source, alarms = random.Random(7), 0
    for _ in range(40):
        evidence = begin()
        for number in range(60):
            sides = [0, 0]
            for _ in range(10):
                sides[source.random() < 0.2] += min(60, int(source.paretovariate(1.2)))
            slot = Slot(
                start_s=number,
                canary=failing(sides[1], 0),
                control=failing(sides[0], 0),
                expected=0.2,
            )
            evidence = add(evidence, slot)
        alarms += evidence.traffic.is_alarming
    assert alarms == 0
