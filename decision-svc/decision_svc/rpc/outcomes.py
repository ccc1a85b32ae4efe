"""Outcomes as messages: what gateways report, what people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_engine.histogram import LAST_BUCKET, Histogram
from canary_engine.model import Cohort, Variant
from canary_engine.outcomes import Labels, Tally

from decision_svc.errors import BadRequest
from decision_svc.outcomes.protocol import KEPT_S, Reported
from decision_svc.rpc.convert import VARIANTS

DEFAULT_WINDOW_S = 60
MAX_STATUS = 999
MAX_TEXT = 255
MAX_BATCH_ID = 64
COHORTS = {cohort: policy_pb2.Cohort.Value("COHORT_" + cohort.upper()) for cohort in Cohort}
_COHORTS: Mapping[int, Cohort] = {number: cohort for cohort, number in COHORTS.items()}
_VARIANTS: Mapping[int, Variant] = {number: variant for variant, number in VARIANTS.items()}


def reported(request: pb.ReportOutcomesRequest) -> list[Reported]:
    """What a gateway reports. Raises BadRequest with every complaint."""
    complaints = []
    if not 0 < len(request.batch_id) <= MAX_BATCH_ID:
        complaints.append(f"batch_id: give one of at most {MAX_BATCH_ID} characters")
    for index, series in enumerate(request.series):
        complaints += (f"series[{index}].{line}" for line in _complaints(series))
    if complaints:
        raise BadRequest(*complaints)
    return [_reported(series) for series in request.series]


def _complaints(series: pb.OutcomeSeries) -> Iterator[str]:
    for name in ("service_key", "version", "release_id"):
        if len(getattr(series, name)) > MAX_TEXT:
            yield f"{name}: at most {MAX_TEXT} characters"
    if series.variant not in _VARIANTS:
        yield "variant: say which"
    if any(status > MAX_STATUS for status in series.statuses):
        yield f"statuses: at most {MAX_STATUS}"
    for name in ("request", "upstream"):
        histogram: pb.LatencyHistogram = getattr(series, name)
        if len(histogram.buckets) != len(histogram.counts):
            yield f"{name}: give a count for each bucket"
        if any(bucket > LAST_BUCKET for bucket in histogram.buckets):
            yield f"{name}.buckets: at most {LAST_BUCKET}"
        if len(set(histogram.buckets)) < len(histogram.buckets):
            yield f"{name}.buckets: give each once"
    if sum(series.request.counts) != sum(series.statuses.values()):
        yield "request: give a duration for each status"


def _reported(series: pb.OutcomeSeries) -> Reported:
    labels = Labels(
        series.service_key,
        series.version,
        _VARIANTS[series.variant],
        series.release_id,
        _COHORTS.get(series.cohort, Cohort.OTHER),
    )
    tally = Tally(
        series.statuses, _histogram(series.request), _histogram(series.upstream), series.lost
    )
    return Reported(labels, series.age_s, tally)


def _histogram(message: pb.LatencyHistogram) -> Histogram:
    counts = dict(zip(message.buckets, message.counts, strict=True))
    return Histogram(counts, message.sum_us)


def window_s(request: admin_pb2.ListOutcomesRequest) -> int:
    """How far to look back. Raises BadRequest."""
    if request.window_s > KEPT_S:
        raise BadRequest(f"window_s: at most {KEPT_S}")
    return request.window_s or DEFAULT_WINDOW_S


def listed(found: Mapping[Labels, Tally]) -> admin_pb2.ListOutcomesResponse:
    """Outcomes for people, in the order of versions, stable before canary."""
    order = sorted(found, key=lambda labels: (labels.version, labels.variant != "stable", labels))
    return admin_pb2.ListOutcomesResponse(
        outcomes=[_version(labels, found[labels]) for labels in order]
    )


def _version(labels: Labels, tally: Tally) -> admin_pb2.VersionOutcomes:
    return admin_pb2.VersionOutcomes(
        version=labels.version,
        variant=VARIANTS[labels.variant],
        release_id=labels.release_id,
        requests=tally.requests,
        errors=tally.errors,
        statuses=tally.statuses,
        lost=tally.lost,
        request=_summary(tally.request),
        upstream=_summary(tally.upstream),
    )


def _summary(histogram: Histogram) -> admin_pb2.LatencySummary:
    count = histogram.count
    return admin_pb2.LatencySummary(
        count=count,
        mean_ms=histogram.sum_us / count / 1_000 if count else 0.0,
        p50_ms=(histogram.quantile(0.50) or 0.0) / 1_000,
        p95_ms=(histogram.quantile(0.95) or 0.0) / 1_000,
        p99_ms=(histogram.quantile(0.99) or 0.0) / 1_000,
    )
