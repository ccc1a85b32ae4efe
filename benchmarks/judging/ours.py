"""Our judge over many releases at once, looking every second: the engine's formulas on arrays.

``benchmarks/judge.py`` runs the engine itself on some of the same releases and compares every
e-value of every second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from canary_engine.judge import dispersion, process, yardstick
from canary_engine.judge.measures import (
    LEAST_EVENTS,
    MARGIN_CHANCE,
    Consequence,
    Measure,
    Subject,
)
from canary_engine.judge.process import Mixture
from numpy.typing import NDArray

from judging.streams import BUCKETS, SLOT_S, Sides, Stream

Floats = NDArray[np.float64]
Ints = NDArray[Any]


@dataclass(slots=True)
class Processes:
    """One mixture for all releases."""

    mixture: Mixture
    parts: Floats
    unspent: Floats
    events: Floats

    @classmethod
    def begin(cls, mixture: Mixture, releases: int) -> Processes:
        """Nothing seen yet."""
        start = process.begin(mixture)
        return cls(
            mixture=mixture,
            parts=np.tile(start.parts, (releases, 1)),
            unspent=np.full(releases, start.unspent),
            events=np.zeros(releases),
        )

    def add(self, canary: Floats, control: Floats, split: Split, clumps: Floats) -> Floats:
        """E-values after each second of a slot, given counts from its start; moves to its end."""
        events, mixture = canary + control, self.mixture
        counts = (events > 0) & split.says_something
        if not counts.any():
            return np.repeat(self._e_values()[:, None], events.shape[1], axis=1)
        unspent = process.MASS_LATER / (1 + np.log1p(self.events / process._PACE))
        spent = self.unspent - unspent
        ratio = split.logs(mixture.risks) - split.logs((mixture.boundary,))
        clump = np.maximum(clumps, mixture.clump)[:, None]
        ratio *= -(events / clump)[..., None]
        gains = np.array([gain for _, _, gain in mixture.parts])
        ratio += (canary / clump)[..., None] * gains
        before = self.parts + np.array(mixture.prior) * spent[:, None]
        with np.errstate(over="ignore"):
            parts = before[:, None, :] * np.exp(np.minimum(ratio, 690.0))
        np.minimum(parts, process.LARGEST, out=parts)
        e_values = np.minimum(parts.sum(axis=2) + unspent[:, None], process.LARGEST)
        e_values = np.where(counts, e_values, self._e_values()[:, None])
        moves = counts[:, -1]
        self.parts = np.where(moves[:, None], parts[:, -1], self.parts)
        self.unspent = np.where(moves, unspent, self.unspent)
        self.events += np.where(moves, events[:, -1], 0)
        return e_values

    def _e_values(self) -> Floats:
        whole: Floats = np.minimum(self.parts.sum(axis=1) + self.unspent, process.LARGEST)
        return whole


class Dispersions:
    """How the events of one measure clump, for all releases."""

    def __init__(self, releases: int) -> None:
        self._canary_part = np.zeros(releases)
        self._control_part = np.zeros(releases)
        self._squares = np.zeros(releases)
        self._expected = np.zeros(releases)

    def clumps(self) -> Floats:
        """By what the next slot is counted."""
        usual = dispersion.USUAL
        found: Floats = np.maximum(1.0, (usual + self._squares) / (usual + self._expected))
        return found

    def add(self, canary: Floats, control: Floats, share: Floats) -> None:
        """Move on by a slot."""
        self._canary_part += canary * (1 - share)
        self._control_part += control * share
        events = canary + control
        some = (events > 0) & (share > 0) & (share < 1)
        risk = (self._canary_part + 1) / (self._control_part + 1)
        owned = np.where(some, risk * share / (risk * share + 1 - share), 0.5)
        self._squares += np.where(some, (canary - events * owned) ** 2, 0)
        self._expected += np.where(some, events * owned * (1 - owned), 0)


class Split:
    """How the requests of a slot, from its start to each second, are split between the sides."""

    def __init__(self, stream: Stream, part: slice) -> None:
        canary = stream.canary.requests[:, part].cumsum(axis=1)
        control = stream.control.requests[:, part].cumsum(axis=1)
        self.share = canary / np.maximum(canary + control, 1)
        self.says_something = (self.share > 0) & (self.share < 1)
        self._logs: dict[tuple[float, ...], Floats] = {}

    def logs(self, risks: tuple[float, ...]) -> Floats:
        """ln (1 + (r - 1) share) for each risk r: releases x seconds x risks."""
        if risks not in self._logs:
            self._logs[risks] = np.log1p(self.share[..., None] * (np.array(risks) - 1))
        return self._logs[risks]


class Yardsticks:
    """Control's latencies of all releases, and the limits that they give."""

    def __init__(self, releases: int, quantiles: Sequence[float]) -> None:
        self._quantiles = quantiles
        self.limits = np.zeros((releases, len(quantiles)), np.int64)
        self.has_limits = np.zeros(releases, bool)
        self._made_from = np.zeros(releases, np.int64)
        self._slots = np.zeros(releases, np.int64)
        self._old = np.zeros((releases, len(BUCKETS)), np.int64)
        self._young = np.zeros((releases, len(BUCKETS)), np.int64)

    def limits_for(self, which: int, slower: int, canary: Ints, control: Ints) -> Ints:
        """The limit of each second in a slot, given latencies from its start."""
        limits = np.repeat(self.limits[:, which, None], control.shape[1], axis=1)
        new = ~self.has_limits
        if new.any():
            limits[new] = _pooled(canary[new], control[new], slower, self._quantiles[which])
        return limits

    def add(self, control: Ints) -> None:
        """Move on by a slot."""
        self._slots += 1
        some = control.sum(axis=1) > 0
        self._young += control
        young = self._young.sum(axis=1)
        count = self._old.sum(axis=1) + young
        is_late = self._slots >= yardstick.RENEWED_AFTER_SLOTS
        is_due = some & (count >= yardstick._LEAST_FIRST)
        is_due &= is_late | (count >= 2 * self._made_from)
        if not is_due.any():
            return
        whole = self._old[is_due] + self._young[is_due]
        for which, quantile in enumerate(self._quantiles):
            self.limits[is_due, which] = BUCKETS[_first(whole, quantile)]
        self.has_limits |= is_due
        self._slots[is_due] = 0
        self._made_from[is_due] = count[is_due]
        turns = is_due & is_late & (young >= yardstick._LEAST_FOR_OLD_TO_GO)
        self._made_from[turns] = young[turns]
        self._old[turns] = self._young[turns]
        self._young[turns] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """When each release was rolled back, in seconds, -1 never, and by which subject's index.

    ``e_values`` are those of the first ``kept`` releases: releases x measures x seconds.
    """

    at_s: Ints
    e_values: Floats


