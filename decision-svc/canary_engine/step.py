"""What becomes of a release now, given what is known of it: one action out of a closed set.

The state of a release is all that is remembered. Where it stands on its plan follows from its
share: the step is the last one whose weight the share reaches. So a person may raise or lower it,
a controller may be away for an hour, and the next look does the right thing.

A failure counts in every state in force. More people get the canary only if the verdict is pass,
its step was held long enough, enough of their requests were seen, every gate is open and its mesh,
if it has one, is in step; never more than the next step of the plan. Rows that the table lacks do
not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from canary_engine.errors import CanaryError
from canary_engine.gates import are_open, waits_for
from canary_engine.judge.verdict import Verdict
from canary_engine.model import BUCKETS, Policy, Release
from canary_engine.plan import NoDataAction, Plan, PlanStep
from canary_engine.record import PROMOTION, GateState
from canary_engine.release import State, state_of

LOW_REQUESTS = 150
"""Canary requests a check below which all who lost the draw stand for stable.

A doubled error rate (0.5 to 1 %) shows after 2,150 requests by Wald's expected sample size, and the
judge may take twice that. A step of the default length has thirty checks: with fewer requests than
these, 30 x 150 = 4,500, it would end before anything could show. Then a control of more than four
times the canary saves up to a fifth of them, and so few more labels cost nothing.
"""


class Do(StrEnum):
    """What is done to a release; all but the first two are one write."""

    STAY = "stay"
    WAIT = "wait"
    RAISE = "raise"
    WIDEN = "widen"
    PROMOTE = "promote"
    PAUSE = "pause"
    HALT = "halt"
    ROLL_BACK = "roll-back"
    ROLL_BACK_LATER = "roll-back-later"


class Because(StrEnum):
    """Why."""

    NOTHING_TO_DO = "nothing-to-do"
    ENDED = "ended"
    HOLDING = "holding"
    FEW_SAMPLES = "few-samples"
    INCONCLUSIVE = "inconclusive"
    GATES = "gates"
    MESH = "mesh"
    NO_DATA = "no-data"
    NO_DATA_FOR_LONG = "no-data-for-long"
    PAUSED = "paused"
    HALTED = "halted"
    LOW_TRAFFIC = "low-traffic"
    NEXT_STEP = "next-step"
    LAST_STEP = "last-step"
    FAILED = "failed"
    DUE = "due"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was found out about a release.

    ``samples`` are the canary's requests since its traffic is what it is, ``requests_per_check``
    those that one check may expect, None if that is not known. ``no_data_s`` is for how long there
    has been no data. ``gates`` stand before the next move, ``refusal`` is what a webhook said that
    said no. ``broken`` says which limits of the plan are broken, if only for a moment yet.
    ``mesh`` is why a mesh could not follow a raise; "" if it could, or there is none.
    """

    verdict: Verdict
    why: str = ""
    samples: int = 0
    requests_per_check: float | None = None
    no_data_s: float = 0.0
    gates: tuple[GateState, ...] = ()
    refusal: str = ""
    broken: str = ""
    mesh: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What is done and why, in a word and in words. Shares are of BUCKETS."""

    do: Do
    because: Because
    why: str
    share: int | None = None
    control: int | None = None
    delay_s: int = 0

    @property
    def is_write(self) -> bool:
        """Whether it changes the policy."""
        return self.do not in (Do.STAY, Do.WAIT)


class NoPlan(CanaryError):  # noqa: N818 - it says what is the matter
    """The policy has no release, or no plan for it: people move it, nobody else."""


def step(policy: Policy, look: Look, now: datetime) -> Action:
    """What to do now. Raises NoPlan."""
    release, plan = policy.release, policy.plan
    if release is None or plan is None or not plan.steps:
        raise NoPlan(f"{policy.service_key!r} has no release with a plan")
    case = _Case(release=release, plan=plan, look=look, now=now)
    return _TABLE[state_of(release), look.verdict](case)


def current_step(plan: Plan, share: int) -> PlanStep | None:
    """The step that a release at ``share`` is in; None below the first."""
    return max((s for s in plan.steps if s.weight <= share), key=lambda s: s.weight, default=None)


def next_weight(plan: Plan, share: int) -> int:
    """The weight that comes after ``share``; PROMOTION after the last step."""
    above = (s.weight for s in plan.steps if share < s.weight <= plan.max_weight)
    return min(above, default=PROMOTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    release: Release
    plan: Plan
    look: Look
    now: datetime

    @property
    def since(self) -> datetime:
        """Since when its traffic has been what it is."""
        return self.release.weight_since or self.release.started_at or self.now

    @property
    def watched_s(self) -> float:
        """For how long that is."""
        return (self.now - self.since).total_seconds()

    def end_of(self, held: PlanStep) -> str:
        """When it has been held long enough."""
        return _clock(self.since + timedelta(seconds=held.hold_s))

    @property
    def is_fresh(self) -> bool:
        """Whether nobody has touched its traffic since the start."""
        return self.release.weight_since in (None, self.release.started_at)


def _advance(case: _Case) -> Action:
    """All is well: the next step, if it is time and nothing stands before it."""
    held = current_step(case.plan, case.release.share) or case.plan.steps[0]
    if case.watched_s < held.hold_s:
        why = f"{_percent(case.release.share)} is held until {case.end_of(held)}"
        return _stay(case, Because.HOLDING, why)
    if case.look.samples < held.min_samples:
        why = (
            f"{case.look.samples} of the {held.min_samples} requests that the step wants were seen"
        )
        return _stay(case, Because.FEW_SAMPLES, why)
    return _next(case)


def _next(case: _Case) -> Action:
    """The next step, if nothing stands before it."""
    weight = next_weight(case.plan, case.release.share)
    if case.look.mesh:
        return _stay(case, Because.MESH, case.look.mesh, Do.WAIT)
    if not are_open(case.look.gates):
        return _stay(case, Because.GATES, waits_for(case.look.gates), Do.WAIT)
    if weight != PROMOTION:
        why = "first step of the plan"
        if case.release.share:
            why = f"next step of the plan: {case.look.why or 'nothing speaks against it'}"
        return Action(
            do=Do.RAISE, because=Because.NEXT_STEP, why=why,
            share=weight, control=_control(case, weight),
        )  # fmt: skip
    if case.plan.promote:
        why = f"last step passed: {case.look.why or 'nothing speaks against it'}"
        return Action(do=Do.PROMOTE, because=Because.LAST_STEP, why=why)
    why = "the last step passed; the plan leaves it to a person to promote it"
    return _stay(case, Because.LAST_STEP, why, Do.WAIT)


def _look_on(case: _Case) -> Action:
    """Nothing can be said yet: that keeps nobody from the first users, a broken limit does."""
    if case.release.share or case.look.broken:
        return _stay(case, Because.INCONCLUSIVE, case.look.why or "more must be seen")
    first = case.plan.steps[0]
    if not case.is_fresh and case.watched_s < first.hold_s:
        # Somebody took its traffic away, or resumed it: they get the time of a step.
        return _stay(case, Because.HOLDING, f"it stays at 0 % until {case.end_of(first)}")
    return _next(case)


def _start_or_advance(case: _Case) -> Action:
    return _advance(case) if case.release.share else _look_on(case)


def _without_data(case: _Case) -> Action:
    """It keeps its traffic; if that lasts, the plan says what follows."""
    what = case.look.why or "a source of metrics does not answer"
    no_data, lasts_s = case.plan.no_data, min(case.look.no_data_s, case.watched_s)
    if not case.release.share or lasts_s < no_data.after_s:
        return _stay(case, Because.NO_DATA, what)
    why = f"no data for {no_data.after}: {what}"
    return _AFTER_NO_DATA[no_data.action](case, why)


def _roll_back(case: _Case, because: Because, why: str) -> Action:
    """Now, or later if the plan gives people time to call it off; or else people decide."""
    if not case.plan.rollback.automatic:
        return _pause(case, because, f"{why}; the plan leaves it to a person to roll it back")
    delay_s = case.plan.rollback.delay_s
    do = Do.ROLL_BACK_LATER if delay_s else Do.ROLL_BACK
    return Action(do=do, because=because, why=why, delay_s=delay_s)


def _pause(case: _Case, because: Because, why: str) -> Action:
    if state_of(case.release) is State.IN_PROGRESS:
        return Action(do=Do.PAUSE, because=because, why=why)
    return _stay(case, because, why)


def _halt(case: _Case, because: Because, why: str) -> Action:
    if state_of(case.release) is State.HALTED:
        return _stay(case, because, why)
    return Action(do=Do.HALT, because=because, why=why)


def _failed(case: _Case) -> Action:
    return _roll_back(case, Because.FAILED, case.look.why)


def _paused(case: _Case) -> Action:
    return _stay(case, Because.PAUSED, "it is paused; a person resumes it")


def _halted(case: _Case) -> Action:
    return _stay(case, Because.HALTED, "it is halted; a person resumes it")


def _ended(case: _Case) -> Action:
    return Action(do=Do.STAY, because=Because.ENDED, why=f"it is {case.release.status}")


def _stay(case: _Case, because: Because, why: str, do: Do = Do.STAY) -> Action:
    """Its traffic stays; while there is little of it, more of stable is compared with it."""
    release, plan = case.release, case.plan
    everybody = BUCKETS - release.share
    has_traffic = release.share and state_of(release) is not State.HALTED
    if has_traffic and release.control < everybody and _control(case, release.share) == everybody:
        why = f"fewer than {LOW_REQUESTS} canary requests in {plan.check_interval}"
        return Action(
            do=Do.WIDEN, because=Because.LOW_TRAFFIC, why=why,
            share=release.share, control=everybody,
        )  # fmt: skip
    return Action(do=do, because=because, why=why)


def _control(case: _Case, share: int) -> int:
    """Who stands for stable beside ``share``; all who lost the draw while traffic is low."""
    expected = case.look.requests_per_check
    if expected is None or not case.release.share or not case.plan.comparison.enabled:
        return case.plan.control(share)
    is_low = expected * share / case.release.share < LOW_REQUESTS
    return BUCKETS - share if is_low else case.plan.control(share)


def _clock(at: datetime) -> str:
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds") + " UTC"


def _percent(share: int) -> str:
    return f"{share * 100 / BUCKETS:g} %"


_Row = Callable[[_Case], Action]


def _in_force(then: _Row) -> _Row:
    """``then``, unless a rollback is due or a webhook said no."""

    def row(case: _Case) -> Action:
        due, refusal = case.release.due_rollback, case.look.refusal
        if due is not None and case.now >= due.due:
            return Action(do=Do.ROLL_BACK, because=Because.DUE, why=due.why)
        if due is not None:
            why = f"it is rolled back at {_clock(due.due)} unless a person keeps it: {due.why}"
            return Action(do=Do.STAY, because=Because.DUE, why=why)
        if refusal and case.look.verdict is not Verdict.FAIL:
            return _halt(case, Because.REFUSED, refusal)
        return then(case)

    return row


_AFTER_NO_DATA: Mapping[NoDataAction, Callable[[_Case, str], Action]] = {
    NoDataAction.HOLD: lambda case, why: _stay(case, Because.NO_DATA_FOR_LONG, why),
    NoDataAction.PAUSE: lambda case, why: _pause(case, Because.NO_DATA_FOR_LONG, why),
    NoDataAction.HALT: lambda case, why: _halt(case, Because.NO_DATA_FOR_LONG, why),
    NoDataAction.ROLL_BACK: lambda case, why: _roll_back(case, Because.NO_DATA_FOR_LONG, why),
}
_IN_FORCE: Mapping[State, Mapping[Verdict, _Row]] = {
    State.IN_PROGRESS: {
        Verdict.PASS: _start_or_advance,
        Verdict.INCONCLUSIVE: _look_on,
        Verdict.ERROR: _without_data,
        Verdict.FAIL: _failed,
    },
    State.PAUSED: {
        Verdict.PASS: _paused,
        Verdict.INCONCLUSIVE: _paused,
        Verdict.ERROR: _without_data,
        Verdict.FAIL: _failed,
    },
    State.HALTED: {
        Verdict.PASS: _halted,
        Verdict.INCONCLUSIVE: _halted,
        Verdict.ERROR: _halted,
        Verdict.FAIL: _failed,
    },
}
_TABLE: Mapping[tuple[State, Verdict], _Row] = {
    **{
        (state, verdict): _in_force(row)
        for state, rows in _IN_FORCE.items()
        for verdict, row in rows.items()
    },
    **{
        (state, verdict): _ended
        for state in (State.COMPLETED, State.ROLLED_BACK, State.ABANDONED)
        for verdict in Verdict
    },
}
