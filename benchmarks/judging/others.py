"""Three other judges, each made anew from its published description; none of their code is here.

Their operator knows the service: what stable usually has is given, and limits are set by it.

* Flagger (docs.flagger.app, "How it works" and "Metrics Analysis"): every interval the success rate
  and the p99 are compared with fixed limits; at ``threshold`` failed checks, in total, it rolls
  back. A check without values fails.
* Argo Rollouts (argo-rollouts.readthedocs.io, "Analysis & Progressive Delivery"): a measurement an
  interval; more than ``failureLimit`` failed ones of a metric end the rollout, and so do more than
  ``consecutiveErrorLimit`` (4) in a row that could not be made.
* Kayenta ("Automated Canary Analysis at Netflix with Kayenta", Netflix Technology Blog, 2018, and
  its documentation): series of both sides are compared by the confidence interval of the
  Mann-Whitney test; a metric is High if the interval lies above a tolerance. The score is the
  percentage of metrics that are not; below 75 at any analysis, or 95 at the last, the canary fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from canary_engine.histogram import value_of
from numpy.typing import NDArray

from judging.streams import BUCKETS, CHECK_S, Cell, Sides, Stream, usual_ms

Floats = NDArray[np.float64]
Ints = NDArray[Any]
FLAGGER_THRESHOLD = 5
ARGO_FAILURE_LIMIT = 3
ARGO_ERRORS_IN_A_ROW = 4
KAYENTA_POINT_S = 30
KAYENTA_FIRST, KAYENTA_EVERY = 10, 5
KAYENTA_TOLERANCE = 0.25
KAYENTA_MARGINAL, KAYENTA_PASS = 75.0, 95.0
_Z_98 = 2.3263478740408408
_MILLISECONDS = np.array([value_of(int(bucket)) / 1_000 for bucket in BUCKETS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an operator allows: twice the usual error rate, half as long again as usual.

    In a plain cell, which is there for the errors alone, any latency is allowed.
    """

    errors: float
    p95_ms: float
    p99_ms: float


def limits(cell: Cell) -> Limits:
    """The limits of a cell's service."""
    times = np.inf if cell.is_plain else 1.5
    return Limits(
        errors=2 * cell.rate, p95_ms=times * usual_ms(0.95), p99_ms=times * usual_ms(0.99)
    )


def watch(stream: Stream) -> Mapping[str, Ints]:
    """In which second each of them rolls each release back, -1 never."""
    canary = _points(stream.canary, CHECK_S)
    return {
        "Flagger": flagger(stream.cell, canary),
        "Argo Rollouts": argo(stream.cell, canary),
        "Kayenta": kayenta(stream),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Metrics of one side for every interval: releases x intervals; nan without requests."""

    errors: Floats
    client_errors: Floats
    p50_ms: Floats
    p95_ms: Floats
    p99_ms: Floats


def flagger(cell: Cell, canary: Points) -> Ints:
    """Counted failed checks; a value that is not there fails."""
    allowed = limits(cell)
    is_well = (canary.errors <= allowed.errors) & (canary.p99_ms <= allowed.p99_ms)
    is_well = _without(cell, is_well, False)
    return _when((~is_well).cumsum(axis=1) >= FLAGGER_THRESHOLD)


def argo(cell: Cell, canary: Points) -> Ints:
    """Failed measurements of each metric, and those in a row that could not be made."""
    allowed = limits(cell)
    errors, p95_ms = _without(cell, canary.errors, np.nan), _without(cell, canary.p95_ms, np.nan)
    failed = ((errors > allowed.errors).cumsum(axis=1) > ARGO_FAILURE_LIMIT) | (
        (p95_ms > allowed.p95_ms).cumsum(axis=1) > ARGO_FAILURE_LIMIT
    )
    in_a_row = np.zeros(len(errors), np.int64)
    for check in range(errors.shape[1]):
        in_a_row = np.where(np.isnan(errors[:, check]), in_a_row + 1, 0)
        failed[:, check] |= in_a_row > ARGO_ERRORS_IN_A_ROW
    return _when(failed)


def kayenta(stream: Stream) -> Ints:
    """Five metrics of equal weight, analysed every few checks over all points so far."""
    cell = stream.cell
    canary, control = (_points(side, KAYENTA_POINT_S) for side in (stream.canary, stream.control))
    per_check = CHECK_S // KAYENTA_POINT_S
    at_s = np.full(len(canary.errors), -1, np.int64)
    for check in range(KAYENTA_FIRST, cell.checks + 1, KAYENTA_EVERY):
        seen = min(check, cell.dead_from or check) * per_check
        high = sum(
            _is_high(getattr(canary, name)[:, :seen], getattr(control, name)[:, :seen])
            for name in Points.__slots__
        )
        score = 100 - 100 * np.asarray(high) / len(Points.__slots__)
        least = KAYENTA_PASS if check == cell.checks else KAYENTA_MARGINAL
        at_s[(at_s < 0) & (score < least)] = check * CHECK_S - 1
    return at_s


def _is_high(canary: Floats, control: Floats) -> Ints:
    """Whether the interval of the shift lies above the tolerated part of its estimate."""
    differences = canary[:, :, None] - control[:, None, :]
    differences = differences.reshape(len(canary), -1)
    # A side without requests in an interval has no point; such pairs count as no difference.
    differences = np.nan_to_num(differences, nan=0.0)
    n, m = canary.shape[1], control.shape[1]
    below = int(n * m / 2 - _Z_98 * np.sqrt(n * m * (n + m + 1) / 12))
    ordered = np.partition(differences, (max(0, below), n * m // 2), axis=1)
    lower, estimate = ordered[:, max(0, below)], ordered[:, n * m // 2]
    return (lower > KAYENTA_TOLERANCE * np.abs(estimate)).astype(np.int64)


def _points(side: Sides, length_s: int) -> Points:
    releases, seconds = side.requests.shape
    shape = (releases, seconds // length_s, length_s)
    requests = side.requests.reshape(shape).sum(axis=2)
    latencies = side.latencies.reshape(*shape, -1).sum(axis=2, dtype=np.int64).cumsum(axis=2)
    some = np.where(requests > 0, requests, np.nan)
    return Points(
        errors=side.errors.reshape(shape).sum(axis=2) / some,
        client_errors=side.client_errors.reshape(shape).sum(axis=2) / some,
        p50_ms=_quantile(latencies, some, 0.5),
        p95_ms=_quantile(latencies, some, 0.95),
        p99_ms=_quantile(latencies, some, 0.99),
    )


def _quantile(latencies: Ints, requests: Floats, share: float) -> Floats:
    at = (latencies >= np.ceil(share * requests)[..., None]).argmax(axis=2)
    return np.where(np.isnan(requests), np.nan, _MILLISECONDS[at])


def _without(cell: Cell, values: Any, instead: Any) -> Any:
    """The values with those that a dead source does not give replaced."""
    if cell.dead_from is None:
        return values
    values = values.copy()
    values[:, cell.dead_from :] = instead
    return values


def _when(is_rolled_back: Ints) -> Ints:
    """The last second of the first check at which it is so."""
    found = is_rolled_back.any(axis=1)
    return np.where(found, (is_rolled_back.argmax(axis=1) + 1) * CHECK_S - 1, -1)
