"""E-values: known numbers, an expectation of at most one under every null, and no overflow."""

from __future__ import annotations

import math
import random

import pytest
from canary_engine.judge.measures import measures
from canary_engine.judge.process import LARGEST, MASS_LATER, Mixture, Process, add, begin
from hypothesis import given
from hypothesis import strategies as st

TWICE = Mixture(risks=(2.0,), prior=(1.0,))
GRID = measures()[0].mixture
some_share = st.floats(0.01, 0.99)
some_events = st.integers(0, 12)


def after(mixture: Mixture, canary: int, control: int, share: float) -> Process:
    return add(mixture, begin(mixture), canary=canary, control=control, share=share)


def test_an_event_of_the_canary_counts_what_the_formula_says() -> None:
    one = after(TWICE, 1, 0, 0.2)
    assert one.e_value == pytest.approx(0.85 * 2 / 1.2 + 0.15)
    two = add(TWICE, one, canary=0, control=1, share=0.2)
    later = 0.15 / (1 + math.log(1 + 1 / 50))
    assert two.unspent == pytest.approx(later)
    assert two.e_value == pytest.approx((0.85 * 2 / 1.2 + 0.15 - later) / 1.2 + later)
    assert two.highest == one.e_value
    assert two.events == 2


def test_nothing_seen_is_no_evidence() -> None:
    assert begin(GRID).e_value == 1
    assert sum(begin(GRID).parts) + MASS_LATER == pytest.approx(1)
    assert after(GRID, 0, 0, 0.2) == begin(GRID)


@given(canary=st.integers(0, 50), control=st.integers(0, 50), share=some_share)
def test_a_slot_in_two_parts_is_worth_what_it_is_at_once(
    canary: int, control: int, share: float
) -> None:
    half = after(GRID, canary, control, share)
    parts = add(GRID, half, canary=canary, control=control, share=share)
    whole = after(GRID, 2 * canary, 2 * control, share)
    # Only the weight that is kept for later starts differs: that which the first part has freed.
    freed = 1 + math.log1p((canary + control) / 50)
    assert 1 / freed - 1e-9 <= parts.e_value / whole.e_value <= 1.15


def test_a_clump_that_is_known_counts_if_it_is_more() -> None:
    by_three = add(TWICE, begin(TWICE), canary=30, control=12, share=0.3, clump=3.0)
    assert by_three.parts == pytest.approx(after(TWICE, 10, 4, 0.3).parts)
    slow = Mixture(risks=(2.0,), prior=(1.0,), clump=6.0)
    assert add(slow, begin(slow), canary=30, control=12, share=0.3, clump=3.0).parts == (
        pytest.approx(after(TWICE, 5, 2, 0.3).parts)
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_events_say_nothing_where_only_one_side_has_requests(share: float) -> None:
    assert after(GRID, 50, 0, share) == begin(GRID)


def test_events_of_one_cause_count_as_one() -> None:
    many = after(Mixture(risks=(2.0,), prior=(1.0,), clump=10.0), 30, 10, 0.3)
    assert many.parts == pytest.approx(after(TWICE, 3, 1, 0.3).parts)


@given(events=some_events, share=some_share, boundary=st.floats(1, 1.5))
def test_the_expectation_is_one_at_the_boundary(events: int, share: float, boundary: float) -> None:
    mixture = Mixture(risks=GRID.risks, prior=GRID.prior, boundary=boundary)
    owned = boundary * share / (boundary * share + 1 - share)
    expected = sum(
        math.comb(events, canary)
        * owned**canary
        * (1 - owned) ** (events - canary)
        * after(mixture, canary, events - canary, share).e_value
        for canary in range(events + 1)
    )
    assert expected == pytest.approx(1)


@given(events=some_events, share=some_share, clump=st.floats(1, 20))
def test_counting_several_events_as_one_leaves_the_expectation_at_most_one(
    events: int, share: float, clump: float
) -> None:
    expected = sum(
        math.comb(events, own)
        * share**own
        * (1 - share) ** (events - own)
        * add(GRID, begin(GRID), canary=own, control=events - own, share=share, clump=clump).e_value
        for own in range(events + 1)
    )
    assert expected <= 1 + 1e-9


@given(canary=st.integers(1, 20), control=st.integers(1, 20), data=st.data())
def test_the_expectation_is_at_most_one_for_what_a_draw_without_putting_back_gives(
    canary: int, control: int, data: st.DataObject
) -> None:
    events = data.draw(st.integers(0, canary + control))
    whole = math.comb(canary + control, events)
    expected = sum(
        math.comb(canary, own)
        * math.comb(control, events - own)
        / whole
        * after(GRID, own, events - own, canary / (canary + control)).e_value
        for own in range(max(0, events - control), min(canary, events) + 1)
    )
    assert expected <= 1 + 1e-9


@given(
    canary=st.integers(1, 20),
    control=st.integers(1, 20),
    odds=st.floats(0.2, 1.1),
    data=st.data(),
)
def test_the_expectation_is_at_most_one_for_every_canary_within_the_margin(
    canary: int, control: int, odds: float, data: st.DataObject
) -> None:
    within = measures(margin=0.1)[0].within
    assert within is not None
    events = data.draw(st.integers(0, canary + control))
    owned = range(max(0, events - control), min(canary, events) + 1)
    weights = [
        math.comb(canary, own) * math.comb(control, events - own) * odds**own for own in owned
    ]
    share = canary / (canary + control)
    expected = sum(
        weight / sum(weights) * after(within, own, events - own, share).e_value
        for own, weight in zip(owned, weights, strict=True)
    )
    assert expected <= 1 + 1e-9


@given(canary=some_events, control=some_events, share=some_share)
def test_one_more_event_of_the_canary_is_never_less_evidence(
    canary: int, control: int, share: float
) -> None:
    more = after(GRID, canary + 1, control, share).e_value
    assert more >= after(GRID, canary, control, share).e_value
    assert after(GRID, canary, control + 1, share).e_value <= more


def test_a_canary_as_good_as_control_seldom_looks_bad_at_any_look() -> None:
    source, runs, found = random.Random(14), 1_000, 0
    for _ in range(runs):
        process = begin(GRID)
        for _ in range(40):
            canary = sum(source.random() < 0.2 for _ in range(5))
            process = add(GRID, process, canary=canary, control=5 - canary, share=0.2)
        found += process.highest >= 20
    assert 0 < found <= runs / 20


def test_a_canary_that_goes_bad_after_a_long_good_time_is_found_nearly_as_soon() -> None:
    process = begin(GRID)
    for _ in range(5_000):
        process = add(GRID, process, canary=2, control=8, share=0.2)
    assert process.e_value < 0.1
    slots = 0
    while process.e_value < 1 / 0.007:
        process = add(GRID, process, canary=4, control=8, share=0.2)
        slots += 1
    assert slots < 50


@given(canary=st.integers(0, 10**15), control=st.integers(0, 10**15), share=st.floats(0, 1))
def test_no_number_is_too_large(canary: int, control: int, share: float) -> None:
    process = after(GRID, canary, control, share)
    again = add(GRID, process, canary=control, control=canary, share=share)
    assert 0 <= process.e_value <= LARGEST
    assert 0 <= again.e_value <= again.highest <= LARGEST
