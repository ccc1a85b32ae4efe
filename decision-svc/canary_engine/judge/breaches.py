"""Limits that a plan sets: which are broken, and for how long without a break.

What a limit is about may be unknown for a while, or nobody looks. That is no breach and no
recovery: the clock of a limit that was broken stands still. Once the metric is seen to be broken
again, the clock goes on. A gap of at most LONGEST_GAP_S then counts as broken, a longer one does
not count; and after one that is longer than the limit's own duration the clock starts at zero, for
what was seen before it is too old. A metric that is seen to be well stops the clock at once.

A rate or a time of two requests is a toss of a coin. So a limit on one is held only once
LEAST_REQUESTS came while it was broken, however short its duration is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isnan

from canary_engine.model import Cohort
from canary_engine.plan import Limit, Metric, said

LONGEST_GAP_S = 60.0
LEAST_REQUESTS = 20
OF_REQUESTS = frozenset(
    {
        Metric.ERROR_RATE, Metric.AVG_RESPONSE_TIME,
        Metric.P50_RESPONSE_TIME, Metric.P95_RESPONSE_TIME, Metric.P99_RESPONSE_TIME,
    }
)  # fmt: skip
"""The metrics that are the better known the more requests there were."""
Reading = Callable[[Metric, str], float | None]
"""A metric's value, given it and the name of a custom one; None if it is unknown."""


class Standing(StrEnum):
    """How a metric stands to its limit; held is broken for as long as the limit says."""

    WELL = "well"
    BROKEN = "broken"
    HELD = "held"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A limit that is broken for one cohort; what lies between the two counts as broken."""

    limit: Limit
    cohort: Cohort
    since_s: float
    last_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How one limit stands for one cohort; the bounds are absolute, also those of stable's.

    ``is_early`` says that it was broken for long enough, but while too few requests came.
    """

    limit: Limit
    cohort: Cohort
    standing: Standing
    value: float | None = None
    least: float | None = None
    most: float | None = None
    broken_s: float = 0.0
    is_early: bool = False

    def __str__(self) -> str:
        what = f"{self.limit.name or self.limit.metric} of {_WHOSE[self.cohort]}"
        if self.value is None:
            return f"{what} is unknown"
        bounds = []
        if self.most is not None:
            bounds.append(f"at most {said(self.limit.metric, self.most)}")
        if self.least is not None:
            bounds.append(f"at least {said(self.limit.metric, self.least)}")
        return f"{what} is {said(self.limit.metric, self.value)}, should be {' and '.join(bounds)}"


_WHOSE = {
    Cohort.DRAWN: "the canary",
    Cohort.CHOSEN: "users chosen for the canary",
    Cohort.CONTROL: "control",
    Cohort.OTHER: "stable",
}


def check(
    limits: Sequence[Limit],
    cohort: Cohort,
    read: Reading,
    stable: Reading,
    breaches: Sequence[Breach],
    now_s: float,
) -> tuple[tuple[Checked, ...], tuple[Breach, ...]]:
    """How all the limits stand now, and the breaches to bring along to the next look."""
    by_limit = {(breach.limit, breach.cohort): breach for breach in breaches}
    found = [
        # A limit's hash takes longer than all else here, and mostly nothing is broken.
        _check(
            limit, cohort, read, stable, by_limit.get((limit, cohort)) if by_limit else None, now_s
        )
        for limit in limits
    ]
    return tuple(one for one, _ in found), tuple(breach for _, breach in found if breach)


def _check(
    limit: Limit,
    cohort: Cohort,
    read: Reading,
    stable: Reading,
    before: Breach | None,
    now_s: float,
) -> tuple[Checked, Breach | None]:
    value, least, most = measured(limit, read, stable)
    if value is None:
        return Checked(limit=limit, cohort=cohort, standing=Standing.UNKNOWN), before
    is_early = False
    if (least is None or value >= least) and (most is None or value <= most):
        standing, after, broken_s = Standing.WELL, None, 0.0
    else:
        after = _goes_on(before, limit, cohort, now_s)
        broken_s = after.last_s - after.since_s
        is_long = broken_s >= limit.duration_s
        is_early = is_long and _is_early(limit, read, broken_s)
        standing = Standing.HELD if is_long and not is_early else Standing.BROKEN
    checked = Checked(
        limit=limit,
        cohort=cohort,
        standing=standing,
        value=value,
        least=least,
        most=most,
        broken_s=broken_s,
        is_early=is_early,
    )
    return checked, after


def _is_early(limit: Limit, read: Reading, broken_s: float) -> bool:
    """Whether too few requests came meanwhile, by how many there are a second now."""
    if limit.metric not in OF_REQUESTS:
        return False
    throughput = read(Metric.THROUGHPUT, "")
    return throughput is not None and throughput * broken_s < LEAST_REQUESTS


def measured(
    limit: Limit, read: Reading, stable: Reading
) -> tuple[float | None, float | None, float | None]:
    """The value and its bounds; the value is None if that, or stable's where needed, is unknown.

    Of a stable that has nothing, every percentage is nothing: one error is more than it.
    """
    value = read(limit.metric, limit.name)
    if value is None or isnan(value):
        return None, None, None
    if not limit.of_stable:
        return value, limit.min, limit.max
    of = stable(limit.metric, limit.name)
    if of is None or isnan(of):
        return None, None, None
    return value, _percent(limit.min, of), _percent(limit.max, of)


def _goes_on(before: Breach | None, limit: Limit, cohort: Cohort, now_s: float) -> Breach:
    if before is None:
        return Breach(limit=limit, cohort=cohort, since_s=now_s, last_s=now_s)
    gap = now_s - before.last_s
    held = before.last_s - before.since_s
    if 0 <= gap <= LONGEST_GAP_S:
        held += gap
    elif gap > max(limit.duration_s, LONGEST_GAP_S):
        held = 0.0
    return Breach(limit=limit, cohort=cohort, since_s=now_s - held, last_s=now_s)


def _percent(bound: float | None, of: float) -> float | None:
    return None if bound is None else bound / 100 * of
