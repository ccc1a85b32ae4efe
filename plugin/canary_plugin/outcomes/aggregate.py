"""Outcomes counted until they are sent: bounded, merged while nobody takes them."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from canary_engine.outcomes import Labels, Tally

from canary_plugin.outcomes.noted import NOTHING, Notes

SLOT_S = 10
# Older than what the service keeps, outcomes are of no use to anybody.
KEPT_S = 900
MAX_ENTRIES = 5_000
MAX_BATCH = 500


class Uncounted(StrEnum):
    """Why something that was heard, or was to be told, is in no tally."""

    UNLABELLED = "unlabelled"
    """No decision travelled with it."""
    FOREIGN = "foreign"
    """The decision it names is not awaited here: forged, repeated, too late, or made before a
    restart."""
    GARBAGE = "garbage"
    """It is not one of our lines."""
    DROPPED = "dropped"
    """It was counted, but could not be told to the service in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The outcomes of one label set in one slot of ``SLOT_S`` seconds of the clock."""

    labels: Labels
    slot: int
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is told at once, as often as it takes; its id says that it is the same."""

    id: str
    entries: tuple[Entry, ...] = ()
    uncounted: Mapping[Uncounted, int] = field(default_factory=dict)
    notes: Notes = NOTHING


class Aggregate:
    """What was heard and not yet taken. ``clock`` gives seconds and only grows."""

    def __init__(self, clock: Callable[[], float], *, max_entries: int = MAX_ENTRIES) -> None:
        self._clock, self._max_entries = clock, max_entries
        self._tallies: dict[tuple[int, Labels], Tally] = {}
        self._uncounted: Counter[Uncounted] = Counter()

    def __len__(self) -> int:
        return len(self._tallies)

    def count(self, labels: Labels, status: int, request_us: int, upstream_us: int | None) -> None:
        """Count an outcome."""
        self._tally(labels).add(status, request_us, upstream_us)

    def lose(self, labels: Labels) -> None:
        """Count an outcome that will not be heard of any more."""
        self._tally(labels).lost += 1

    def skip(self, why: Uncounted) -> None:
        """Count something that is in no tally."""
        self._uncounted[why] += 1

    def skip_all(self, counts: Mapping[Uncounted, int]) -> None:
        """Count what was to be told and is in no tally."""
        self._uncounted.update(counts)

    def take(self) -> Batch | None:
        """The oldest of what there is, to be told; None if there is nothing."""
        self._forget_old()
        if not self._tallies and not self._uncounted:
            return None
        keys = sorted(self._tallies, key=lambda key: key[0])[:MAX_BATCH]
        entries = (Entry(slot=k[0], labels=k[1], tally=self._tallies.pop(k)) for k in keys)
        uncounted, self._uncounted = self._uncounted, Counter()
        return Batch(id=secrets.token_hex(16), entries=tuple(entries), uncounted=uncounted)

    def give_back(self, entry: Entry) -> None:
        """Take in again what could not be told yet."""
        self._at(entry.slot, entry.labels).merge(entry.tally)

    def drop(self, entry: Entry) -> None:
        """Count what will never be told."""
        self._drop(entry.tally)

    def age_s(self, entry: Entry) -> float:
        """How long ago the middle of an entry's slot was."""
        return max(0.0, self._clock() - (entry.slot + 0.5) * SLOT_S)

    def _tally(self, labels: Labels) -> Tally:
        return self._at(int(self._clock() // SLOT_S), labels)

    def _at(self, slot: int, labels: Labels) -> Tally:
        key = (slot, labels)
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = Tally()
            if len(self._tallies) > self._max_entries:
                oldest = min((k for k in self._tallies if k != key), key=lambda k: k[0])
                self._drop(self._tallies.pop(oldest))
        return found

    def _forget_old(self) -> None:
        first = int((self._clock() - KEPT_S) // SLOT_S)
        for key in [key for key in self._tallies if key[0] < first]:
            self._drop(self._tallies.pop(key))

    def _drop(self, tally: Tally) -> None:
        if dropped := tally.requests + tally.lost:
            self._uncounted[Uncounted.DROPPED] += dropped