def watch(stream: Stream, measures: Sequence[Measure], kept: int) -> Looks:
    """Look at every release every second, until the metrics cannot be had."""
    cell = stream.cell
    releases = len(stream.canary.requests)
    seconds = cell.seconds if cell.dead_from is None else cell.dead_from * 60
    nulls = [Processes.begin(m.mixture, releases) for m in measures]
    withins = [Processes.begin(m.within, releases) if m.within else None for m in measures]
    own = [np.zeros(releases) for _ in measures]
    clumped = [Dispersions(releases) for _ in measures]
    sticks = Yardsticks(releases, [m.quantile for m in measures if m.quantile is not None])
    at_s = np.full(releases, -1, np.int64)
    e_values = np.ones((kept, len(measures), cell.seconds))
    for start in range(0, seconds, SLOT_S):
        part = slice(start, start + SLOT_S)
        canary_late = stream.canary.latencies[:, part].cumsum(axis=1, dtype=np.int32)
        control_late = stream.control.latencies[:, part].cumsum(axis=1, dtype=np.int32)
        timed, split = 0, Split(stream, part)
        for index, measure in enumerate(measures):
            if measure.quantile is None:
                canary, control = (
                    _counted(measure.subject, side, part)
                    for side in (stream.canary, stream.control)
                )
            else:
                limits = sticks.limits_for(timed, measure.slower, canary_late, control_late)
                timed += 1
                canary = _above(canary_late, limits + measure.slower)
                control = _above(control_late, limits)
            clumps = clumped[index].clumps()
            clumped[index].add(canary[:, -1], control[:, -1], split.share[:, -1])
            e_value = nulls[index].add(canary, control, split, clumps)
            e_values[:, index, part] = e_value[:kept]
            within = withins[index]
            if measure.consequence is Consequence.HOLD:
                continue
            is_worse = e_value >= 1 / measure.chance
            if within is not None:
                is_worse &= within.add(canary, control, split, clumps) >= 1 / MARGIN_CHANCE
            is_worse &= own[index][:, None] + canary >= LEAST_EVENTS
            own[index] += canary[:, -1]
            first = np.where(is_worse.any(axis=1), start + is_worse.argmax(axis=1), -1)
            earlier = (first >= 0) & ((at_s < 0) | (first < at_s))
            at_s[earlier] = first[earlier]
        sticks.add(control_late[:, -1])
        if not kept and (at_s >= 0).all():
            break
    return Looks(at_s=at_s, e_values=e_values)


def _counted(subject: Subject, side: Sides, part: slice) -> Floats:
    found = side.errors if subject is Subject.ERRORS else side.client_errors
    return found[:, part].cumsum(axis=1).astype(np.float64)


def _above(latencies: Ints, limits: Ints) -> Floats:
    """How many of the latencies of each second are above its limit."""
    return np.where(limits[..., None] < BUCKETS, latencies, 0).sum(axis=-1).astype(np.float64)


def _first(latencies: Ints, quantile: float) -> Ints:
    """Where, of the last axis, that share of all is reached."""
    wanted = np.maximum(1, np.ceil(quantile * latencies.sum(axis=-1)))
    return (latencies.cumsum(axis=-1) >= wanted[..., None]).argmax(axis=-1)


def _pooled(canary: Ints, control: Ints, slower: int, quantile: float) -> Ints:
    """Quantiles of both sides together, the canary's brought down; 0 where one has nothing."""
    at = np.concatenate([BUCKETS - slower, BUCKETS])
    order = np.argsort(at, kind="stable")
    both = np.concatenate([canary, control], axis=-1)[..., order]
    found = at[order][_first(both, quantile)]
    has_both = (canary.sum(axis=-1) > 0) & (control.sum(axis=-1) > 0)
    return np.where(has_both, found, 0)
