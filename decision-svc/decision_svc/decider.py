"""From the facts a gateway sent to a decision: snapshot, baseline, reads, person, engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from canary_engine import decide as engine
from canary_engine.decide import CompiledPolicy, Finding
from canary_engine.model import NOBODY, Decision, PersonNeeded, Policy, Reads, Request

from decision_svc.baselines import Baselines
from decision_svc.people import People
from decision_svc.snapshot import Snapshot


@dataclass(slots=True, kw_only=True)
class Question:
    """The facts of one request and by which policy they were chosen."""

    service_key: str
    request: Request
    baseline_hash: str = ""
    reads_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resend:
    """What must be sent for a decision: other facts, or the baseline whole."""

    reads: Reads
    reads_digest: str
    baseline: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """A decision that needs what the store knows of a user."""

    compiled: CompiledPolicy
    request: Request
    user: str


class Decider:
    """Decides questions. The clock gives UTC."""

    def __init__(
        self,
        snapshot: Snapshot,
        baselines: Baselines,
        people: People,
        clock: Callable[[], datetime],
    ) -> None:
        self._snapshot, self._baselines = snapshot, baselines
        self._people, self._clock = people, clock

    def decide_now(self, question: Question) -> Decision | Resend | Waiting:
        """The answer if memory holds all it takes; never waits. Raises NotReady."""
        baseline = None
        if question.baseline_hash:
            baseline = self._baselines.get(question.baseline_hash)
            if baseline is None or baseline.service_key != question.service_key:
                return self._unknown_baseline(question)
        _, compiled = self._snapshot.ruling(question.service_key, baseline, question.baseline_hash)
        if question.reads_digest and question.reads_digest != compiled.reads_digest:
            return Resend(reads=compiled.reads, reads_digest=compiled.reads_digest, baseline=False)
        now = self._clock()
        answer = engine.decide(compiled, question.request, None, now)
        if not isinstance(answer, PersonNeeded):
            return answer
        person = self._people.copy(compiled.policy, answer.user)
        if person is None:
            return Waiting(compiled, question.request, answer.user)
        decision = engine.decide(compiled, question.request, person, now)
        assert isinstance(decision, Decision)
        return decision

    async def finish(self, waiting: Waiting) -> Decision:
        """The decision that waited for the store; takes at most the people's deadline."""
        person = await self._people.read(waiting.compiled.policy, waiting.user)
        decision = engine.decide(waiting.compiled, waiting.request, person, self._clock())
        assert isinstance(decision, Decision)
        return decision

    async def explain(
        self, question: Question, baseline: Policy | None, at: datetime | None
    ) -> tuple[Decision, tuple[Finding, ...], str]:
        """The decision, every stage's finding, and which policy is in force and why."""
        ruling, compiled = self._snapshot.ruling(
            question.service_key, baseline, question.baseline_hash
        )
        person = NOBODY
        user = question.request.headers.get(compiled.user_id_header, "")
        if user:
            person = await self._people.read(compiled.policy, user)
        decision, findings = engine.explain(compiled, question.request, person, at or self._clock())
        return decision, findings, ruling.why

    def _unknown_baseline(self, question: Question) -> Resend:
        # The reads depend on the baseline unless a release rules, so they are asked for as
        # they are without it; the second answer corrects them.
        _, compiled = self._snapshot.ruling(question.service_key, None, "")
        return Resend(reads=compiled.reads, reads_digest=compiled.reads_digest, baseline=True)
