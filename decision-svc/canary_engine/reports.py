"""Metrics that people report: what of them is added up, and what is averaged.

Amounts (AMOUNTS) are added up: every report tells of something else that happened. All others are
averages over the observations that a report stands for. Active users are a number at a moment:
averaged over time, and added up over series, which tell of different users.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from canary_engine.metric_snapshot import MetricSnapshot, with_value
from canary_engine.plan import Metric

AMOUNTS = frozenset(
    {
        Metric.CRITICAL_ERRORS,
        Metric.REVENUE,
        Metric.FEATURE_USAGE,
        Metric.FEEDBACK,
        Metric.COMPLAINTS,
    }
)
MEASURED = frozenset(
    {
        Metric.ERROR_RATE,
        Metric.ERROR_COUNT,
        Metric.AVG_RESPONSE_TIME,
        Metric.P50_RESPONSE_TIME,
        Metric.P95_RESPONSE_TIME,
        Metric.P99_RESPONSE_TIME,
        Metric.THROUGHPUT,
    }
)
"""What gateways tell of every request, so that nobody reports it beside them."""
MOST: Mapping[Metric, float] = {
    Metric.SATISFACTION: 5,
    Metric.MEMORY: 100,
    Metric.CONVERSION_RATE: 100,
    Metric.BOUNCE_RATE: 100,
}
"""The most that a metric can be, where there is a most."""
ANY_SIGN = frozenset({Metric.REVENUE, Metric.CUSTOM})
"""Metrics that may be below zero."""


class Series(NamedTuple):
    """Reports that belong together; ``dimensions`` are in the order of their names."""

    metric: Metric
    name: str
    version: str
    dimensions: tuple[tuple[str, str], ...] = ()


class Total(NamedTuple):
    """What the reports of a series come to: a sum over so many observations."""

    sum: float = 0.0
    observations: int = 0


def total_of(metric: Metric, value: float, count: int) -> Total:
    """A report of ``value`` that stands for ``count`` observations."""
    return Total(value if metric in AMOUNTS else value * count, count)


def together(one: Total, other: Total) -> Total:
    """Both."""
    return Total(one.sum + other.sum, one.observations + other.observations)


def snapshot(totals: Mapping[Series, Total], version: str, known: MetricSnapshot) -> MetricSnapshot:
    """``known`` with all that is reported of a version."""
    by_metric: dict[tuple[Metric, str], list[Total]] = {}
    for series, total in totals.items():
        if series.version == version and total.observations:
            by_metric.setdefault((series.metric, series.name), []).append(total)
    for (metric, name), found in by_metric.items():
        known = with_value(known, metric, name, _value(metric, found))
    return known


def _value(metric: Metric, totals: Iterable[Total]) -> float:
    totals = list(totals)
    if metric in AMOUNTS:
        return sum(total.sum for total in totals)
    if metric is Metric.ACTIVE_USERS:
        return sum(total.sum / total.observations for total in totals)
    return sum(total.sum for total in totals) / sum(total.observations for total in totals)
