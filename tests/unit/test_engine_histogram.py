"""Histograms: quantiles within their error, and merging that loses nothing in any order."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

import pytest
from canary_engine.histogram import ERROR, LAST_BUCKET, LONGEST_US, Histogram, bucket_of, value_of
from hypothesis import given
from hypothesis import strategies as st

SIZE = 20_000
PROMISED = 0.02
DRAWN: dict[str, Callable[[random.Random], float]] = {
    "uniform": lambda r: r.uniform(1_000, 50_000),
    "exponential": lambda r: r.expovariate(1 / 20_000),
    "log-normal": lambda r: r.lognormvariate(9, 2),
    "pareto, endless tail": lambda r: 1_000 * r.paretovariate(0.7),
    "two humps": lambda r: r.gauss(5_000, 200) if r.random() < 0.94 else r.gauss(2_000_000, 9_000),
    "whole milliseconds": lambda r: 1_000 * r.randrange(30),
    "all the same": lambda _: 7_000,
    "mostly nothing": lambda r: 0 if r.random() < 0.9 else r.expovariate(1 / 1_000_000),
}
durations = st.integers(0, LONGEST_US)
some_durations = st.lists(durations, max_size=50)


def of(values: Iterable[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


def merged(*histograms: Histogram) -> Histogram:
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole


def exact(values: list[int], share: float) -> int:
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("name", DRAWN)
def test_quantiles_are_within_what_is_promised(name: str, share: float) -> None:
    source = random.Random(f"{name} {share}")
    values = [min(LONGEST_US, max(0, int(DRAWN[name](source)))) for _ in range(SIZE)]
    parts = [of(values[start::7]) for start in range(7)]
    expected = exact(values, share)
    found = merged(*parts).quantile(share)
    assert found is not None
    assert abs(found - expected) <= PROMISED * expected


@given(st.lists(durations, min_size=1), st.floats(0, 1))
def test_any_quantile_of_any_values_is_within_the_error(values: list[int], share: float) -> None:
    expected = exact(values, share)
    found = of(values).quantile(share)
    assert found is not None
    assert abs(found - expected) <= (ERROR + 1e-9) * expected


@given(some_durations, some_durations, some_durations)
def test_merging_is_associative_and_commutative_and_forgets_nothing(
    a: list[int], b: list[int], c: list[int]
) -> None:
    whole = of(a + b + c)
    assert merged(of(a), merged(of(b), of(c))) == whole
    assert merged(merged(of(a), of(b)), of(c)) == whole
    assert merged(of(c), of(b), of(a)) == whole
    assert whole.count == len(a + b + c)
    assert whole.sum_us == sum(a + b + c)


@given(some_durations, some_durations)
def test_what_is_taken_out_again_was_never_there(a: list[int], b: list[int]) -> None:
    rest = of(a + b)
    rest.take_out(of(b))
    assert rest == of(a)
    assert (rest.count, rest.copy()) == (len(a), rest)


@given(some_durations)
def test_merging_with_nothing_changes_nothing(values: list[int]) -> None:
    assert merged(of(values), Histogram()) == of(values)


@given(some_durations)
def test_buckets_and_counts_make_the_same_histogram_again(values: list[int]) -> None:
    histogram = of(values)
    assert Histogram(dict(histogram), histogram.sum_us) == histogram


@given(durations, durations)
def test_longer_durations_are_never_in_an_earlier_bucket(a: int, b: int) -> None:
    assert (bucket_of(a) <= bucket_of(b)) or a > b


def test_no_duration_however_long_needs_more_buckets() -> None:
    assert bucket_of(10**30) == LAST_BUCKET == bucket_of(LONGEST_US)
    assert abs(value_of(LAST_BUCKET) / LONGEST_US - 1) <= ERROR
    assert LAST_BUCKET < 1_300


def test_nothing_has_no_quantile() -> None:
    assert Histogram().quantile(0.95) is None


def test_zero_stays_zero() -> None:
    assert of([0, 0, 0]).quantile(0.99) == 0.0
