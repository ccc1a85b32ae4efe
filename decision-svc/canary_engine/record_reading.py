"""Records of releases as documents, and back: ``record(document(r)) == r``.

The documents are those of ``canary.record.v1.ReleaseRecord``. They come from the service, which
takes them as they are, so that a word which this build does not know is a complaint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from canary_engine import parse
from canary_engine.errors import InvalidPolicy
from canary_engine.metric_snapshot import (
    Business,
    Errors,
    MetricSnapshot,
    Performance,
    Users,
)
from canary_engine.plan import GateKind, Occasion
from canary_engine.reading import Node
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

P = TypeVar("P", Performance, Errors, Business, Users)
W = TypeVar("W", bound=StrEnum)

MAX_TEXT = 1 << 20
_EPOCH = datetime.fromtimestamp(0, UTC)
_MAPPINGS = frozenset({"by_type", "feature_usage"})


def document(record: ReleaseRecord) -> dict[str, Any]:
    """The record as a document; what equals its default is left out."""
    return parse.document(record)


def record(document: Mapping[str, Any]) -> ReleaseRecord:
    """The record in a document. Raises InvalidPolicy with every complaint."""
    complaints: list[str] = []
    found = _record(Node(document, "", complaints))
    if complaints:
        raise InvalidPolicy(complaints)
    return found


def _record(node: Node) -> ReleaseRecord:
    return ReleaseRecord(
        service_key=_text(node, "service_key"),
        release_id=_text(node, "release_id"),
        written_at=node.time("written_at"),
        fence=node.whole("fence", 0, 2**63 - 1),
        evidence=_text(node, "evidence"),
        points=tuple(map(_point, node.nodes("points", ""))),
        alerts=tuple(map(_alert, node.nodes("alerts", ""))),
        gates=tuple(map(_gate, node.nodes("gates", ""))),
        calls=tuple(map(_call, node.nodes("calls", ""))),
        events=tuple(map(_event, node.nodes("events", ""))),
        verdict=_text(node, "verdict"),
        findings=tuple(map(_finding, node.nodes("findings", ""))),
        waits_for=_text(node, "waits_for"),
        is_closed=node.yes("is_closed"),
        stable_version=_text(node, "stable_version"),
    )


def _point(node: Node) -> Point:
    return Point(
        at=_at(node, "at"),
        weight=node.share("weight") or 0,
        canary=_snapshot(node.node("canary")),
        control=_snapshot(node.node("control")),
        chosen=_snapshot(node.node("chosen")),
        verdict=_text(node, "verdict"),
        e_values=_numbers(node, "e_values"),
    )


def _snapshot(node: Node | None) -> MetricSnapshot:
    if node is None:
        return MetricSnapshot()
    return MetricSnapshot(
        performance=_part(node, "performance", Performance),
        errors=_part(node, "errors", Errors),
        business=_part(node, "business", Business),
        users=_part(node, "users", Users),
        custom=_numbers(node, "custom"),
    )


def _part(node: Node, name: str, kind: type[P]) -> P:
    """A part of a snapshot; its numbers have the names of its fields."""
    part = node.node(name)
    if part is None:
        return kind()
    found: dict[str, Any] = {}
    for field in fields(kind):
        if part.has(field.name):
            is_mapping = field.name in _MAPPINGS
            found[field.name] = (_numbers if is_mapping else _number)(part, field.name)
    return kind(**found)


def _finding(node: Node) -> Finding:
    return Finding(
        metric=_text(node, "metric"),
        verdict=_text(node, "verdict"),
        test=_text(node, "test"),
        canary=_number(node, "canary"),
        against=_number(node, "against"),
        e_value=_number(node, "e_value"),
        e_limit=_number(node, "e_limit"),
        ratio=_number(node, "ratio"),
        ratio_low=_number(node, "ratio_low"),
        ratio_high=_number(node, "ratio_high"),
        why=_text(node, "why"),
    )


def _alert(node: Node) -> Alert:
    return Alert(
        key=_text(node, "key"),
        severity=node.word("severity", Severity),
        title=_text(node, "title"),
        text=_text(node, "text"),
        since=_at(node, "since"),
        resolved_at=node.time("resolved_at"),
        told_at=node.time("told_at"),
        due_at=node.time("due_at"),
    )


def _gate(node: Node) -> GateState:
    return GateState(
        weight=_weight(node),
        kind=node.word("kind", GateKind),
        name=_text(node, "name"),
        is_open=node.yes("is_open"),
        waits_for=_text(node, "waits_for"),
        since=node.time("since"),
    )


def _call(node: Node) -> WebhookCall:
    return WebhookCall(
        name=_text(node, "name"),
        occasion=node.word("occasion", Occasion),
        weight=_weight(node),
        at=_at(node, "at"),
        tries=node.whole("tries", 0, 2**32 - 1),
        answer=node.word("answer", Answer, Answer.SILENCE),
        text=_text(node, "text"),
    )


def _event(node: Node) -> Event:
    return Event(
        at=_at(node, "at"),
        what=_text(node, "what"),
        why=_text(node, "why"),
        revision=node.whole("revision", 0, 2**63 - 1),
    )


def _weight(node: Node) -> int:
    """A weight, or what stands for the promotion: anything above 100 %."""
    value = node.get("weight")
    if isinstance(value, int | float) and value > 100:
        return PROMOTION
    return node.share("weight") or 0


def _at(node: Node, name: str) -> datetime:
    """A moment that must be there."""
    found = node.time(name)
    if found is None:
        node.complain(name, "say when")
        return _EPOCH
    return found


def _text(node: Node, name: str) -> str:
    return node.text(name, MAX_TEXT)


def _number(node: Node, name: str) -> Any:
    """A number as it is written; None if absent."""
    value = node.get(name)
    if value is None or _is_number(value):
        return value
    node.complain(name, "give a number")
    return None


def _numbers(node: Node, name: str) -> dict[Any, Any]:
    value = node.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(map(_is_number, value.values())):
        node.complain(name, "give a mapping to numbers")
        return {}
    return dict(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
