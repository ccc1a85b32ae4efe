"""Releases, outcomes and records as messages and back, without a document in between.

A controller reads thousands of outcomes a second and writes records with hundreds of points, so
each message is read and made field by field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2
from canary.policy.v1 import policy_pb2
from canary.record.v1 import record_pb2 as pb
from canary_documents import to_document
from canary_engine import parse
from canary_engine.errors import InvalidPolicy
from canary_engine.histogram import Histogram, merge_counts
from canary_engine.judge.verdict import Verdict
from canary_engine.metric_snapshot import (
    Business,
    Errors,
    MetricSnapshot,
    Performance,
    Users,
)
from canary_engine.model import BUCKETS, Cohort, Policy, Variant
from canary_engine.outcomes import Outcomes, Tally
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
from canary_engine.step import Action, Do
from google.protobuf.timestamp_pb2 import Timestamp

from canary_controller.admin import Known, News, OutcomeSlot, ReleaseNews

Word = TypeVar("Word", bound=StrEnum)

COHORTS: Mapping[int, Cohort] = {
    policy_pb2.Cohort.Value("COHORT_" + cohort.upper()): cohort for cohort in Cohort
}
VARIANTS: Mapping[int, Variant] = {
    policy_pb2.Variant.Value("VARIANT_" + variant.upper()): variant for variant in Variant
}
_COMPARED = frozenset({Cohort.DRAWN, Cohort.CONTROL})
_MOVES = {
    Do.PROMOTE: admin_pb2.MOVE_PROMOTE,
    Do.PAUSE: admin_pb2.MOVE_PAUSE,
    Do.HALT: admin_pb2.MOVE_HALT,
    Do.ROLL_BACK: admin_pb2.MOVE_ROLL_BACK,
    Do.ROLL_BACK_LATER: admin_pb2.MOVE_ROLL_BACK,
}
_ABOVE_ALL = 101.0
"""The weight, in percent, of what stands before the promotion."""
_PARTS = ("performance", "errors", "business", "users")
_OPTIONAL = ("canary", "against", "e_value", "e_limit", "ratio", "ratio_low", "ratio_high")


def move(do: Do) -> admin_pb2.Move.ValueType:
    """The move that does it."""
    return _MOVES[do]


def is_percentage(action: Action) -> bool:
    """Whether it sets the percentage, and is no move."""
    return action.do in (Do.RAISE, Do.WIDEN)


def percentage(share: int) -> float:
    """A share of BUCKETS in percent."""
    return share * 100 / BUCKETS


def policy(message: policy_pb2.Policy) -> Policy:
    """A policy. Raises InvalidPolicy if this controller is older than what it says."""
    return parse.policy(to_document(message))


def followed_message(known: Known) -> admin_pb2.Followed:
    """What is known of a service key as a message."""
    return admin_pb2.Followed(
        service_key=known.service_key,
        revision=known.revision,
        slot=known.slot,
        requests=known.requests,
    )


def news(message: admin_pb2.FollowReleasesResponse) -> News:
    """What is new of all releases; a policy that cannot be read keeps no other from being seen."""
    return News(
        now=_must(message.now),
        releases=[_release_news(found) for found in message.releases],
    )


def _release_news(message: admin_pb2.FollowedRelease) -> ReleaseNews:
    found, trouble = None, ""
    if message.HasField("policy"):
        try:
            found = policy(message.policy)
        except InvalidPolicy as error:
            trouble = str(error)
    return ReleaseNews(
        service_key=message.service_key,
        revision=message.revision,
        policy=found,
        outcomes=_outcome_slots(message.outcomes),
        trouble=trouble,
        more_after=message.more_after,
    )


def _outcome_slots(found: Sequence[admin_pb2.OutcomeSlot]) -> list[OutcomeSlot]:
    """One of each slot and cohort: of two versions, if a cohort's was replaced within the slot."""
    series: dict[tuple[int, Cohort], list[decision_pb2.OutcomeSeries]] = {}
    for message in found:
        cohort = COHORTS.get(message.series.cohort, Cohort.OTHER)
        series.setdefault((message.slot, cohort), []).append(message.series)
    return [_outcome_slot(slot, cohort, parts) for (slot, cohort), parts in series.items()]


def _outcome_slot(
    slot: int, cohort: Cohort, parts: Sequence[decision_pb2.OutcomeSeries]
) -> OutcomeSlot:
    is_compared = cohort in _COMPARED
    return OutcomeSlot(
        slot=slot,
        cohort=cohort,
        requests=sum(sum(part.statuses.values()) for part in parts),
        tally=lambda: _together([_Told(part, is_compared=is_compared) for part in parts]),
    )


