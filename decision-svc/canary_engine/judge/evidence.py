"""All that a release's slots have shown so far: bounded, immutable, whole after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp, log, sqrt

from canary_engine.judge import dispersion, process, yardstick
from canary_engine.judge.dispersion import Dispersion
from canary_engine.judge.measures import Measure, Subject, measures
from canary_engine.judge.process import Mixture, Process
from canary_engine.judge.slots import Side, Slot
from canary_engine.judge.traffic import Traffic
from canary_engine.judge.traffic import add as add_traffic
from canary_engine.judge.yardstick import Yardstick

_PRIOR_INFORMATION = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Requests of both sides, how many of them were events, and two sums over slots.

    ``canary_part`` and ``control_part`` are Mantel's and Haenszel's: each slot is compared within
    itself, so that a weight that changes together with the load does not look like a difference.
    """

    canary: int = 0
    canary_requests: int = 0
    control: int = 0
    control_requests: int = 0
    canary_part: float = 0.0
    control_part: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """What one measure has come to: against none worse, and against no worse than the margin."""

    counts: Counts
    null: Process
    within: Process | None = None
    dispersion: Dispersion = field(default_factory=Dispersion)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A track for each measure, in their order; ``until_s`` is where the last slot began."""

    measures: tuple[Measure, ...]
    tracks: tuple[Track, ...]
    yardstick: Yardstick = field(default_factory=Yardstick)
    traffic: Traffic = field(default_factory=Traffic)
    until_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A slot, and the evidence before and after it."""

    before: Evidence
    slot: Slot
    after: Evidence


def begin(by: tuple[Measure, ...] | None = None) -> Evidence:
    """No evidence yet, to be gathered by these measures; the usual ones if None."""
    chosen = measures() if by is None else by
    return Evidence(measures=chosen, tracks=tuple(map(_begin_track, chosen)))


def add(evidence: Evidence, slot: Slot) -> Evidence:
    """The evidence after a slot; one that is not later than the last changes nothing."""
    if evidence.until_s is not None and slot.start_s <= evidence.until_s:
        return evidence
    if not slot.canary.requests and not slot.control.requests:
        return replace(evidence, until_s=slot.start_s)
    timed = [m for m in evidence.measures if m.quantile is not None]
    quantiles = [m.quantile for m in timed if m.quantile is not None]
    found = yardstick.limits_for(evidence.yardstick, slot, quantiles, [m.slower for m in timed])
    limits = {m.subject: limit for m, limit in zip(timed, found, strict=True)}
    return Evidence(
        measures=evidence.measures,
        tracks=tuple(
            _add(measure, track, slot, limits.get(measure.subject))
            for measure, track in zip(evidence.measures, evidence.tracks, strict=True)
        ),
        yardstick=yardstick.add(evidence.yardstick, slot, quantiles),
        traffic=add_traffic(evidence.traffic, slot),
        until_s=slot.start_s,
    )


def follow(
    evidence: Evidence, slots: Sequence[Slot], known: Sequence[Link] = ()
) -> tuple[Link, ...]:
    """The slots one after the other on top of the evidence, which stays as it is.

    ``known`` is what this gave at the last look: slots that are as they were, on evidence that is
    as it was, are not counted again.
    """
    links: list[Link] = []
    for index, slot in enumerate(slots):
        link = known[index] if index < len(known) else None
        if link is None or link.before is not evidence or link.slot != slot:
            link = Link(before=evidence, slot=slot, after=add(evidence, slot))
        links.append(link)
        evidence = link.after
    return tuple(links)


def relative_risk(counts: Counts) -> float | None:
    """How many times as likely an event is on the canary; None while a side has no event."""
    if counts.canary_part <= 0 or counts.control_part <= 0:
        return None
    return counts.canary_part / counts.control_part


def bounds(measure: Measure, track: Track) -> tuple[float, float] | None:
    """Between which risks the true one lies at all times, with 1 - ``chance``; None if unknown.

    For people to look at; no verdict rests upon it. It is Robbins' normal mixture (Robbins,
    "Statistical Methods Related to the Law of the Iterated Logarithm", 1970) around the logarithm
    of the estimate, whose variance is taken as 1 / canary + 1 / control clumps of events: it holds
    for many, and is too wide where events are common.
    """
    counts, clump = track.counts, max(measure.mixture.clump, track.dispersion.clump)
    estimate = relative_risk(counts)
    if estimate is None or not counts.canary or not counts.control:
        return None
    information = 1 / (clump * (1 / counts.canary + 1 / counts.control))
    whole = information + _PRIOR_INFORMATION
    ratio = whole / (_PRIOR_INFORMATION * measure.chance**2)
    width = sqrt(whole * log(ratio)) / information
    return estimate * exp(-min(width, 700.0)), estimate * exp(min(width, 300.0))


def _begin_track(measure: Measure) -> Track:
    within = process.begin(measure.within) if measure.within else None
    return Track(counts=Counts(), null=process.begin(measure.mixture), within=within)


def _add(measure: Measure, track: Track, slot: Slot, limit: int | None) -> Track:
    canary, canary_of = _events(measure, slot.canary, limit, measure.slower)
    control, control_of = _events(measure, slot.control, limit, 0)
    both = canary_of + control_of
    if not both:
        return track
    counts = _counted(track.counts, canary, canary_of, control, control_of)
    if not canary + control:
        return Track(
            counts=counts, null=track.null, within=track.within, dispersion=track.dispersion
        )
    share, clump = canary_of / both, track.dispersion.clump

    def gone_on(mixture: Mixture, before: Process) -> Process:
        return process.add(
            mixture, before, canary=canary, control=control, share=share, clump=clump
        )

    # One event of each side more than there were: nothing is divided by nothing.
    risk = (counts.canary_part + 1) / (counts.control_part + 1)
    return Track(
        counts=counts,
        null=gone_on(measure.mixture, track.null),
        within=gone_on(measure.within, track.within) if measure.within and track.within else None,
        dispersion=dispersion.add(
            track.dispersion, canary=canary, control=control, share=share, risk=risk
        ),
    )


def _events(measure: Measure, side: Side, limit: int | None, slower: int) -> tuple[int, int]:
    """How many requests were events, and of how many; there are never more of the former."""
    if limit is not None:
        return side.latency.above(limit + slower), side.latency.count
    found = side.errors if measure.subject is Subject.ERRORS else side.client_errors
    return min(found, side.requests), side.requests


def _counted(counts: Counts, canary: int, canary_of: int, control: int, control_of: int) -> Counts:
    both = canary_of + control_of
    return Counts(
        canary=counts.canary + canary,
        canary_requests=counts.canary_requests + canary_of,
        control=counts.control + control,
        control_requests=counts.control_requests + control_of,
        canary_part=counts.canary_part + canary * control_of / both,
        control_part=counts.control_part + control * canary_of / both,
    )
