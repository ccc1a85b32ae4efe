"""Metrics of one side: unknown stays unknown, and every metric of a plan can be asked for."""

from __future__ import annotations

import pytest
from canary_engine.metric_snapshot import MetricSnapshot, of_tally, value, with_value
from canary_engine.outcomes import Tally
from canary_engine.plan import NAMED, Metric

EMPTY = MetricSnapshot()


def name_of(metric: Metric) -> str:
    return "sign-ups" if metric in NAMED else ""


def a_tally() -> Tally:
    tally = Tally(lost=7)
    for status, milliseconds in ((200, 10), (200, 20), (404, 30), (502, 40)):
        tally.add(status, milliseconds * 1_000, None)
    return tally


@pytest.mark.parametrize("metric", Metric)
def test_a_metric_is_unknown_until_it_is_said_and_then_is_what_was_said(metric: Metric) -> None:
    assert value(EMPTY, metric, name_of(metric)) is None
    said = with_value(EMPTY, metric, name_of(metric), 7)
    assert value(said, metric, name_of(metric)) == 7
    others = {other for other in Metric if value(said, other, name_of(other)) is not None}
    assert others == {metric}


def test_zero_is_known() -> None:
    assert value(with_value(EMPTY, Metric.REVENUE, "", 0.0), Metric.REVENUE) == 0.0


@pytest.mark.parametrize("metric", sorted(NAMED))
def test_metrics_of_which_there_are_many_are_told_apart_by_name(metric: Metric) -> None:
    both = with_value(with_value(EMPTY, metric, "a", 1), metric, "b", 2)
    assert [value(both, metric, name) for name in ("a", "b", "c")] == [1, 2, None]


def test_outcomes_say_how_fast_it_is_and_what_goes_wrong() -> None:
    found = of_tally(a_tally(), 20)
    assert found.performance.requests == 4
    assert found.performance.throughput == 0.2
    assert found.performance.avg_ms == 25
    assert found.performance.p50_ms == pytest.approx(20, rel=0.01)
    assert found.performance.p95_ms == pytest.approx(40, rel=0.01)
    assert found.performance.p99_ms == pytest.approx(40, rel=0.01)
    assert (found.errors.count, found.errors.rate) == (1, 25)
    assert found.errors.by_type == {404: 1, 502: 1}
    assert found.errors.critical is None
    assert (found.performance.cpu, found.users.satisfaction) == (None, None)


def test_without_requests_rates_and_times_are_unknown_but_counts_are_zero() -> None:
    found = of_tally(Tally(), 60)
    assert value(found, Metric.ERROR_RATE) is None
    assert value(found, Metric.AVG_RESPONSE_TIME) is None
    assert value(found, Metric.P95_RESPONSE_TIME) is None
    assert value(found, Metric.ERROR_COUNT) == 0
    assert value(found, Metric.THROUGHPUT) == 0


def test_counts_of_errors_are_whole_numbers() -> None:
    assert with_value(EMPTY, Metric.CRITICAL_ERRORS, "", 2.0).errors.critical == 2


@pytest.mark.parametrize("window_s", [0, -1])
def test_a_window_without_length_is_refused(window_s: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        of_tally(a_tally(), window_s)
