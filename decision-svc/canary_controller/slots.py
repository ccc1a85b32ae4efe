"""The outcomes of one release in memory: what is still growing, and the newest that is complete.

A slot is complete COMPLETE_AFTER_S after its end, by the service's clock: then all gateways have
told what they heard, or will be too late. Complete slots are evidence, once and in order; the
others are looked at whenever they have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from canary_engine.histogram import merge_counts, take_out_counts
from canary_engine.judge.slots import SLOT_S
from canary_engine.model import Cohort
from canary_engine.outcomes import Outcomes, Tally

from canary_controller.admin import OutcomeSlot

COMPLETE_AFTER_S = 30
MOST_HEARD = 60
"""Of no more slots it is said how much of them was heard; no answer holds more either."""

Sides = Mapping[Cohort, Outcomes]
Sums = Mapping[Cohort, Tally]


def slot_of(at: datetime) -> int:
    """The slot that a moment lies in."""
    return int(at.timestamp() // SLOT_S)


def first_slot(at: datetime) -> int:
    """The first slot that begins at ``at`` or later."""
    return -int(-at.timestamp() // SLOT_S)


def newest_complete(now: datetime) -> int:
    """The newest slot that is complete."""
    return int((now.timestamp() - COMPLETE_AFTER_S) // SLOT_S) - 1


class Slots:
    """Tallies by slot and cohort; a tally that was heard again replaces the one before."""

    def __init__(self) -> None:
        self._slots: dict[int, Sides] = {}
        self._requests: dict[Cohort, dict[int, int]] = {cohort: {} for cohort in Cohort}
        self._heard: dict[int, int] = {}
        self._older: dict[int, Sides] = {}
        self._sums: dict[Cohort, Tally] = {}
        """What is in ``_older``, added up."""

    def hear(self, outcomes: Iterable[OutcomeSlot]) -> bool:
        """Take over what is new; whether anything is."""
        is_new = False
        for found in outcomes:
            requests = self._requests[found.cohort]
            before = requests.get(found.slot)
            if before != found.requests:
                requests[found.slot] = found.requests
                more = found.requests - (before or 0)
                self._heard[found.slot] = self._heard.get(found.slot, 0) + more
                # Another mapping each time, so that who has read one knows whether it is old.
                sides = self._slots.get(found.slot, {})
                self._slots[found.slot] = {**sides, found.cohort: found.tally()}
                is_new = True
        return is_new

    @property
    def newest(self) -> int:
        """The newest slot that holds anything; 0 if none does."""
        return max(self._slots, default=0)

    def between(self, after: int, until: int) -> Sequence[tuple[int, Sides]]:
        """The slots after ``after`` and up to ``until`` that hold anything, in order."""
        found = sorted(slot for slot in self._slots if after < slot <= until)
        return [(slot, self._slots[slot]) for slot in found]

    def after(self, slot: int) -> Sequence[tuple[int, Sides]]:
        """All later ones."""
        return self.between(slot, self.newest)

    def sums(self, after: int) -> Sums:
        """Statuses and latencies of all slots after ``after`` together, by cohort.

        Slots before the newest are added up once and taken out once: hardly any changes in between.
        """
        numbers = sorted(slot for slot in self._slots if slot > after)
        if not numbers:
            return {}
        *older, newest = numbers
        self._bring({slot: self._slots[slot] for slot in older})
        return _together(self._sums, self._older, self._slots[newest])

    def _bring(self, older: dict[int, Sides]) -> None:
        """Have these slots in the sums, and no others."""
        before, self._older = self._older, older
        for slot, sides in before.items():
            if older.get(slot) is not sides:
                for cohort, outcomes in sides.items():
                    take_out_counts(self._sums[cohort].statuses, outcomes.statuses)
                    self._sums[cohort].request.take_out(outcomes.request)
        for slot, sides in older.items():
            if before.get(slot) is not sides:
                for cohort, outcomes in sides.items():
                    _add(self._sums.setdefault(cohort, Tally()), outcomes)

    def requests(self, cohort: Cohort, after: int, until: int) -> int:
        """How many requests a cohort made in the slots after ``after`` and up to ``until``."""
        known = self._requests[cohort].items()
        return sum([count for slot, count in known if after < slot <= until])

    def heard(self, after: int) -> Sequence[int]:
        """How many requests all cohorts made in each slot after ``after``, up to the last heard."""
        until = min(max(self._slots, default=after), after + MOST_HEARD)
        return [self._heard.get(slot, 0) for slot in range(after + 1, until + 1)]

    def forget(self, until: int) -> None:
        """Drop the slots up to ``until``."""
        for slot in [slot for slot in self._slots if slot <= until]:
            del self._heard[slot]
            for cohort in self._slots.pop(slot):
                del self._requests[cohort][slot]


def _together(sums: Sums, of: Mapping[int, Sides], newest: Sides) -> Sums:
    """The sums of those slots with the newest one, as values of their own if that adds any."""
    found = {cohort: sums[cohort] for sides in of.values() for cohort in sides}
    for cohort, outcomes in newest.items():
        known = found.get(cohort, Tally())
        found[cohort] = Tally(dict(known.statuses), known.request.copy())
        _add(found[cohort], outcomes)
    return found


def _add(tally: Tally, outcomes: Outcomes) -> None:
    merge_counts(tally.statuses, outcomes.statuses)
    tally.request.merge(outcomes.request)
