"""One release in memory; everything here can be read again, and is after another has acted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from canary_engine.judge.slots import SLOT_S
from canary_engine.judge.verdict import Verdict
from canary_engine.mesh import NO_MESH, MeshSight
from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import Policy, Release
from canary_engine.plan import Plan
from canary_engine.record import Event, Finding, GateState, ReleaseRecord
from canary_engine.record_size import events_with
from canary_engine.step import Action, Do
from canary_engine.webhooks import Question

from canary_controller import evidence
from canary_controller.evidence import Growing, Mix, Seen
from canary_controller.judging import Judge, Judged
from canary_controller.measuring import NOTHING, Found, window
from canary_controller.slots import Slots, newest_complete
from canary_controller.turns import turn

SAVED_EVERY_S = 60
SAVED_AGAIN = timedelta(seconds=5)
"""So soon a verdict that wavers is noted again."""
REFUSED_FOR = timedelta(seconds=10)
"""For so long a move that was refused is not tried again, unless the policy changes."""
_NUMBERS = re.compile(r"[0-9][0-9.,e+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """What is known of the last minutes, by cohort."""

    drawn: MetricSnapshot = field(default_factory=MetricSnapshot)
    control: MetricSnapshot = field(default_factory=MetricSnapshot)
    chosen: MetricSnapshot = field(default_factory=MetricSnapshot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A move that the service refused ``at``, and what it said; no other move waits for it."""

    do: Do
    at: datetime
    why: str

    def is_of(self, action: Action) -> bool:
        """Whether it is this that was refused."""
        return action.do is self.do

    def holds(self, action: Action, now: datetime) -> bool:
        """Whether the same is not to be tried again yet."""
        return self.is_of(action) and timedelta(0) <= now - self.at < REFUSED_FOR


@dataclass(slots=True, kw_only=True)
class Watched:
    """What is known of one release, and what follows from it. Its policy has release and plan.

    ``heard_slot`` is the newest slot of which nothing more is to be heard; outcomes are up to date
    or not, and then nothing is done.
    """

    policy: Policy
    release: Release
    plan: Plan
    record: ReleaseRecord
    saved: ReleaseRecord
    seen: Seen
    mix: Mix
    judged: Judged
    heard_slot: int
    slots: Slots = field(default_factory=Slots)
    growing: Growing = field(default_factory=Growing)
    sides: Sides = field(default_factory=Sides)
    sides_turn: int | None = None
    sides_found: Found = NOTHING
    gates: tuple[GateState, ...] = ()
    mesh: MeshSight = NO_MESH
    missing: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    questions: tuple[Question, ...] = ()
    to_ask: tuple[Question, ...] = ()
    action: Action | None = None
    is_up_to_date: bool = False
    newest_slot: int | None = None
    looked_at: datetime | None = None
    told_at: datetime | None = None
    refusal: Refusal | None = None
    mistake: str = ""

    @property
    def service_key(self) -> str:
        """Its service key."""
        return self.policy.service_key

    def follow(self, policy: Policy, judge: Judge, now: datetime) -> None:
        """Go on with another revision of the policy, of the same release."""
        assert policy.release is not None, "it is watched"
        assert policy.plan is not None, "it is watched"
        if self.release.is_in_force and not policy.release.is_in_force:
            self.record = replace(self.record, findings=self.findings())
        before, self.release = self.release, policy.release
        self.policy, self.plan = policy, policy.plan
        self._renew(judge, now)
        if (before.share, before.control) != (self.release.share, self.release.control):
            self.mix = Mix(share=self.release.share, control=self.release.control, since=now)
        # What was judged and told before was about another policy.
        self.refusal = self.looked_at = self.told_at = None

    def keep_time(self, judge: Judge, now: datetime) -> None:
        """Take note of the service's clock, which may have been set back."""
        self.newest_slot = newest_complete(now)
        if evidence.is_ahead(self.seen, now):
            self._renew(judge, now)

    def _renew(self, judge: Judge, now: datetime) -> None:
        before = self.seen.slot
        self.seen = evidence.renewed(self.seen, self.release, self.plan, judge, now)
        if self.seen.slot < before:
            # All since then is asked for anew, and nobody judges before it is there.
            self.slots, self.growing = Slots(), Growing()
            self.heard_slot, self.is_up_to_date = _heard_slot(self.seen, self.plan), False

    def see(self, mesh: MeshSight) -> None:
        """Take over how its mesh stands; what is new of it is told at once."""
        if (mesh.trouble, mesh.exceeds, mesh.drift) != (
            self.mesh.trouble,
            self.mesh.exceeds,
            self.mesh.drift,
        ):
            self.told_at = None
        self.mesh = mesh

    def findings(self) -> tuple[Finding, ...]:
        """What the newest look found; after the end, and before any look, what is noted."""
        is_looked_at = self.release.is_in_force and self.looked_at is not None
        return self.judged.findings() if is_looked_at else self.record.findings

    def note(self, event: Event) -> None:
        """Note what was done or seen."""
        self.record = replace(self.record, events=events_with(self.record.events, event))

    def has_noted(self, what: str) -> bool:
        """Whether that was done or seen before."""
        return any(event.what == what for event in self.record.events)

    def newest_noted(self, what: Iterable[str]) -> Event | None:
        """The newest event of these kinds; None if there is none."""
        kinds = set(what)
        return next((e for e in reversed(self.record.events) if e.what in kinds), None)

    def is_to_save(self, now: datetime) -> bool:
        """Whether the record is to be written: about once a minute, and when anything happens."""
        at, key = self.saved.written_at, self.service_key
        if at is None or turn(key, now, SAVED_EVERY_S) != turn(key, at, SAVED_EVERY_S):
            return True
        if _happenings(self.record) != _happenings(self.saved):
            return True
        return _state(self.record) != _state(self.saved) and now - at >= SAVED_AGAIN


def begin(
    policy: Policy, record: ReleaseRecord | None, judge: Judge, now: datetime
) -> Watched | None:
    """A release that was not watched; None for one without a plan, which is people's alone."""
    release, plan = policy.release, policy.plan
    if release is None or plan is None or not plan.steps:
        return None
    found = record or ReleaseRecord(
        service_key=policy.service_key,
        release_id=release.id,
        stable_version=_stable_version(policy),
    )
    seen = evidence.read(found.evidence, plan) if found.evidence else None
    seen = seen or evidence.begin(release, plan, judge, now)
    seen = evidence.renewed(seen, release, plan, judge, now)
    return Watched(
        policy=policy,
        release=release,
        plan=plan,
        record=found,
        saved=found,
        seen=seen,
        mix=Mix(share=release.share, control=release.control, since=now),
        heard_slot=_heard_slot(seen, plan),
        judged=Judged(verdict=Verdict.INCONCLUSIVE, why="", known=seen.known),
        gates=found.gates,
    )


def _heard_slot(seen: Seen, plan: Plan) -> int:
    """After which slot to ask for outcomes: also for those of the last minutes."""
    return seen.slot - window(plan) // SLOT_S


def _stable_version(policy: Policy) -> str:
    stable = next((v.version for v in policy.versions if v.status == "stable"), "")
    is_promoted = policy.release is not None and policy.release.version == stable
    return "" if is_promoted else stable


def _happenings(record: ReleaseRecord) -> Sequence[object]:
    return (record.events, record.alerts, record.calls, record.gates, record.is_closed)


def _state(record: ReleaseRecord) -> Sequence[object]:
    """How it stands; numbers that go up by the second are no other state."""
    weight = record.points[-1].weight if record.points else None
    return (record.verdict, weight, _NUMBERS.sub("", record.waits_for))
