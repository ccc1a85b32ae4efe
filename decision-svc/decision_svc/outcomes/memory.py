"""Outcomes in memory: those that this replica was told of."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from canary_engine.outcomes import Labels, Tally

from decision_svc.outcomes.protocol import KEPT_S, SLOT_S, Reported

# A gateway repeats a batch within seconds; a thousand gateways report once a second.
MAX_BATCH_IDS = 100_000
# Versions come from gateways; more of one service key in a quarter of an hour is a mistake.
MAX_LABELS = 200

_Slots = OrderedDict[int, dict[Labels, Tally]]


class MemoryOutcomes:
    """See Outcomes. ``clock`` gives seconds and only grows."""

    def __init__(self, clock: Callable[[], float], *, max_batch_ids: int = MAX_BATCH_IDS) -> None:
        self._clock, self._max_batch_ids = clock, max_batch_ids
        self._slots: dict[str, dict[int, dict[Labels, Tally]]] = {}
        self._batch_ids: OrderedDict[str, None] = OrderedDict()

    async def add(self, batch_id: str, reported: Sequence[Reported]) -> bool:
        """See Outcomes."""
        if batch_id in self._batch_ids:
            return False
        self._batch_ids[batch_id] = None
        if len(self._batch_ids) > self._max_batch_ids:
            self._batch_ids.popitem(last=False)
        self._forget_old()
        for labels, age_s, tally in reported:
            if age_s <= KEPT_S:
                self._at(labels, age_s).merge(tally)
        return True

    async def is_added(self, batch_id: str) -> bool:
        """See Outcomes."""
        return batch_id in self._batch_ids

    async def read(self, service_key: str, window_s: int) -> Mapping[Labels, Tally]:
        """See Outcomes."""
        first = self._slot(math.ceil(window_s / SLOT_S) * SLOT_S)
        found: dict[Labels, Tally] = {}
        for slot, tallies in self._slots.get(service_key, {}).items():
            if slot > first:
                for labels, tally in tallies.items():
                    found.setdefault(labels, Tally()).merge(tally)
        return found

    async def service_keys(self) -> Sequence[str]:
        """See Outcomes."""
        self._forget_old()
        return sorted(self._slots)

    def _slot(self, age_s: float) -> int:
        return int((self._clock() - age_s) // SLOT_S)

    def _at(self, labels: Labels, age_s: float) -> Tally:
        slots = self._slots.setdefault(labels.service_key, {})
        tallies = slots.setdefault(self._slot(age_s), {})
        if labels not in tallies and len(tallies) >= MAX_LABELS:
            labels = labels._replace(version="other", release_id="other")
        return tallies.setdefault(labels, Tally())

    def _forget_old(self) -> None:
        first = self._slot(KEPT_S)
        for service_key, slots in list(self._slots.items()):
            for slot in [slot for slot in slots if slot < first]:
                del slots[slot]
            if not slots:
                del self._slots[service_key]
