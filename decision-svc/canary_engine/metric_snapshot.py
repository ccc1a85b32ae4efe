"""The metrics of one side of a release in one stretch of time; what is not known is None.

The fields are those of ``canary.record.v1.MetricSnapshot``, in the same units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter

from canary_engine.histogram import Histogram
from canary_engine.outcomes import Tally
from canary_engine.plan import Metric

FIRST_FAULT = 400
"""The first status that is counted by itself, be it the client's fault or the server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """How fast it is: times in milliseconds, requests a second, CPU and memory in percent."""

    avg_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    throughput: float | None = None
    cpu: float | None = None
    memory: float | None = None
    requests: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """What goes wrong: the rate in percent of requests, ``by_type`` by status from 400 on."""

    rate: float | None = None
    count: int | None = None
    by_type: Mapping[int, int] = field(default_factory=dict)
    critical: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Business:
    """What the business has of it: the conversion rate in percent, uses of features by name."""

    conversion_rate: float | None = None
    revenue: float | None = None
    active_users: float | None = None
    feature_usage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """What users say and do: satisfaction from 0 to 5, the bounce rate in percent."""

    satisfaction: float | None = None
    feedback: float | None = None
    complaints: float | None = None
    session_duration_s: float | None = None
    bounce_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSnapshot:
    """All that is known of one side; ``custom`` by the names that people gave."""

    performance: Performance = Performance()
    errors: Errors = Errors()
    business: Business = Business()
    users: Users = Users()
    custom: Mapping[str, float] = field(default_factory=dict)


FIELDS: Mapping[Metric, tuple[str, str]] = {
    Metric.ERROR_RATE: ("errors", "rate"),
    Metric.ERROR_COUNT: ("errors", "count"),
    Metric.CRITICAL_ERRORS: ("errors", "critical"),
    Metric.AVG_RESPONSE_TIME: ("performance", "avg_ms"),
    Metric.P50_RESPONSE_TIME: ("performance", "p50_ms"),
    Metric.P95_RESPONSE_TIME: ("performance", "p95_ms"),
    Metric.P99_RESPONSE_TIME: ("performance", "p99_ms"),
    Metric.THROUGHPUT: ("performance", "throughput"),
    Metric.CPU: ("performance", "cpu"),
    Metric.MEMORY: ("performance", "memory"),
    Metric.CONVERSION_RATE: ("business", "conversion_rate"),
    Metric.REVENUE: ("business", "revenue"),
    Metric.ACTIVE_USERS: ("business", "active_users"),
    Metric.SATISFACTION: ("users", "satisfaction"),
    Metric.FEEDBACK: ("users", "feedback"),
    Metric.COMPLAINTS: ("users", "complaints"),
    Metric.SESSION_DURATION: ("users", "session_duration_s"),
    Metric.BOUNCE_RATE: ("users", "bounce_rate"),
}
"""Part and field of every metric that has no name of its own."""
_READ = {metric: attrgetter(".".join(path)) for metric, path in FIELDS.items()}
_WHOLE = frozenset({Metric.ERROR_COUNT, Metric.CRITICAL_ERRORS})


def value(snapshot: MetricSnapshot, metric: Metric, name: str = "") -> float | None:
    """What the snapshot says of a metric; None if that is not known.

    ``name`` is that of a custom metric or of a feature; no other metric has one.
    """
    if metric is Metric.CUSTOM:
        return snapshot.custom.get(name)
    if metric is Metric.FEATURE_USAGE:
        return snapshot.business.feature_usage.get(name)
    found: float | None = _READ[metric](snapshot)
    return found


def with_value(
    snapshot: MetricSnapshot, metric: Metric, name: str, number: float
) -> MetricSnapshot:
    """The snapshot with a metric at ``number``; counts of errors are rounded to whole ones."""
    if metric is Metric.CUSTOM:
        return replace(snapshot, custom={**snapshot.custom, name: number})
    if metric is Metric.FEATURE_USAGE:
        usage = {**snapshot.business.feature_usage, name: number}
        return replace(snapshot, business=replace(snapshot.business, feature_usage=usage))
    part, attribute = FIELDS[metric]
    known = round(number) if metric in _WHOLE else number
    changed = replace(getattr(snapshot, part), **{attribute: known})
    parts = {part: changed}
    return replace(snapshot, **parts)


def of_tally(tally: Tally, window_s: float) -> MetricSnapshot:
    """What outcomes of ``window_s`` seconds say. Without requests rates and times are unknown.

    Times are those from the first byte of the request to the last of the response; quantiles
    are within 1 % (see ``histogram``). Raises ValueError unless ``window_s`` is above zero.
    """
    if window_s <= 0:
        raise ValueError(f"window_s must be above 0, not {window_s:g}")
    requests, errors = tally.requests, tally.errors
    return MetricSnapshot(
        performance=_performance(tally.request, requests, window_s),
        errors=Errors(
            rate=100 * errors / requests if requests else None,
            count=errors,
            by_type={s: n for s, n in sorted(tally.statuses.items()) if s >= FIRST_FAULT and n},
        ),
    )


def _performance(times: Histogram, requests: int, window_s: float) -> Performance:
    count = times.count
    p50, p95, p99 = times.quantiles(0.50, 0.95, 0.99)
    return Performance(
        avg_ms=times.sum_us / count / 1_000 if count else None,
        p50_ms=_ms(p50),
        p95_ms=_ms(p95),
        p99_ms=_ms(p99),
        throughput=requests / window_s,
        requests=requests,
    )


def _ms(time_us: float | None) -> float | None:
    return None if time_us is None else time_us / 1_000
