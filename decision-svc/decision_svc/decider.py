"""From the facts a gateway sent to a decision: snapshot, baseline, reads, person, engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from canary_engine import decide as engine
from canary_engine.copies import Known, Ways, ways_of
from canary_engine.decide import CompiledPolicy, Finding
from canary_engine.model import NOBODY, UNKNOWN, Decision, PersonNeeded, Policy, Reads, Request

from decision_svc.baselines import Baselines
from decision_svc.errors import BadRequest, NotFound
from decision_svc.people import People
from decision_svc.shadows import Shadows
from decision_svc.snapshot import Snapshot

Saw = Callable[[CompiledPolicy, Request, Decision], None]


@dataclass(slots=True)
class Question:
    """The facts of one request and by which policy they were chosen."""

    service_key: str
    request: Request
    baseline_hash: str = ""
    reads_digest: str = ""
    want_person: bool = False
    """Whether to say what is known of the user, if the decision needs it."""
    copy_epoch: int = 0
    """The membership epoch of the copy that the gateway has; 0 for none."""

    def wants_person(self, epoch: int) -> bool:
        """Whether the gateway has nothing that holds for a policy of that membership epoch."""
        return self.want_person or self.copy_epoch not in (0, epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resend:
    """What must be sent for a decision: other facts, or the baseline whole."""

    reads: Reads
    reads_digest: str
    user_id_header: str
    baseline: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """A decision that needs what the store knows of a user."""

    compiled: CompiledPolicy
    request: Request
    user: str
    want_person: bool


@dataclass(frozen=True, slots=True)
class Informed:
    """A decision, and what is known of the user whom it was made for."""

    decision: Decision
    user: str
    known: Known


class Decider:
    """Decides questions. The clock gives UTC; ``saw`` is told of what a release decided."""

    def __init__(
        self,
        snapshot: Snapshot,
        baselines: Baselines,
        people: People,
        clock: Callable[[], datetime],
        saw: Saw = lambda compiled, request, decision: None,
    ) -> None:
        self._snapshot, self._baselines = snapshot, baselines
        self._people, self._clock = people, clock
        self.shadows = Shadows()
        self._saw = saw

    def now(self) -> datetime:
        """The moment, for decisions that are made together."""
        return self._clock()

    def decide_now(
        self, question: Question, now: datetime
    ) -> Decision | Informed | Resend | Waiting:
        """The answer if memory holds all it takes; never waits. Raises NotReady, BadRequest."""
        baseline = self._baseline(question) if question.baseline_hash else None
        if question.baseline_hash and baseline is None:
            return self._unknown_baseline(question)
        _, compiled = self._snapshot.ruling(question.service_key, baseline, question.baseline_hash)
        if question.reads_digest and question.reads_digest != compiled.reads_digest:
            return _resend(compiled, baseline=False)
        answer = engine.decide(compiled, question.request, None, now)
        if not isinstance(answer, PersonNeeded):
            if answer.release_id:
                self._saw(compiled, question.request, answer)
            if compiled.shadow is not None:
                self._shadow(compiled, question.request, answer, now)
            return answer
        person = self._people.copy(compiled.policy, answer.user)
        if person is None:
            wants = question.wants_person(compiled.policy.membership_epoch)
            return Waiting(compiled, question.request, answer.user, wants)
        decision = engine.decide(compiled, question.request, person, now)
        assert isinstance(decision, Decision)
        if decision.release_id:
            self._saw(compiled, question.request, decision)
        if compiled.shadow is not None:
            self._shadow(compiled, question.request, decision, now)
        if question.wants_person(compiled.policy.membership_epoch):
            return self._informed(decision, compiled.policy, answer.user, self._people.now())
        return decision

    async def finish(self, waiting: Waiting) -> Decision | Informed:
        """The decision that waited for the store; takes at most the people's deadline."""
        policy, began = waiting.compiled.policy, self._people.now()
        person = await self._people.read(policy, waiting.user)
        now = self._clock()
        decision = engine.decide(waiting.compiled, waiting.request, person, now)
        assert isinstance(decision, Decision)
        if decision.release_id:
            self._saw(waiting.compiled, waiting.request, decision)
        if waiting.compiled.shadow is not None:
            self._shadow(waiting.compiled, waiting.request, decision, now)
        if waiting.want_person:
            return self._informed(decision, policy, waiting.user, began)
        return decision

    def _shadow(
        self, compiled: CompiledPolicy, request: Request, real: Decision, now: datetime
    ) -> None:
        other = engine.shadowed(compiled, request, now, self._people.copy)
        shadow = compiled.policy.shadow
        if other is not None and shadow is not None:
            self.shadows.count(compiled.policy.service_key, shadow.expires_at, real, other)

    async def person(self, service_key: str, user: str) -> Known:
        """What is known of a user for the stored policy; NOBODY where there is no policy."""
        policy = self._snapshot.get(service_key)
        if policy is None or not user:
            return Known(person=NOBODY, ways=Ways(0, frozenset()))
        began = self._people.now()
        if self._people.copy(policy, user) is None:
            await self._people.read(policy, user)
        known = self._people.known(policy, user, began)
        return known or Known(person=UNKNOWN, ways=ways_of(policy))

    async def explain(
        self, question: Question, at: datetime | None
    ) -> tuple[Decision, tuple[Finding, ...], str]:
        """The decision, every stage's finding, and which policy is in force and why.

        Raises NotReady, BadRequest, and NotFound for a baseline that no gateway has sent.
        """
        baseline, asked = self._baseline(question), question.request
        if question.baseline_hash and baseline is None:
            raise NotFound(f"baseline_hash: {question.baseline_hash!r} is of no gateway in contact")
        ruling, compiled = self._snapshot.ruling(
            question.service_key, baseline, question.baseline_hash
        )
        now = at or self._clock()
        person = NOBODY
        user = asked.headers.get(compiled.user_id_header, "")
        if user:
            # As for a decision: the copy it would use, if there is one.
            person = self._people.copy(compiled.policy, user) or await self._people.read(
                compiled.policy, user
            )
        decision, findings = engine.explain(compiled, asked, person, now)
        # A decision that does not need the user is not degraded by not knowing them.
        alone = engine.decide(compiled, asked, None, now)
        return alone if isinstance(alone, Decision) else decision, findings, ruling.why

    def _informed(
        self, decision: Decision, policy: Policy, user: str, at: float
    ) -> Decision | Informed:
        """The decision with what is known of the user; alone if nothing is."""
        known = self._people.known(policy, user, at)
        return decision if known is None else Informed(decision, user, known)

    def _baseline(self, question: Question) -> Policy | None:
        """The baseline whose hash the question names; None if it names none or it is unknown."""
        if not question.baseline_hash:
            return None
        baseline = self._baselines.get(question.baseline_hash)
        if baseline is not None and baseline.service_key != question.service_key:
            raise BadRequest(
                f"baseline_hash: that baseline is for service key {baseline.service_key!r}"
            )
        return baseline

    def _unknown_baseline(self, question: Question) -> Resend:
        # The reads depend on the baseline unless a release rules, so they are asked for as
        # they are without it; the second answer corrects them.
        _, compiled = self._snapshot.ruling(question.service_key, None, "")
        return _resend(compiled, baseline=True)


def _resend(compiled: CompiledPolicy, *, baseline: bool) -> Resend:
    return Resend(
        reads=compiled.reads,
        reads_digest=compiled.reads_digest,
        user_id_header=compiled.user_id_header,
        baseline=baseline,
    )
