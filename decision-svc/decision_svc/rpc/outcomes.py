"""Outcomes as messages: what gateways report, what people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_engine.histogram import LAST_BUCKET, Histogram
from canary_engine.model import Cohort, Reason, Variant
from canary_engine.outcomes import Labels, Tally

from decision_svc.errors import BadRequest
from decision_svc.exposure.protocol import Served
from decision_svc.outcomes.protocol import Flat, Reported
from decision_svc.rpc.convert import REASONS, VARIANTS
from decision_svc.shadows import Pair

DEFAULT_WINDOW_S = 60
MAX_STATUS = 999
MAX_TEXT = 255
MAX_BATCH_ID = 64
MAX_MARKS = 10_000
MAX_NOTES = 1_000
COHORTS = {cohort: policy_pb2.Cohort.Value("COHORT_" + cohort.upper()) for cohort in Cohort}
_COHORTS: Mapping[int, Cohort] = {number: cohort for cohort, number in COHORTS.items()}
_REASONS: Mapping[int, Reason] = {number: reason for reason, number in REASONS.items()}
_VARIANTS: Mapping[int, Variant] = {number: variant for variant, number in VARIANTS.items()}


def reported(request: pb.ReportOutcomesRequest) -> list[Reported]:
    """What a gateway reports. Raises BadRequest with every complaint."""
    complaints = []
    if not 0 < len(request.batch_id) <= MAX_BATCH_ID:
        complaints.append(f"batch_id: give one of at most {MAX_BATCH_ID} characters")
    for index, series in enumerate(request.series):
        complaints += (f"series[{index}].{line}" for line in _complaints(series))
    complaints += _note_complaints(request)
    if complaints:
        raise BadRequest(*complaints)
    return [_reported(series) for series in request.series]


def _note_complaints(request: pb.ReportOutcomesRequest) -> Iterator[str]:
    if sum(len(served.marks) for served in request.served) > MAX_MARKS:
        yield f"served: at most {MAX_MARKS:,} marks"
    for name in ("served", "shadows"):
        if len(getattr(request, name)) > MAX_NOTES:
            yield f"{name}: at most {MAX_NOTES:,}"
    for index, served in enumerate(request.served):
        if len(served.release_id) > MAX_TEXT:
            yield f"served[{index}].release_id: at most {MAX_TEXT} characters"
        if served.variant not in _VARIANTS:
            yield f"served[{index}].variant: say which"
    for index, shadow in enumerate(request.shadows):
        if not {shadow.in_force, shadow.shadow} <= _VARIANTS.keys():
            yield f"shadows[{index}].in_force, shadow: say which variants"
        if not {shadow.in_force_reason, shadow.shadow_reason} <= _REASONS.keys():
            yield f"shadows[{index}].in_force_reason, shadow_reason: say why"


def served_of(message: pb.Served) -> Served:
    """Which variant of which release has served the users of a message."""
    return Served(message.service_key, message.release_id, _VARIANTS[message.variant])


def pair_of(message: pb.ShadowTally) -> Pair:
    """What was said in force, and what the shadow says."""
    return Pair(
        _VARIANTS[message.in_force],
        _REASONS[message.in_force_reason],
        _VARIANTS[message.shadow],
        _REASONS[message.shadow_reason],
    )


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


def write_series(labels: Labels, tally: Flat, message: pb.OutcomeSeries) -> None:
    """Write what happened under labels into an empty message, but for its age and service key."""
    message.version, message.release_id = labels.version, labels.release_id
    message.variant, message.cohort = VARIANTS[labels.variant], COHORTS[labels.cohort]
    message.statuses.update(zip(tally.statuses[::2], tally.statuses[1::2], strict=True))
    message.lost = tally.lost
    _write_histogram(tally.request, tally.request_us, message.request)
    _write_histogram(tally.upstream, tally.upstream_us, message.upstream)


def _write_histogram(flat: Sequence[int], sum_us: int, message: pb.LatencyHistogram) -> None:
    message.buckets.extend(flat[::2])
    message.counts.extend(flat[1::2])
    message.sum_us = sum_us


def _histogram(message: pb.LatencyHistogram) -> Histogram:
    counts = dict(zip(message.buckets, message.counts, strict=True))
    return Histogram(counts, message.sum_us)


def window_s(request: admin_pb2.ListOutcomesRequest, kept_s: int) -> int:
    """How far to look back. Raises BadRequest."""
    if request.window_s > kept_s:
        raise BadRequest(f"window_s: at most {kept_s:,}")
    return request.window_s or DEFAULT_WINDOW_S


def listed(found: Mapping[Labels, Tally]) -> admin_pb2.ListOutcomesResponse:
    """Outcomes for people, in the order of versions, stable before canary, cohorts together."""
    cohorts: dict[Labels, dict[Cohort, Tally]] = {}
    for labels, tally in found.items():
        cohorts.setdefault(labels._replace(cohort=Cohort.OTHER), {})[labels.cohort] = tally
    order = sorted(cohorts, key=lambda labels: (labels.version, labels.variant != "stable", labels))
    return admin_pb2.ListOutcomesResponse(
        outcomes=[_version(labels, cohorts[labels]) for labels in order]
    )


def _version(labels: Labels, cohorts: Mapping[Cohort, Tally]) -> admin_pb2.VersionOutcomes:
    tally = Tally()
    for part in cohorts.values():
        tally.merge(part)
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
        cohorts=[
            admin_pb2.CohortOutcomes(
                cohort=COHORTS[cohort],
                requests=cohorts[cohort].requests,
                errors=cohorts[cohort].errors,
            )
            for cohort in Cohort
            if cohort is not Cohort.OTHER and cohort in cohorts
        ],
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
