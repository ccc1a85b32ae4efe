"""What is noted of how a release fares, as values: points, findings, gates, calls, alerts, events.

The controller keeps them beside the policy, so that a restart of it loses nothing. Weights are of
BUCKETS; what stands before the promotion has the weight PROMOTION, which is above all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import BUCKETS
from canary_engine.plan import GateKind, Occasion

PROMOTION = BUCKETS + 1
"""The weight of what stands before, or follows, the promotion."""
NOTHING_KNOWN = MetricSnapshot()


class Severity(StrEnum):
    """How much an alert matters."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Answer(StrEnum):
    """What a webhook said; SILENCE is no answer, and never a no."""

    SILENCE = ""
    YES = "yes"
    NO = "no"
    NOT_YET = "not yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """Whether a gate before ``weight`` is open; if not, what it waits for and for whom.

    ``since`` is when it became what it is; None: that is not known yet.
    """

    weight: int
    kind: GateKind
    name: str = ""
    is_open: bool = False
    waits_for: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookCall:
    """What a webhook was asked, first ``at``, how often, and what it said last."""

    name: str
    occasion: Occasion
    weight: int
    at: datetime
    tries: int = 0
    answer: Answer = Answer.SILENCE
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What people are told, once for as long as it lasts.

    ``key`` tells it from others of the release. An alert whose ``resolved_at`` equals its
    ``since`` is of something that happened and is over. ``told_at`` is when people heard last,
    ``due_at`` from when on they are told, if it lasts until then.
    """

    key: str
    severity: Severity
    title: str
    text: str = ""
    since: datetime
    resolved_at: datetime | None = None
    told_at: datetime | None = None
    due_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether it lasts."""
        return self.resolved_at is None

    @property
    def is_moment(self) -> bool:
        """Whether it is of something that happened and was over at once."""
        return self.resolved_at == self.since


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was done or seen, in one word, and why; ``revision`` 0: it wrote nothing."""

    at: datetime
    what: str
    why: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the judge says of one metric by one of its tests; ``against`` is control or a limit.

    ``e_value`` is the strength of the evidence against the canary, 1 is none; at ``e_limit`` it
    means fail. ``ratio`` is the canary's value relative to control's, between low and high.
    """

    metric: str
    verdict: str = ""
    test: str = ""
    canary: float | None = None
    against: float | None = None
    e_value: float | None = None
    e_limit: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """How a release stood at one moment; ``weight`` is 0 while it is halted."""

    at: datetime
    weight: int
    canary: MetricSnapshot = NOTHING_KNOWN
    control: MetricSnapshot = NOTHING_KNOWN
    chosen: MetricSnapshot = NOTHING_KNOWN
    verdict: str = ""
    e_values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """Everything that is noted of one release; lists are oldest first.

    ``verdict`` is the judge's last word ("" before the first), ``evidence`` its own notes as JSON.
    ``is_closed``: the end was verified and everybody was told.
    """

    service_key: str
    release_id: str
    written_at: datetime | None = None
    fence: int = 0
    evidence: str = ""
    points: tuple[Point, ...] = ()
    alerts: tuple[Alert, ...] = ()
    gates: tuple[GateState, ...] = ()
    calls: tuple[WebhookCall, ...] = ()
    events: tuple[Event, ...] = ()
    verdict: str = ""
    findings: tuple[Finding, ...] = ()
    waits_for: str = ""
    is_closed: bool = False
    stable_version: str = ""