def _together(parts: Sequence[_Told]) -> Outcomes:
    if len(parts) == 1:
        return parts[0]
    whole = Tally()
    for part in parts:
        merge_counts(whole.statuses, part.statuses)
        whole.request.merge(part.request)
        whole.upstream.merge(part.upstream)
    return whole


class _Told:
    """The outcomes of a series. How long requests took is read when it is asked for: a second later
    there is more of it, and mostly nobody has asked.

    The time at the backend is for the judge alone, which looks at nobody but those it compares.
    """

    __slots__ = ("_request", "_unread", "statuses", "upstream")

    def __init__(self, series: decision_pb2.OutcomeSeries, *, is_compared: bool) -> None:
        self.statuses = dict(series.statuses)
        self.upstream = _histogram(series.upstream) if is_compared else Histogram()
        self._unread: decision_pb2.LatencyHistogram | None = series.request
        self._request = Histogram()

    @property
    def request(self) -> Histogram:
        """See Outcomes."""
        if self._unread is not None:
            # The message is let go: it would keep the whole answer that it came with.
            self._request, self._unread = _histogram(self._unread), None
        return self._request


def _histogram(message: decision_pb2.LatencyHistogram) -> Histogram:
    # Slices are lists: they are read faster than what protobuf has in their place.
    counts = zip(message.buckets[:], message.counts[:], strict=True)
    return Histogram(counts, message.sum_us)


def snapshot(message: pb.MetricSnapshot) -> MetricSnapshot:
    """The metrics of one side."""
    performance, errors = _known(message.performance), _known(message.errors)
    business, users = _known(message.business), _known(message.users)
    return MetricSnapshot(
        performance=Performance(**performance),
        errors=Errors(**{**errors, "by_type": dict(message.errors.by_type)}),
        business=Business(**{**business, "feature_usage": dict(message.business.feature_usage)}),
        users=Users(**users),
        custom=dict(message.custom),
    )


def _known(part: Any) -> dict[str, Any]:
    return {field.name: value for field, value in part.ListFields() if not field.is_repeated}


def snapshot_message(value: MetricSnapshot) -> pb.MetricSnapshot:
    """The metrics of one side as a message; what is not known is absent."""
    message = pb.MetricSnapshot(custom=value.custom)
    for name in _PARTS:
        part, target = getattr(value, name), getattr(message, name)
        for field in target.DESCRIPTOR.fields:
            found = getattr(part, field.name)
            if field.is_repeated:
                getattr(target, field.name).update(found)
            elif found is not None:
                setattr(target, field.name, found)
    return message


def record(message: pb.ReleaseRecord) -> ReleaseRecord:
    """A record."""
    return ReleaseRecord(
        service_key=message.service_key,
        release_id=message.release_id,
        stable_version=message.stable_version,
        written_at=_moment(message.written_at),
        fence=message.fence,
        evidence=message.evidence,
        points=tuple(map(_point, message.points)),
        alerts=tuple(map(_alert, message.alerts)),
        gates=tuple(map(_gate, message.gates)),
        calls=tuple(map(_call, message.calls)),
        events=tuple(map(_event, message.events)),
        verdict=_verdict(message.verdict),
        findings=tuple(map(_finding, message.findings)),
        waits_for=message.waits_for,
        is_closed=message.is_closed,
    )


def record_message(value: ReleaseRecord, points: Iterable[pb.Point]) -> pb.ReleaseRecord:
    """A record as a message, with its points as messages."""
    return pb.ReleaseRecord(
        service_key=value.service_key,
        release_id=value.release_id,
        stable_version=value.stable_version,
        written_at=_timestamp(value.written_at),
        fence=value.fence,
        evidence=value.evidence,
        points=points,
        alerts=map(_alert_message, value.alerts),
        gates=map(_gate_message, value.gates),
        calls=map(_call_message, value.calls),
        events=map(_event_message, value.events),
        verdict=_verdict_number(value.verdict),
        findings=map(_finding_message, value.findings),
        waits_for=value.waits_for,
        is_closed=value.is_closed,
    )


def _point(message: pb.Point) -> Point:
    return Point(
        at=_must(message.at),
        weight=_share(message.weight),
        canary=snapshot(message.canary),
        control=snapshot(message.control),
        chosen=snapshot(message.chosen),
        verdict=_verdict(message.verdict),
        e_values=dict(message.e_values),
    )


def point_message(value: Point) -> pb.Point:
    """A point as a message."""
    return pb.Point(
        at=_timestamp(value.at),
        weight=percentage(value.weight),
        canary=snapshot_message(value.canary),
        control=snapshot_message(value.control),
        chosen=snapshot_message(value.chosen),
        verdict=_verdict_number(value.verdict),
        e_values=value.e_values,
    )


