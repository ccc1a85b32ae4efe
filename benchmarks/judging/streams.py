"""Requests of a canary and its control, second by second, for many releases at once.

Both sides see the same minutes: the same load (time of day, bursts), the same slow and bad
moments, and every request is drawn by itself given its second. Latencies fall on LEVELS values of
one law, 15 % apart; within a slot of ten seconds the law is shifted by the same whole number of
values for both sides, and the canary's by ``slower`` more where it regressed.

A stream is counts, not a list of requests: of requests, errors, client errors and of every latency
in each second. Drawing counts is the same as drawing requests and counting them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from canary_engine.histogram import bucket_of, value_of
from numpy.typing import NDArray

Ints = NDArray[np.int64]
CHECK_S = 60
SLOT_S = 10
LEVELS = 24
STEP = 7
"""Histogram buckets from one latency to the next."""
DOUBLED = 5
"""Latencies by which one is about twice as long: 2.014 times."""
_LOWEST = bucket_of(18_000)
_MEDIAN_US, _SIGMA = 60_000.0, 0.6
_SHIFTS = 4
_MANY = 50
PLACES = LEVELS + 2 * _SHIFTS + 2 * DOUBLED
"""How many latencies there are with all shifts."""
BUCKETS = _LOWEST + STEP * (np.arange(PLACES) - _SHIFTS)
CLIENT_ERRORS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting. ``requests`` are the canary's in a check on average, ``weights`` in percent.

    With several weights the release walks through them in equal parts, and ``requests`` are those
    at the first. ``dead_from`` is the check from which on the metrics cannot be had. Whoever meets
    an error meets ``tries`` of them at once; our judge is told ``clump``.
    """

    name: str
    requests: int
    weights: tuple[float, ...] = (10.0,)
    rate: float = 0.005
    risk: float = 1.0
    slower: int = 0
    checks: int = 25
    control_times: float = 4.0
    is_plain: bool = False
    dead_from: int | None = None
    tries: int = 1
    clump: float = 1.0

    @property
    def is_healthy(self) -> bool:
        """Whether the canary is as good as stable."""
        return self.risk == 1 and not self.slower

    @property
    def seconds(self) -> int:
        """How long a release is watched."""
        return self.checks * CHECK_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Counts of one side: releases x seconds, latencies also x PLACES, by slot and by second."""

    requests: Ints
    errors: Ints
    client_errors: Ints
    latencies: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What happened to both sides of all releases of a cell."""

    cell: Cell
    canary: Sides
    control: Sides


def draw(cell: Cell, releases: int, random: np.random.Generator) -> Stream:
    """So many releases of a cell."""
    load, rates, shifts = _conditions(cell, releases, random)
    share, ratio = _weights(cell)
    per_second = cell.requests / CHECK_S * load * share
    canary = _requests(cell, per_second, random)
    control = random.poisson(per_second * ratio)
    return Stream(
        cell=cell,
        canary=_side(canary, rates * cell.risk, shifts + cell.slower, cell.tries, random),
        control=_side(control, rates, shifts, cell.tries, random),
    )


def usual_ms(quantile: float) -> float:
    """A quantile of stable's latency while nothing is the matter."""
    level = int((_LAW.cumsum() >= quantile).argmax())
    return value_of(int(_LOWEST + STEP * level)) / 1_000


def late_share(quantile: float, slower: int) -> float:
    """Which share of a canary that is so much slower takes longer than stable's quantile."""
    level = int((_LAW.cumsum() >= quantile).argmax())
    return float(_LAW[max(0, level + 1 - slower) :].sum())


