"""Pass, fail, inconclusive or error: one look at a release, and in words why.

Nothing here reads a clock: whoever looks says when it is, and may look as often as they like.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from canary_engine.judge import breaches as clocks
from canary_engine.judge.breaches import Breach, Checked, Reading, Standing
from canary_engine.judge.evidence import Evidence, follow
from canary_engine.judge.findings import Compared, Ground, compared, ground
from canary_engine.judge.measures import Consequence
from canary_engine.judge.slots import Slot
from canary_engine.judge.traffic import Traffic
from canary_engine.model import Cohort
from canary_engine.plan import Limit, Metric


class Verdict(StrEnum):
    """What follows: go on, go back, wait for more, or wait for a source. The worst comes first."""

    FAIL = "fail"
    ERROR = "error"
    INCONCLUSIVE = "inconclusive"
    PASS = "pass"


class Cause(StrEnum):
    """Why a verdict is not simply pass."""

    CONDITION_HELD = "condition-held"
    WORSE_THAN_CONTROL = "worse-than-control"
    SOURCE_SILENT = "source-silent"
    CONDITION_BROKEN = "condition-broken"
    CRITERION_BROKEN = "criterion-broken"
    CRITERION_UNKNOWN = "criterion-unknown"
    SUSPICIOUS = "suspicious"
    TOO_FEW_REQUESTS = "too-few-requests"


VERDICTS: Mapping[Cause, Verdict] = {
    Cause.CONDITION_HELD: Verdict.FAIL,
    Cause.WORSE_THAN_CONTROL: Verdict.FAIL,
    Cause.SOURCE_SILENT: Verdict.ERROR,
    Cause.CONDITION_BROKEN: Verdict.INCONCLUSIVE,
    Cause.CRITERION_BROKEN: Verdict.INCONCLUSIVE,
    Cause.CRITERION_UNKNOWN: Verdict.INCONCLUSIVE,
    Cause.SUSPICIOUS: Verdict.INCONCLUSIVE,
    Cause.TOO_FEW_REQUESTS: Verdict.INCONCLUSIVE,
}
"""What each cause leads to by itself; of several the worst rules."""

_OF_GROUND: Mapping[tuple[Ground, Consequence], Cause] = {
    (Ground.WORSE, Consequence.ROLL_BACK): Cause.WORSE_THAN_CONTROL,
    (Ground.WORSE, Consequence.HOLD): Cause.SUSPICIOUS,
    (Ground.SUSPICIOUS, Consequence.ROLL_BACK): Cause.SUSPICIOUS,
    (Ground.SUSPICIOUS, Consequence.HOLD): Cause.SUSPICIOUS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Because:
    """One cause, and in words what was found."""

    cause: Cause
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is known at the moment of a look, other than the slots.

    ``drawn`` reads the metrics of the users of the draw, ``chosen`` those of the users who got the
    canary some other way, None if there are none: the rollback conditions hold for them as well.
    ``silent`` are metrics whose source gave no answer; a metric that nobody reports is just
    unknown. ``is_counting`` is false if the outcomes themselves could not be had. ``requests`` is
    how many the canary has had at this weight.
    """

    now_s: float
    drawn: Reading
    stable: Reading
    chosen: Reading | None = None
    success: tuple[Limit, ...] = ()
    conditions: tuple[Limit, ...] = ()
    breaches: tuple[Breach, ...] = ()
    silent: Collection[tuple[Metric, str]] = frozenset()
    is_counting: bool = True
    requests: int = 0
    min_samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict with all that it rests upon; ``breaches`` belong to the next look."""

    verdict: Verdict
    because: tuple[Because, ...]
    evidence: Evidence
    conditions: tuple[Checked, ...]
    success: tuple[Checked, ...]
    breaches: tuple[Breach, ...]

    @property
    def compared(self) -> tuple[Compared, ...]:
        """Every measure, in numbers."""
        return compared(self.evidence)

    @property
    def traffic(self) -> Traffic:
        """Whether both sides have the traffic that they should."""
        return self.evidence.traffic


def judge(evidence: Evidence, recent: Sequence[Slot], look: Look) -> Judgement:
    """What to think of the release now.

    ``evidence`` is of all complete slots, ``recent`` are those that still grow, in order; who has
    followed them already gives what that came to, and no recent ones.
    """
    whole = follow(evidence, recent)[-1].after if recent else evidence
    conditions, breaches = _conditions(look)
    success, _ = clocks.check(look.success, Cohort.DRAWN, look.drawn, look.stable, (), look.now_s)
    because = (
        *_of_conditions(conditions),
        *_of_comparisons(whole),
        *_of_silence(look),
        *_of_success(success),
        *_of_samples(look),
    )
    because = tuple(sorted(because, key=lambda one: _ORDER[one.cause]))
    return Judgement(
        verdict=VERDICTS[because[0].cause] if because else Verdict.PASS,
        because=because,
        evidence=whole,
        conditions=conditions,
        success=success,
        breaches=breaches,
    )


_RANK = {verdict: rank for rank, verdict in enumerate(Verdict)}
_ORDER = {cause: (_RANK[VERDICTS[cause]], rank) for rank, cause in enumerate(Cause)}


def _conditions(look: Look) -> tuple[tuple[Checked, ...], tuple[Breach, ...]]:
    readings = ((Cohort.DRAWN, look.drawn), (Cohort.CHOSEN, look.chosen))
    checked: list[Checked] = []
    breaches: list[Breach] = []
    for cohort, read in readings:
        if read is None:
            # Nobody was there to be seen: their clocks stand still.
            breaches += (
                one
                for one in look.breaches
                if one.cohort is cohort and one.limit in look.conditions
            )
            continue
        found, after = clocks.check(
            look.conditions, cohort, read, look.stable, look.breaches, look.now_s
        )
        checked.extend(found)
        breaches.extend(after)
    return tuple(checked), tuple(breaches)


def _of_conditions(conditions: Sequence[Checked]) -> list[Because]:
    causes = {Standing.HELD: Cause.CONDITION_HELD, Standing.BROKEN: Cause.CONDITION_BROKEN}
    return [
        Because(
            cause=causes[one.standing], text=f"{one} (for {one.broken_s:,.0f} s now{_early(one)})"
        )
        for one in conditions
        if one.standing in causes
    ]


def _early(one: Checked) -> str:
    return f", but that was under {clocks.LEAST_REQUESTS} requests" if one.is_early else ""


def _of_comparisons(evidence: Evidence) -> list[Because]:
    """What stands out; only then are there numbers to put into words."""
    causes = [
        _OF_GROUND.get((ground(measure, track), measure.consequence))
        for measure, track in zip(evidence.measures, evidence.tracks, strict=True)
    ]
    if not any(causes):
        return []
    told = zip(causes, compared(evidence), strict=True)
    return [Because(cause=cause, text=str(one)) for cause, one in told if cause]


def _of_silence(look: Look) -> list[Because]:
    needed = {(limit.metric, limit.name) for limit in (*look.success, *look.conditions)}
    texts = ["no answer about outcomes"] if not look.is_counting else []
    texts += [
        f"no answer about {name or metric}" for metric, name in sorted(needed & {*look.silent})
    ]
    return [Because(cause=Cause.SOURCE_SILENT, text=text) for text in texts]


def _of_success(success: Sequence[Checked]) -> list[Because]:
    causes = {
        Standing.HELD: Cause.CRITERION_BROKEN,
        Standing.BROKEN: Cause.CRITERION_BROKEN,
        Standing.UNKNOWN: Cause.CRITERION_UNKNOWN,
    }
    return [
        Because(cause=causes[one.standing], text=str(one))
        for one in success
        if one.standing in causes
    ]


def _of_samples(look: Look) -> list[Because]:
    if look.requests >= look.min_samples:
        return []
    text = f"{look.requests:,} requests at this weight, {look.min_samples:,} are asked for"
    return [Because(cause=Cause.TOO_FEW_REQUESTS, text=text)]
