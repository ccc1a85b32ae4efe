"""On what canary and control are compared, at which chance of error, and what follows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil, log

from canary_engine.histogram import ERROR
from canary_engine.judge.process import Mixture

FALSE_ROLLBACK = 0.01
MARGIN = 0.1
MARGIN_CHANCE = 0.05
"""At most this often is a canary rolled back for errors that are worse by exactly the margin."""
LEAST_EVENTS = 10
"""Fewer events than this roll nothing back: they may all be one user who tries again."""
SUSPICIOUS = 1 / 20
"""A weight is not raised while there is as much evidence as would mislead one time in 20."""


class Subject(StrEnum):
    """What is compared: shares of requests that failed or took longer than control's quantile."""

    ERRORS = "errors"
    CLIENT_ERRORS = "client-errors"
    P50 = "p50"
    P95 = "p95"
    P99 = "p99"


class Consequence(StrEnum):
    """What evidence that the canary is worse leads to."""

    ROLL_BACK = "roll-back"
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One subject: ``chance`` is that of ever finding fault with a canary that is as good.

    ``within`` is the same evidence against the canary being worse by no more than the margin.
    A latency has ``quantile`` and, instead of ``within``, ``slower``: a canary's request is late if
    it is so many histogram buckets above control's limit.
    """

    subject: Subject
    consequence: Consequence
    chance: float
    mixture: Mixture
    within: Mixture | None = None
    quantile: float | None = None
    slower: int = 0


_ERRORS = ((1.5, 0.15), (2.0, 0.5), (3.0, 0.2), (6.0, 0.1), (20.0, 0.05))
_P50 = ((1.2, 0.3), (1.5, 0.4), (1.8, 0.3))
_P95 = ((1.5, 0.2), (2.5, 0.4), (5.0, 0.3), (15.0, 0.1))
_P99 = ((2.0, 0.3), (4.0, 0.3), (10.0, 0.3), (40.0, 0.1))
_Grid = tuple[tuple[float, float], ...]


def measures(
    false_rollback: float = FALSE_ROLLBACK, margin: float = MARGIN, clump: float = 1.0
) -> tuple[Measure, ...]:
    """The five measures of a release.

    ``false_rollback`` is the chance that a canary as good as stable is ever rolled back, over all
    that may do so; ``margin`` how much worse is tolerated, 0.1 being a tenth; ``clump`` how many
    errors one cause makes.
    """
    roll_back, hold = Consequence.ROLL_BACK, Consequence.HOLD
    return (
        _counted(Subject.ERRORS, roll_back, 0.7 * false_rollback, margin, clump),
        # One scanner makes thousands of these, and it is on one side only.
        _counted(Subject.CLIENT_ERRORS, hold, false_rollback, margin, clump),
        _timed(Subject.P50, 0.1 * false_rollback, margin, 0.5, _P50),
        _timed(Subject.P95, 0.1 * false_rollback, margin, 0.95, _P95),
        _timed(Subject.P99, 0.1 * false_rollback, margin, 0.99, _P99),
    )


def _counted(
    subject: Subject, consequence: Consequence, chance: float, margin: float, clump: float
) -> Measure:
    # What is tolerated must lie well below the smallest risk that is looked for.
    wider = max(1.0, (1 + margin) / (1 + MARGIN))
    risks, prior = tuple(risk * wider for risk, _ in _ERRORS), tuple(w for _, w in _ERRORS)
    return Measure(
        subject=subject,
        consequence=consequence,
        chance=chance,
        mixture=Mixture(risks=risks, prior=prior, clump=clump),
        within=Mixture(risks=risks, prior=prior, boundary=1 + margin, clump=clump),
    )


def _timed(subject: Subject, chance: float, margin: float, quantile: float, grid: _Grid) -> Measure:
    risks, prior = tuple(risk for risk, _ in grid), tuple(weight for _, weight in grid)
    return Measure(
        subject=subject,
        consequence=Consequence.ROLL_BACK,
        chance=chance,
        mixture=Mixture(risks=risks, prior=prior),
        quantile=quantile,
        slower=_buckets(margin),
    )


def _buckets(margin: float) -> int:
    """The least number of histogram buckets that make a value longer by the margin."""
    return ceil(log(1 + margin) / log((1 + ERROR) / (1 - ERROR)) - 1e-9)
