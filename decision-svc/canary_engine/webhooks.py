"""Who outside is to be asked or told what of a release, and what follows from the answers.

A webhook is asked once for each occasion and weight. An answer counts for as long as the traffic
stays what it was when the question was put: after a raise, a resume or any other change of the
traffic it is a question anew. No answer is never a no.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

from canary_engine.model import Policy, Release, ReleaseStatus
from canary_engine.plan import Gate, GateKind, Occasion, Plan
from canary_engine.record import PROMOTION, Answer, WebhookCall

MOST_TELLS = 10
"""After so many tries, one who is only to be told is left alone."""
SILENT_TRIES = 5
"""After so many tries without an answer, people are told."""
MAX_TEXT = 500

_TOLD = {
    ReleaseStatus.COMPLETED: (Occasion.AFTER, PROMOTION),
    ReleaseStatus.ROLLED_BACK: (Occasion.ROLLBACK, 0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one webhook is asked, or told; ``since`` is since when the traffic is what it is."""

    service_key: str
    release_id: str
    version: str
    name: str
    url: str
    occasion: Occasion
    weight: int
    since: datetime | None = None

    @property
    def id(self) -> str:
        """The same for every try of this very question, whoever puts it; 32 hex digits."""
        since = self.since.isoformat() if self.since is not None else ""
        parts = (self.service_key, self.release_id, self.name, self.occasion, str(self.weight))
        return sha256("\0".join((*parts, since)).encode()).hexdigest()[:32]

    @property
    def may_refuse(self) -> bool:
        """Whether a no halts the release; the others are only told."""
        return self.occasion in (Occasion.START, Occasion.RAISE, Occasion.PROMOTE)


def questions_before(policy: Policy, plan: Plan, next_weight: int) -> tuple[Question, ...]:
    """Whom to ask before the release gets ``next_weight``, or PROMOTION."""
    release = policy.release
    if release is None or not release.is_in_force:
        return ()
    occasion = _occasion(release, next_weight)
    called = [(hook.name, hook.url) for hook in plan.webhooks if occasion in hook.occasions]
    called += [(gate_name(gate), gate.url) for gate in _webhook_gates(plan, next_weight)]
    return tuple(
        _question(policy, release, name, url, occasion, next_weight) for name, url in called
    )


def questions_after(policy: Policy, plan: Plan) -> tuple[Question, ...]:
    """Whom to tell that the release was promoted or rolled back."""
    release = policy.release
    if release is None or release.status not in _TOLD:
        return ()
    occasion, weight = _TOLD[release.status]
    return tuple(
        _question(policy, release, hook.name, hook.url, occasion, weight)
        for hook in plan.webhooks
        if occasion in hook.occasions
    )


def unanswered(questions: Iterable[Question], calls: Sequence[WebhookCall]) -> tuple[Question, ...]:
    """Those to go on with: who may refuse until there is a yes or no, the others for some tries."""
    return tuple(question for question in questions if not _is_over(question, calls))


def call_of(question: Question, calls: Sequence[WebhookCall]) -> WebhookCall | None:
    """The call that the question led to; None: nobody has tried yet."""
    return next((call for call in reversed(calls) if _is_of(call, question)), None)


def refusal(questions: Iterable[Question], calls: Sequence[WebhookCall]) -> WebhookCall | None:
    """A clear no, which halts the release; None if there is none."""
    for question in questions:
        call = call_of(question, calls)
        if question.may_refuse and call is not None and call.answer is Answer.NO:
            return call
    return None


def noted(
    calls: Sequence[WebhookCall], question: Question, answer: Answer, text: str, now: datetime
) -> tuple[WebhookCall, ...]:
    """The calls with one more try; a yes or no that was heard is not forgotten over a silence."""
    before = call_of(question, calls)
    if before is None:
        first = WebhookCall(
            name=question.name,
            occasion=question.occasion,
            weight=question.weight,
            at=max(now, question.since) if question.since is not None else now,
            tries=1,
            answer=answer,
            text=text[:MAX_TEXT],
        )
        return (*calls, first)
    if before.answer in (Answer.YES, Answer.NO):
        return tuple(calls)
    after = replace(before, tries=before.tries + 1, answer=answer, text=text[:MAX_TEXT])
    return tuple(after if call is before else call for call in calls)


def is_silent(question: Question, calls: Sequence[WebhookCall]) -> bool:
    """Whether people must hear that it does not answer."""
    call = call_of(question, calls)
    return call is not None and call.answer is Answer.SILENCE and call.tries >= SILENT_TRIES


def gate_name(gate: Gate) -> str:
    """What a webhook gate is called among the webhooks."""
    return f"gate {gate.name or gate.url}"


def _occasion(release: Release, next_weight: int) -> Occasion:
    if next_weight == PROMOTION:
        return Occasion.PROMOTE
    return Occasion.RAISE if release.share else Occasion.START


def _webhook_gates(plan: Plan, weight: int) -> list[Gate]:
    step = next((step for step in plan.steps if step.weight == weight), None)
    return [gate for gate in step.gates if gate.kind is GateKind.WEBHOOK] if step else []


def _question(
    policy: Policy, release: Release, name: str, url: str, occasion: Occasion, weight: int
) -> Question:
    return Question(
        service_key=policy.service_key,
        release_id=release.id,
        version=release.version,
        name=name,
        url=url,
        occasion=occasion,
        weight=weight,
        since=release.weight_since,
    )


def _is_of(call: WebhookCall, question: Question) -> bool:
    return (call.name, call.occasion, call.weight) == (
        question.name, question.occasion, question.weight,
    ) and (question.since is None or call.at >= question.since)  # fmt: skip


def _is_over(question: Question, calls: Sequence[WebhookCall]) -> bool:
    call = call_of(question, calls)
    if call is None:
        return False
    if question.may_refuse:
        return call.answer in (Answer.YES, Answer.NO)
    return call.answer is not Answer.SILENCE or call.tries >= MOST_TELLS
