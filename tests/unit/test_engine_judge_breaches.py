"""Limits with durations: when one holds, and what the clock does while nothing is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from canary_engine.errors import InvalidEvidence
from canary_engine.judge import document
from canary_engine.judge.breaches import (
    LONGEST_GAP_S,
    Breach,
    Checked,
    Reading,
    Standing,
    check,
)
from canary_engine.model import Cohort
from canary_engine.plan import CONDITIONS, Limit, Metric

SLOW = Limit(metric=Metric.P95_RESPONSE_TIME, max=1_000, duration="10m")
AT_ONCE = Limit(metric=Metric.ERROR_RATE, max=10)
WELL, BROKEN, GONE = 900.0, 1_100.0, None


def reading(value: float | None) -> Reading:
    """Every metric has that value, and requests are not counted."""
    return lambda metric, _: None if metric is Metric.THROUGHPUT else value


def watched(limit: Limit, *seen: tuple[float, float | None]) -> Checked:
    """How the limit stands after looks at these times, which found these values."""
    breaches: tuple[Breach, ...] = ()
    checked: tuple[Checked, ...] = ()
    for now_s, value in seen:
        checked, breaches = check(
            (limit,), Cohort.DRAWN, reading(value), reading(None), breaches, now_s
        )
    return checked[0]


def every_second(start: int, end: int, value: float | None) -> list[tuple[float, float | None]]:
    return [(float(now), value) for now in range(start, end + 1)]


def test_a_limit_holds_once_it_was_broken_for_its_duration() -> None:
    assert watched(SLOW, *every_second(0, 599, BROKEN)).standing is Standing.BROKEN
    held = watched(SLOW, *every_second(0, 600, BROKEN))
    assert (held.standing, held.broken_s) == (Standing.HELD, 600)


def test_a_limit_without_duration_holds_at_once_where_requests_are_not_counted() -> None:
    assert watched(AT_ONCE, (0.0, 10.1)).standing is Standing.HELD
    assert watched(AT_ONCE, (0.0, 10.0)).standing is Standing.WELL


@pytest.mark.parametrize(("a_second", "held_at_s"), [(0.5, 40), (10, 2), (1_000, 1)])
def test_a_rate_is_held_once_enough_requests_came_while_it_was_broken(
    a_second: float, held_at_s: int
) -> None:
    def read(metric: Metric, _: str) -> float:
        return a_second if metric is Metric.THROUGHPUT else 50.0

    standings, breaches = [], tuple[Breach, ...]()
    for now_s in range(held_at_s + 1):
        (one,), breaches = check(
            (AT_ONCE,), Cohort.DRAWN, read, reading(None), breaches, float(now_s)
        )
        standings.append((one.standing, one.is_early))
    assert standings == [(Standing.BROKEN, True)] * held_at_s + [(Standing.HELD, False)]


def test_what_does_not_depend_on_requests_is_held_without_any() -> None:
    full = Limit(metric=Metric.CPU, max=80)
    few = {Metric.CPU: 99.0, Metric.THROUGHPUT: 0.1}
    checked, _ = check(
        (full,), Cohort.DRAWN, lambda metric, _: few.get(metric), reading(None), (), 0.0
    )
    assert checked[0].standing is Standing.HELD


def test_a_metric_that_is_well_stops_the_clock() -> None:
    seen = [*every_second(0, 500, BROKEN), (501.0, WELL), *every_second(502, 1_101, BROKEN)]
    assert watched(SLOW, *seen).broken_s == 599


def test_what_is_unknown_is_no_breach_and_no_recovery() -> None:
    before = every_second(0, 599, BROKEN)
    assert watched(SLOW, *before, *every_second(600, 900, GONE)).standing is Standing.UNKNOWN
    assert watched(SLOW, *every_second(0, 9_000, GONE)).standing is Standing.UNKNOWN
    after = watched(SLOW, *before, *every_second(600, 900, GONE), (901.0, BROKEN))
    assert (after.standing, after.broken_s) == (Standing.BROKEN, 599)
    assert watched(SLOW, *before, (901.0, BROKEN), (902.0, BROKEN)).standing is Standing.HELD


def test_a_short_gap_counts_and_a_long_one_starts_the_clock_anew() -> None:
    short = watched(SLOW, *every_second(0, 100, BROKEN), (100 + LONGEST_GAP_S, BROKEN))
    assert short.broken_s == 100 + LONGEST_GAP_S
    long = watched(SLOW, *every_second(0, 500, BROKEN), (500 + 600.5, BROKEN))
    assert long.broken_s == 0


def test_a_clock_that_goes_back_neither_adds_nor_takes() -> None:
    found = watched(SLOW, *every_second(1_000, 1_100, BROKEN), (50.0, BROKEN), (51.0, BROKEN))
    assert found.broken_s == 101


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_value_that_is_none_is_unknown(value: float | None) -> None:
    assert watched(AT_ONCE, (0.0, value)) == Checked(
        limit=AT_ONCE, cohort=Cohort.DRAWN, standing=Standing.UNKNOWN
    )


@pytest.mark.parametrize(
    ("canary", "stable", "standing"),
    [
        (119.0, 100.0, Standing.WELL),
        (121.0, 100.0, Standing.HELD),
        (79.0, 100.0, Standing.HELD),
        (81.0, 100.0, Standing.WELL),
        (0.1, 0.0, Standing.HELD),
        (0.0, 0.0, Standing.WELL),
        (121.0, None, Standing.UNKNOWN),
        (121.0, math.nan, Standing.UNKNOWN),
    ],
)
def test_bounds_may_be_percentages_of_stable(
    canary: float, stable: float | None, standing: Standing
) -> None:
    limit = Limit(metric=Metric.AVG_RESPONSE_TIME, max=120, min=80, of_stable=True)
    (found,), _ = check((limit,), Cohort.DRAWN, reading(canary), reading(stable), (), now_s=0.0)
    assert found.standing is standing


def test_a_custom_metric_is_asked_for_by_name() -> None:
    asked: list[tuple[Metric, str]] = []

    def read(metric: Metric, name: str) -> float | None:
        asked.append((metric, name))
        return 7.0

    limit = Limit(metric=Metric.CUSTOM, name="carts", min=8)
    (found,), _ = check((limit,), Cohort.CHOSEN, read, reading(None), (), now_s=0.0)
    assert asked == [(Metric.CUSTOM, "carts")]
    assert str(found) == "carts of users chosen for the canary is 7, should be at least 8"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.5, "error-rate of the canary is 12.5 %, should be at most 10 %"),
        (None, "error-rate of the canary is unknown"),
    ],
)
def test_it_says_in_words_how_a_limit_stands(value: float | None, text: str) -> None:
    assert str(watched(AT_ONCE, (0.0, value))) == text


def test_cohorts_have_clocks_of_their_own() -> None:
    read: Callable[[Metric, str], float] = lambda _, __: BROKEN  # noqa: E731
    _, drawn = check((SLOW,), Cohort.DRAWN, read, read, (), now_s=0.0)
    (found,), _ = check((SLOW,), Cohort.CHOSEN, read, read, drawn, now_s=30.0)
    assert found.broken_s == 0


def test_clocks_are_whole_after_a_restart() -> None:
    _, breaches = check(CONDITIONS, Cohort.DRAWN, reading(1.5e4), reading(None), (), now_s=1.25)
    assert [breach.limit for breach in breaches] == list(CONDITIONS[:2])
    written = json.loads(json.dumps(document.write_breaches(breaches)))
    assert document.read_breaches(written) == breaches
    for field in written[0]:
        with pytest.raises(InvalidEvidence):
            document.read_breaches([{name: v for name, v in written[0].items() if name != field}])
    with pytest.raises(InvalidEvidence):
        document.read_breaches([{**written[0], "cohort": "nobody"}])
