"""Outcomes in memory: those that this replica was told of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from canary_engine.outcomes import Labels, Tally

from decision_svc.outcomes.packing import flat
from decision_svc.outcomes.protocol import COMPARED, LATE_S, Found, Reported, Wanted
from decision_svc.outcomes.slots import (
    MAX_LABELS,
    ahead,
    merged_into,
    service_keys,
    slot_of,
    window,
)

# A gateway repeats a batch within seconds; a thousand gateways report once a second.
MAX_BATCH_IDS = 100_000
# As values of Python a busy slot takes some 50 KB, ten times of what it takes packed.
MEMORY_KEPT_S = 900


class Slots:
    """Tallies by service key, slot and labels. ``clock`` gives Unix time."""

    def __init__(self, clock: Callable[[], float], kept_s: int = MEMORY_KEPT_S) -> None:
        self.kept_s = kept_s
        self._clock = clock
        self._slots: dict[str, dict[int, dict[Labels, Tally]]] = {}

    def add(self, reported: Sequence[Reported]) -> None:
        """Add what is not too old."""
        self._forget_old()
        for labels, age_s, tally in reported:
            if age_s <= LATE_S:
                self._at(labels, age_s).merge(tally)

    def read(self, service_key: str, window_s: int) -> Mapping[Labels, Tally]:
        """See Outcomes."""
        found: dict[Labels, Tally] = {}
        slots = self._slots.get(service_key, {})
        for slot in window(self._clock(), window_s):
            for labels, tally in slots.get(slot, {}).items():
                found.setdefault(labels, Tally()).merge(tally)
        return found

    def look(self, wanted: Wanted) -> Found:
        """See Outcomes."""
        slots = self._slots.get(wanted.service_key, {})
        looked_at, has_more = ahead(self._clock(), wanted.after, self.kept_s)
        found = []
        for slot in looked_at:
            tallies = [
                (labels, tally)
                for labels, tally in slots.get(slot, {}).items()
                if labels.release_id == wanted.release_id and labels.cohort in COMPARED
            ]
            if sum(tally.requests for _, tally in tallies) != wanted.heard.get(slot):
                found += [(slot, labels, flat(tally)) for labels, tally in tallies]
        return Found(found, looked_at[-1] if looked_at else wanted.after, has_more)

    def service_keys(self) -> Sequence[str]:
        """The service keys of which anything is kept."""
        self._forget_old()
        return sorted(self._slots)

    def _at(self, labels: Labels, age_s: float) -> Tally:
        slots = self._slots.setdefault(labels.service_key, {})
        tallies = slots.setdefault(slot_of(self._clock(), age_s), {})
        if labels not in tallies and len(tallies) >= MAX_LABELS:
            labels = merged_into(labels)
        return tallies.setdefault(labels, Tally())

    def _forget_old(self) -> None:
        first = slot_of(self._clock(), self.kept_s)
        for service_key, slots in list(self._slots.items()):
            for slot in [slot for slot in slots if slot < first]:
                del slots[slot]
            if not slots:
                del self._slots[service_key]


class MemoryOutcomes:
    """See Outcomes. ``clock`` gives Unix time."""

    def __init__(self, clock: Callable[[], float], *, max_batch_ids: int = MAX_BATCH_IDS) -> None:
        self._slots, self._max_batch_ids = Slots(clock), max_batch_ids
        self._batch_ids: OrderedDict[tuple[str, str], None] = OrderedDict()

    @property
    def kept_s(self) -> int:
        """See Outcomes."""
        return self._slots.kept_s

    async def add(self, batch_id: str, reported: Sequence[Reported]) -> frozenset[str]:
        """See Outcomes."""
        told = service_keys(found.labels for found in reported)
        new = frozenset(key for key in told if self._is_new(batch_id, key))
        self._slots.add([found for found in reported if found.labels.service_key in new])
        return new

    async def is_added(self, batch_id: str, service_key: str) -> bool:
        """See Outcomes."""
        return (batch_id, service_key) in self._batch_ids

    async def read(self, service_key: str, window_s: int) -> Mapping[Labels, Tally]:
        """See Outcomes."""
        return self._slots.read(service_key, window_s)

    async def look(self, wanted: Sequence[Wanted]) -> Sequence[Found]:
        """See Outcomes."""
        return [self._slots.look(one) for one in wanted]

    def _is_new(self, batch_id: str, service_key: str) -> bool:
        if (batch_id, service_key) in self._batch_ids:
            return False
        self._batch_ids[batch_id, service_key] = None
        if len(self._batch_ids) > self._max_batch_ids:
            self._batch_ids.popitem(last=False)
        return True
