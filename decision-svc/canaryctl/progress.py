"""How far a release is on its plan, what the judge says, and what it waits for; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from canary.policy.v1 import policy_pb2
from canary.record.v1 import record_pb2

from canaryctl import render

SILENT_AFTER = timedelta(minutes=3)
"""A controller notes what it sees once a minute; one that is silent for so long is gone."""
NOBODY = "no controller has looked at it yet: is canary-controller running?"
HEADINGS = ("service", "step", "since", "verdict", "waits for")
GATE_HEADINGS = ("gate", "name", "open", "waits for", "since")
FINDING_HEADINGS = ("metric", "test", "verdict", "canary", "against", "evidence", "proof at")
ALERT_HEADINGS = ("alert", "severity", "since", "what")

_IN_FORCE = (policy_pb2.RELEASE_STATUS_IN_PROGRESS, policy_pb2.RELEASE_STATUS_PAUSED)
Record = record_pb2.ReleaseRecord


def is_planned(policy: policy_pb2.Policy) -> bool:
    """Whether a release is in force that a controller moves."""
    return policy.HasField("plan") and policy.release.status in _IN_FORCE


def document(policy: policy_pb2.Policy, record: Record | None, now: datetime) -> dict[str, Any]:
    """The same for scripts."""
    found: dict[str, Any] = {
        "step": _step(policy),
        "steps": len(policy.plan.steps),
        "weight_since": render.moment(policy.release.weight_since),
        "verdict": _verdict(record),
        "waits_for": waits_for(policy, record, now),
    }
    if policy.release.HasField("due_rollback"):
        found["due_rollback"] = render.document(policy.release.due_rollback)
    if record is not None:
        found["gates"] = render.documents(record.gates)
        found["findings"] = render.documents(record.findings)
        found["alerts"] = render.documents(_open(record))
    return found


def table(rows: Iterable[tuple[policy_pb2.Policy, Record | None]], now: datetime) -> str:
    """One line for each release."""
    return render.table(HEADINGS, [_row(policy, record, now) for policy, record in rows])


def details(record: Record) -> Iterator[str]:
    """What is known of one: gates, the judge's findings, alerts."""
    if record.gates:
        yield render.section("gates before the next step", GATE_HEADINGS, map(_gate, record.gates))
    if record.findings:
        yield render.section(
            "what the judge says", FINDING_HEADINGS, map(_finding, record.findings)
        )
    if alerts := _open(record):
        yield render.section("alerts", ALERT_HEADINGS, map(_alert, alerts))


def waits_for(policy: policy_pb2.Policy, record: Record | None, now: datetime) -> str:
    """What is waited for and for whom; first of all a controller."""
    if record is None:
        return NOBODY
    at = record.written_at.ToDatetime(UTC)
    if now - at > SILENT_AFTER:
        return f"a controller: none has looked since {render.moment(record.written_at)}"
    return record.waits_for


def _row(policy: policy_pb2.Policy, record: Record | None, now: datetime) -> tuple[object, ...]:
    release = policy.release
    return (
        policy.service_key,
        f"{_step(policy)} of {len(policy.plan.steps)} ({render.percent(release.percentage)})",
        render.moment(release.weight_since),
        _verdict(record) or render.NOTHING,
        waits_for(policy, record, now),
    )


def _step(policy: policy_pb2.Policy) -> int:
    """Which step of the plan it is in; 0 before the first."""
    return sum(step.weight <= policy.release.percentage for step in policy.plan.steps)


def _verdict(record: Record | None) -> str:
    if record is None or not record.verdict:
        return ""
    return render.word(record_pb2.Verdict.DESCRIPTOR, record.verdict)


def _open(record: Record) -> list[record_pb2.Alert]:
    return [alert for alert in record.alerts if not alert.HasField("resolved_at")]


def _gate(gate: record_pb2.GateState) -> tuple[object, ...]:
    return (
        render.word(policy_pb2.GateKind.DESCRIPTOR, gate.kind),
        gate.name,
        "yes" if gate.is_open else "no",
        gate.waits_for,
        render.moment(gate.since),
    )


def _finding(finding: record_pb2.Finding) -> tuple[object, ...]:
    numbers = ("canary", "against", "e_value", "e_limit")
    return (
        finding.metric,
        finding.test,
        render.word(record_pb2.Verdict.DESCRIPTOR, finding.verdict),
        *(_number(finding, name) for name in numbers),
    )


def _number(finding: Any, name: str) -> str:
    return f"{getattr(finding, name):.4g}" if finding.HasField(name) else render.NOTHING


def _alert(alert: record_pb2.Alert) -> tuple[object, ...]:
    severity = render.word(record_pb2.Severity.DESCRIPTOR, alert.severity)
    return (alert.key, severity, render.moment(alert.since), alert.title)