def _alert(message: pb.Alert) -> Alert:
    return Alert(
        key=message.key,
        severity=_word(pb.Severity, message.severity, Severity, Severity.INFO),
        title=message.title,
        text=message.text,
        since=_must(message.since),
        resolved_at=_optional(message, "resolved_at"),
        told_at=_optional(message, "told_at"),
        due_at=_optional(message, "due_at"),
    )


def _alert_message(value: Alert) -> pb.Alert:
    return pb.Alert(
        key=value.key,
        severity=_number(pb.Severity, value.severity),
        title=value.title,
        text=value.text,
        since=_timestamp(value.since),
        resolved_at=_timestamp(value.resolved_at),
        told_at=_timestamp(value.told_at),
        due_at=_timestamp(value.due_at),
    )


def _gate(message: pb.GateState) -> GateState:
    return GateState(
        weight=PROMOTION if message.weight > 100 else _share(message.weight),
        kind=_word(policy_pb2.GateKind, message.kind, GateKind, GateKind.APPROVAL),
        name=message.name,
        is_open=message.is_open,
        waits_for=message.waits_for,
        since=_optional(message, "since"),
    )


def _gate_message(value: GateState) -> pb.GateState:
    return pb.GateState(
        weight=_weight(value.weight),
        kind=_number(policy_pb2.GateKind, value.kind),
        name=value.name,
        is_open=value.is_open,
        waits_for=value.waits_for,
        since=_timestamp(value.since),
    )


def _call(message: pb.WebhookCall) -> WebhookCall:
    return WebhookCall(
        name=message.name,
        occasion=_word(policy_pb2.Occasion, message.occasion, Occasion, Occasion.RAISE),
        weight=PROMOTION if message.weight > 100 else _share(message.weight),
        at=_must(message.at),
        tries=message.tries,
        answer=Answer(message.answer),
        text=message.text,
    )


def _call_message(value: WebhookCall) -> pb.WebhookCall:
    return pb.WebhookCall(
        name=value.name,
        occasion=_number(policy_pb2.Occasion, value.occasion),
        weight=_weight(value.weight),
        at=_timestamp(value.at),
        tries=value.tries,
        answer=value.answer,
        text=value.text,
    )


def _event(message: pb.Event) -> Event:
    return Event(
        at=_must(message.at), what=message.what, why=message.why, revision=message.revision
    )


def _event_message(value: Event) -> pb.Event:
    return pb.Event(
        at=_timestamp(value.at), what=value.what, why=value.why, revision=value.revision
    )


def _finding(message: pb.Finding) -> Finding:
    given = {field.name for field, _ in message.ListFields()}
    numbers = {name: getattr(message, name) if name in given else None for name in _OPTIONAL}
    return Finding(
        metric=message.metric,
        verdict=_verdict(message.verdict),
        test=message.test,
        why=message.why,
        **numbers,
    )


def _finding_message(value: Finding) -> pb.Finding:
    return pb.Finding(
        metric=value.metric,
        verdict=_verdict_number(value.verdict),
        test=value.test,
        why=value.why,
        **{name: getattr(value, name) for name in _OPTIONAL},
    )


def _verdict(number: int) -> str:
    return str(_word(pb.Verdict, number, Verdict, ""))


def _verdict_number(value: str) -> Any:
    return _number(pb.Verdict, Verdict(value)) if value else pb.VERDICT_UNSPECIFIED


def _word(enum: Any, number: int, words: type[Word], otherwise: Any) -> Any:
    """The engine's word for a number; a number from the future is ``otherwise``."""
    name = enum.DESCRIPTOR.values_by_number.get(number)
    known: dict[str, Word] = {word.name: word for word in words}
    return otherwise if name is None else known.get(name.name[len(_prefix(enum)) :], otherwise)


def _number(enum: Any, word: StrEnum) -> Any:
    return enum.Value(_prefix(enum) + word.name)


def _prefix(enum: Any) -> str:
    """E.g. GATE_KIND_ of GateKind."""
    first: str = enum.DESCRIPTOR.values_by_number[0].name
    return first.removesuffix("UNSPECIFIED")


def _weight(share: int) -> float:
    return _ABOVE_ALL if share == PROMOTION else percentage(share)


def _share(weight: float) -> int:
    return round(weight * BUCKETS / 100)


def _optional(message: Any, field: str) -> datetime | None:
    return _must(getattr(message, field)) if message.HasField(field) else None


def _must(message: Timestamp) -> datetime:
    return message.ToDatetime(UTC)


def _moment(message: Timestamp) -> datetime | None:
    return message.ToDatetime(UTC) if message.seconds or message.nanos else None


def _timestamp(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    message = Timestamp()
    message.FromDatetime(value)
    return message