def _conditions(
    cell: Cell, releases: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], Ints]:
    """Load and error rate of every second, and the shift of latencies in every slot."""
    seconds, slots = cell.seconds, cell.seconds // SLOT_S
    if cell.is_plain:
        return (
            np.ones((releases, seconds)),
            np.full((releases, seconds), cell.rate),
            np.zeros((releases, slots), np.int64),
        )
    hour = random.uniform(0, 2 * np.pi, (releases, 1))
    day = 1 + 0.5 * np.sin(hour + 2 * np.pi * np.arange(seconds) / 86_400)
    bursts = _spells(releases, slots, chance=1 / 60, length=3, random=random)
    incidents = _spells(releases, slots, chance=1 / 300, length=6, random=random)
    load = day * np.repeat(1 + 2 * bursts, SLOT_S, axis=1)
    rates = cell.rate * np.repeat(1 + 4 * incidents, SLOT_S, axis=1)
    drift = np.empty((releases, slots))
    drift[:, 0] = random.normal(0, 0.15, releases)
    for slot in range(1, slots):
        fresh = random.normal(0, 0.15, releases)
        drift[:, slot] = 0.9 * drift[:, slot - 1] + np.sqrt(1 - 0.9**2) * fresh
    step = np.log(value_of(STEP + 1) / value_of(1))
    shifts = np.clip(np.rint(drift / step), -_SHIFTS, _SHIFTS).astype(np.int64)
    return load, rates, shifts + DOUBLED * incidents


def _spells(
    releases: int, slots: int, *, chance: float, length: int, random: np.random.Generator
) -> Ints:
    """1 in the slots of a spell, 0 in others."""
    starts = random.random((releases, slots)) < chance
    inside = np.zeros((releases, slots), np.int64)
    for later in range(length):
        inside[:, later:] |= starts[:, : slots - later]
    return inside


def _weights(cell: Cell) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For every second: traffic in multiples of the first weight's, and control to canary."""
    each = np.array_split(np.arange(cell.seconds), len(cell.weights))
    weights = np.concatenate(
        [np.full(len(part), weight) for part, weight in zip(each, cell.weights, strict=True)]
    )
    control = np.minimum(weights * cell.control_times, 100 - weights)
    return weights / cell.weights[0], control / weights


def _requests(cell: Cell, per_second: NDArray[np.float64], random: np.random.Generator) -> Ints:
    if not cell.is_plain:
        return random.poisson(per_second)
    # Exactly so many in every check.
    checks = random.multinomial(
        cell.requests, [1 / CHECK_S] * CHECK_S, (len(per_second), cell.checks)
    )
    return checks.reshape(len(per_second), cell.seconds)


def _side(
    requests: Ints,
    rates: NDArray[np.float64],
    shifts: Ints,
    tries: int,
    random: np.random.Generator,
) -> Sides:
    plain = _latencies(requests, random)
    releases, seconds = requests.shape
    places = np.zeros((releases, seconds, PLACES), np.int32)
    at = _SHIFTS + np.repeat(shifts, SLOT_S, axis=1)
    for shift in np.unique(at):
        which = at == shift
        places[which, shift : shift + LEVELS] = plain[which]
    return Sides(
        requests=requests,
        errors=np.minimum(
            tries * random.binomial(requests, np.minimum(rates / tries, 1.0)), requests
        ),
        client_errors=random.binomial(requests, CLIENT_ERRORS),
        latencies=places,
    )


def _latencies(requests: Ints, random: np.random.Generator) -> NDArray[np.int32]:
    """How many of each second's requests have which latency of the law."""
    if requests.mean() > _MANY:
        return random.multinomial(requests, _LAW).astype(np.int32)
    # One by one, which is the same and sooner done.
    levels = np.searchsorted(_LAW.cumsum()[:-1], random.random(requests.sum()))
    seconds = np.repeat(np.arange(requests.size), requests.ravel())
    counts = np.bincount(seconds * LEVELS + levels, minlength=requests.size * LEVELS)
    return counts.reshape(*requests.shape, LEVELS).astype(np.int32)


def _law() -> NDArray[np.float64]:
    values = np.array([value_of(_LOWEST + STEP * level) for level in range(LEVELS)])
    z = np.log(values / _MEDIAN_US) / _SIGMA
    density = np.exp(-(z**2) / 2)
    return density / density.sum()


_LAW = _law()
