"""Records of releases survive being written and read, as documents and as messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from canary.record.v1 import record_pb2
from canary_documents import to_document, to_message
from canary_engine.errors import InvalidPolicy
from canary_engine.metric_snapshot import (
    Business,
    Errors,
    MetricSnapshot,
    Performance,
    Users,
)
from canary_engine.plan import GateKind, Occasion
from canary_engine.record import (
    PROMOTION,
    Alert,
    Answer,
    Event,
    Finding,
    GateState,
    Point,
    ReleaseRecord,
    Severity,
    WebhookCall,
)
from canary_engine.record_reading import document, record

NOW = datetime(2026, 3, 4, 12, 0, 0, 123_456, tzinfo=UTC)
SNAPSHOT = MetricSnapshot(
    performance=Performance(p95_ms=120.5, cpu=0.0, requests=1_000),
    errors=Errors(rate=0.0, count=0, by_type={404: 7, 500: 1}, critical=0),
    business=Business(revenue=12.5, feature_usage={"search": 3.0}),
    users=Users(satisfaction=4.5),
    custom={"carts": 3.25},
)
FULL = ReleaseRecord(
    service_key="shop",
    release_id="r1",
    written_at=NOW,
    fence=7,
    evidence='{"version": 1}',
    points=(
        Point(at=NOW, weight=5_000, canary=SNAPSHOT, verdict="pass", e_values={"errors": 1e300}),
        Point(at=NOW + timedelta(minutes=1), weight=0, control=SNAPSHOT, chosen=SNAPSHOT),
    ),
    alerts=(
        Alert(key="k", severity=Severity.CRITICAL, title="t", text="x", since=NOW),
        Alert(
            key="k", severity=Severity.INFO, title="t", since=NOW, resolved_at=NOW, told_at=NOW,
            due_at=NOW,
        ),
    ),
    gates=(
        GateState(weight=25_000, kind=GateKind.WINDOW, name="n", waits_for="night", since=NOW),
        GateState(weight=PROMOTION, kind=GateKind.APPROVAL, is_open=True),
    ),
    calls=tuple(
        WebhookCall(
            name="qa", occasion=Occasion.PROMOTE, weight=PROMOTION, at=NOW, tries=2, answer=answer
        )
        for answer in Answer
    ),
    events=(Event(at=NOW, what="raised", why="good", revision=9),),
    verdict="inconclusive",
    findings=(
        Finding(metric="error-rate", verdict="fail", test="sequential", canary=2.0, against=1.0,
                e_value=250.0, e_limit=200.0, ratio=2.0, ratio_low=1.1, ratio_high=3.0, why="bad"),
    ),
    waits_for="more requests",
    is_closed=True,
    stable_version="1.0",
)  # fmt: skip


@pytest.mark.parametrize("one", [FULL, ReleaseRecord(service_key="shop", release_id="r1")])
def test_a_record_survives_its_document_and_its_message(one: ReleaseRecord) -> None:
    assert record(document(one)) == one
    message = to_message(document(one), record_pb2.ReleaseRecord)
    assert record(to_document(message)) == one


def test_a_record_uses_every_field_that_the_proto_has() -> None:
    message = to_message(document(FULL), record_pb2.ReleaseRecord)
    unset = {field.name for field in message.DESCRIPTOR.fields} - {
        field.name for field, _ in message.ListFields()
    }
    assert unset == set()


def test_what_cannot_be_read_is_named_with_its_place() -> None:
    with pytest.raises(InvalidPolicy) as caught:
        record(
            {
                "points": [{"canary": {"performance": {"cpu": "hot"}, "custom": {"a": "b"}}}],
                "alerts": [{"severity": "loud", "since": "never"}],
            }
        )
    assert [line.split(": ")[0] for line in caught.value.complaints] == [
        "points[0].at",
        "points[0].canary.performance.cpu",
        "points[0].canary.custom",
        "alerts[0].severity",
        "alerts[0].since",
        "alerts[0].since",
    ]
