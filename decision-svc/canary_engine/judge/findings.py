"""What the evidence says of each measure, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from canary_engine.histogram import value_of
from canary_engine.judge.evidence import Evidence, Track, bounds, relative_risk
from canary_engine.judge.measures import (
    LEAST_EVENTS,
    MARGIN_CHANCE,
    SUSPICIOUS,
    Consequence,
    Measure,
    Subject,
)


class Ground(StrEnum):
    """How the canary stands to control on one measure, the best first."""

    NOTHING = "nothing-to-compare"
    LEVEL = "level"
    SUSPICIOUS = "suspicious"
    WORSE = "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One measure.

    ``canary`` and ``control`` are the shares of their requests that failed or were late, None
    without requests; ``risk`` is how many times as likely that is on the canary, between ``least``
    and ``most``; where the canary is proven worse, that proof has ruled out 1 and all below it.
    The e-value counts from ``limit`` on; ``p_value`` is 1 / the largest e-value so
    far. ``beyond_ms`` is from where on control's requests are late.
    """

    subject: Subject
    consequence: Consequence
    ground: Ground
    canary: float | None
    canary_requests: int
    control: float | None
    control_requests: int
    risk: float | None
    least: float | None
    most: float | None
    e_value: float
    limit: float
    p_value: float
    beyond_ms: float | None = None

    def __str__(self) -> str:
        what = _WORDS[self.subject]
        if self.beyond_ms is not None:
            what = f"{what} ({self.beyond_ms:,.4g} ms)"
        sides = f"canary {_said(self.canary, self.canary_requests, ' requests')}, "
        sides += f"control {_said(self.control, self.control_requests)}"
        times = f", {self.risk:.3g} times as many" if self.risk is not None else ""
        return f"{what}: {sides}{times}; e-value {_e(self.e_value)}, {_e(self.limit)} is proof"


_WORDS = {
    Subject.ERRORS: "errors",
    Subject.CLIENT_ERRORS: "client errors",
    Subject.P50: "slower than control's p50",
    Subject.P95: "slower than control's p95",
    Subject.P99: "slower than control's p99",
}


def compared(evidence: Evidence) -> tuple[Compared, ...]:
    """Every measure of the evidence, in their order."""
    limits = iter(evidence.yardstick.limits)
    return tuple(
        _compared(measure, track, next(limits, None) if measure.quantile is not None else None)
        for measure, track in zip(evidence.measures, evidence.tracks, strict=True)
    )


def ground(measure: Measure, track: Track) -> Ground:
    """How the canary stands by one measure's track."""
    counts, e_value = track.counts, track.null.e_value
    if not counts.canary_requests or not counts.control_requests:
        return Ground.NOTHING
    is_beyond_margin = not track.within or track.within.e_value >= 1 / MARGIN_CHANCE
    if e_value >= 1 / measure.chance and is_beyond_margin and counts.canary >= LEAST_EVENTS:
        return Ground.WORSE
    if e_value >= 1 / max(SUSPICIOUS, measure.chance):
        return Ground.SUSPICIOUS
    return Ground.LEVEL


def _compared(measure: Measure, track: Track, limit: int | None) -> Compared:
    counts = track.counts
    found = ground(measure, track)
    least, most = bounds(measure, track) or (None, None)
    if found is Ground.WORSE and least is not None:
        least = max(least, 1.0)
    return Compared(
        subject=measure.subject,
        consequence=measure.consequence,
        ground=found,
        canary=_share(counts.canary, counts.canary_requests),
        canary_requests=counts.canary_requests,
        control=_share(counts.control, counts.control_requests),
        control_requests=counts.control_requests,
        risk=relative_risk(counts),
        least=least,
        most=most,
        e_value=track.null.e_value,
        limit=1 / measure.chance,
        p_value=1 / track.null.highest,
        beyond_ms=None if limit is None else value_of(max(0, limit)) / 1_000,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _e(value: float) -> str:
    return f"{value:,.0f}" if 100 <= value < 1_000_000 else f"{value:.3g}"


def _said(share: float | None, requests: int, noun: str = "") -> str:
    return "without a request" if share is None else f"{share * 100:.3g} % of {requests:,}{noun}"
