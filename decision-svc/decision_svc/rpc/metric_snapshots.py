"""Metrics as messages: what people report, and what they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary.record.v1 import record_pb2
from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import Policy
from canary_engine.plan import NAMED, Metric
from canary_engine.reports import ANY_SIGN, MEASURED, MOST, Series, total_of

from decision_svc.errors import BadRequest
from decision_svc.reported.protocol import Sample

MAX_METRICS = 1_000
MAX_TEXT = 100
MAX_DIMENSIONS = 10
MAX_ID = 64
MAX_VALUE = 1e15
MAX_COUNT = 10**9
OLDEST = timedelta(minutes=15)
FASTEST_CLOCK = timedelta(minutes=1)
_METRICS: Mapping[int, Metric] = {
    policy_pb2.Metric.Value("METRIC_" + metric.name): metric for metric in Metric
}


def snapshot_message(snapshot: MetricSnapshot) -> record_pb2.MetricSnapshot:
    """Metrics as a message; what is not known is absent."""
    return record_pb2.MetricSnapshot(
        performance=record_pb2.Performance(**_known(snapshot.performance)),
        errors=record_pb2.Errors(**_known(snapshot.errors)),
        business=record_pb2.Business(**_known(snapshot.business)),
        users=record_pb2.Users(**_known(snapshot.users)),
        custom=snapshot.custom,
    )


def _known(part: Any) -> dict[str, Any]:
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return {name: value for name, value in values.items() if value is not None}


def samples(request: pb.ReportMetricsRequest, policy: Policy, now: datetime) -> list[Sample]:
    """What is reported. Raises BadRequest with every complaint."""
    complaints = []
    if len(request.report_id) > MAX_ID:
        complaints.append(f"report_id: at most {MAX_ID} characters")
    if not 0 < len(request.metrics) <= MAX_METRICS:
        complaints.append(f"metrics: give 1 to {MAX_METRICS:,}")
    versions = {version.version for version in policy.versions}
    for index, metric in enumerate(request.metrics[:MAX_METRICS]):
        lines = (*_complaints(metric, now), *_labels_complaints(metric, versions))
        complaints += (f"metrics[{index}].{line}" for line in lines)
    if complaints:
        raise BadRequest(*complaints)
    return [_sample(metric, now) for metric in request.metrics]


def _complaints(message: pb.ReportedMetric, now: datetime) -> Iterator[str]:
    metric, value = _METRICS.get(message.metric), message.value
    if metric is None:
        yield f"metric: give one of {', '.join(m for m in Metric if m not in MEASURED)}"
        return
    if metric in MEASURED:
        yield f"metric: {metric} is what gateways tell by themselves; report something else"
    if bool(message.name) != (metric in NAMED):
        yield "name: a custom metric and the usage of a feature need one, no other has it"
    if not isfinite(value) or abs(value) > MAX_VALUE:
        yield f"value: give a number of at most {MAX_VALUE:g}"
    elif value < 0 and metric not in ANY_SIGN:
        yield f"value: {metric} is never below 0"
    elif value > MOST.get(metric, MAX_VALUE):
        yield f"value: {metric} is at most {MOST[metric]:g}"
    if message.count > MAX_COUNT:
        yield f"count: at most {MAX_COUNT:,}"
    if message.HasField("at"):
        age = now - _at(message, now)
        if age > OLDEST:
            yield "at: report it within 15 minutes"
        elif age < -FASTEST_CLOCK:
            yield "at: that is yet to come; look at the clock"


def _labels_complaints(message: pb.ReportedMetric, versions: set[str]) -> Iterator[str]:
    if message.version not in versions:
        yield f"version: {message.version[:MAX_TEXT]!r} is not registered"
    if len(message.name) > MAX_TEXT:
        yield f"name: at most {MAX_TEXT} characters"
    if len(message.dimensions) > MAX_DIMENSIONS:
        yield f"dimensions: at most {MAX_DIMENSIONS}"
    for name, value in message.dimensions.items():
        if not 0 < len(name) <= MAX_TEXT or not 0 < len(value) <= MAX_TEXT:
            yield f"dimensions: names and values have 1 to {MAX_TEXT} characters"
            return


def _sample(message: pb.ReportedMetric, now: datetime) -> Sample:
    metric = _METRICS[message.metric]
    dimensions = tuple(sorted(message.dimensions.items()))
    series = Series(metric, message.name, message.version, dimensions)
    age_s = max((now - _at(message, now)).total_seconds(), 0.0)
    return Sample(series, age_s, total_of(metric, message.value, message.count or 1))


def _at(message: pb.ReportedMetric, now: datetime) -> datetime:
    return message.at.ToDatetime(tzinfo=now.tzinfo) if message.HasField("at") else now
