"""What the controller needs of a judge, and the engine's judge in these words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol

from canary_engine.alerts import Raised
from canary_engine.judge import document
from canary_engine.judge import evidence as gathering
from canary_engine.judge.breaches import Breach, Checked, Reading, Standing
from canary_engine.judge.evidence import Evidence, Link
from canary_engine.judge.findings import Compared, Ground
from canary_engine.judge.measures import Consequence, Measure, measures
from canary_engine.judge.slots import Slot
from canary_engine.judge.traffic import Traffic
from canary_engine.judge.verdict import Cause, Judgement, Look, Verdict, judge
from canary_engine.plan import Comparison, Metric, Plan
from canary_engine.record import Finding, Severity

MOST_REASONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that a judge knows of a release; ``links`` only spare it work."""

    evidence: Evidence
    breaches: tuple[Breach, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is judged: what is known, slots that still grow, and the values of the last minutes.

    ``silent`` are the metrics that a source did not tell, ``is_counting`` says whether outcomes
    come in, ``requests`` are the canary's at this weight, of ``min_samples`` that are wanted.
    """

    plan: Plan
    known: Known
    recent: Sequence[Slot]
    drawn: Reading
    control: Reading
    chosen: Reading | None
    now: datetime
    silent: Collection[tuple[Metric, str]] = frozenset()
    is_counting: bool = True
    requests: int = 0
    min_samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What follows and why, in words; ``known`` is what is known after the look.

    ``findings`` tells them in words when somebody wants to know. ``broken`` are the plan's limits
    that are known to be.
    """

    verdict: Verdict
    why: str
    known: Known
    findings: Callable[[], tuple[Finding, ...]] = tuple
    e_values: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[Raised, ...] = ()
    broken: str = ""


class Judge(Protocol):
    """Judges releases; pure."""

    def begin(self, plan: Plan) -> Known:
        """Nothing known yet."""
        ...

    def add(self, known: Known, slot: Slot) -> Known:
        """The same with a complete slot; each is added once and in order."""
        ...

    def look(self, case: Case) -> Judged:
        """The verdict now."""
        ...


class EngineJudge:
    """The engine's judge."""

    def begin(self, plan: Plan) -> Known:
        """See Judge."""
        return Known(evidence=gathering.begin(_measures(plan)))

    def add(self, known: Known, slot: Slot) -> Known:
        """See Judge."""
        first = known.links[0] if known.links else None
        if first is None or first.before is not known.evidence or first.slot != slot:
            return Known(evidence=gathering.add(known.evidence, slot), breaches=known.breaches)
        return Known(evidence=first.after, breaches=known.breaches, links=known.links[1:])

    def look(self, case: Case) -> Judged:
        """See Judge."""
        known = case.known
        links = gathering.follow(known.evidence, case.recent, known.links)
        found = judge(
            links[-1].after if links else known.evidence,
            (),
            Look(
                now_s=case.now.timestamp(),
                drawn=case.drawn,
                stable=case.control,
                chosen=case.chosen,
                success=case.plan.success,
                conditions=case.plan.rollback.conditions,
                breaches=known.breaches,
                silent=case.silent,
                is_counting=case.is_counting,
                requests=case.requests,
                min_samples=case.min_samples,
            ),
        )
        return Judged(
            verdict=found.verdict,
            why=_why(found),
            known=Known(evidence=known.evidence, breaches=found.breaches, links=links),
            findings=lambda: _findings(found),
            e_values=_e_values(found.evidence),
            alarms=tuple(_alarms(found.traffic)),
            broken="; ".join(one.text for one in found.because if one.cause in _BROKEN),
        )


def written(known: Known) -> dict[str, Any]:
    """What is known as it is kept, JSON-compatible."""
    return {
        "evidence": document.write(known.evidence),
        "breaches": document.write_breaches(known.breaches),
    }


def read(plan: Plan, kept: Mapping[str, Any]) -> Known:
    """What was known. Raises InvalidEvidence if that was by another plan or another version."""
    return Known(
        evidence=document.read(kept["evidence"], _measures(plan)),
        breaches=document.read_breaches(kept["breaches"]),
    )


def _measures(plan: Plan) -> tuple[Measure, ...]:
    return _made(plan.comparison)


@lru_cache(maxsize=256)
def _made(by: Comparison) -> tuple[Measure, ...]:
    if not by.enabled:
        return ()
    return measures(by.false_rollback / 100, by.margin / 100, by.attempts)


def _why(found: Judgement) -> str:
    """The worst reasons; those for a rollback are not mixed with what is merely unknown."""
    if not found.because:
        return "every criterion holds, and nothing is suspicious"
    words = [because.text for because in found.because[:MOST_REASONS]]
    return "; ".join(words)


_BROKEN = frozenset({Cause.CONDITION_HELD, Cause.CONDITION_BROKEN, Cause.CRITERION_BROKEN})
_VERDICTS = {
    Standing.WELL: Verdict.PASS,
    Standing.BROKEN: Verdict.INCONCLUSIVE,
    Standing.HELD: Verdict.FAIL,
    Standing.UNKNOWN: Verdict.INCONCLUSIVE,
}


def _e_values(evidence: Evidence) -> Mapping[str, float]:
    return {
        str(measure.subject): track.null.e_value
        for measure, track in zip(evidence.measures, evidence.tracks, strict=True)
    }


def _findings(found: Judgement) -> tuple[Finding, ...]:
    return (
        *(_of_compared(one) for one in found.compared),
        *(_of_limit(one, "condition") for one in found.conditions),
        *(_of_limit(one, "criterion") for one in found.success),
    )


def _of_compared(one: Compared) -> Finding:
    """A comparison; shares are told in percent."""
    return Finding(
        metric=str(one.subject),
        verdict=_verdict(one),
        test="sequential",
        canary=_percent(one.canary),
        against=_percent(one.control),
        e_value=one.e_value,
        e_limit=one.limit,
        ratio=one.risk,
        ratio_low=one.least,
        ratio_high=one.most,
        why=str(one),
    )


def _verdict(one: Compared) -> Verdict:
    if one.ground is Ground.WORSE and one.consequence is Consequence.ROLL_BACK:
        return Verdict.FAIL
    return Verdict.PASS if one.ground is Ground.LEVEL else Verdict.INCONCLUSIVE


def _of_limit(one: Checked, test: str) -> Finding:
    """A condition, or a criterion of which a breach is never reason enough to go back."""
    verdict = _VERDICTS[one.standing]
    if test == "criterion" and verdict is Verdict.FAIL:
        verdict = Verdict.INCONCLUSIVE
    return Finding(
        metric=one.limit.name or str(one.limit.metric),
        verdict=verdict,
        test=test,
        canary=one.value,
        against=one.most if one.most is not None else one.least,
        why=str(one),
    )


def _alarms(traffic: Traffic) -> list[Raised]:
    if not traffic.is_alarming:
        return []
    return [
        Raised(
            key="sample-ratio",
            severity=Severity.WARNING,
            title="the canary does not get the traffic that its percentage gives it",
            text=f"{traffic.canary:,} requests of the canary's and control's {traffic.both:,}, "
            f"{traffic.expected:,.0f} were expected. Whoever is lost on the way may be hidden "
            "from the comparison.",
        )
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100
