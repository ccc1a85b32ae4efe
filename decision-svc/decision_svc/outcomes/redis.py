"""Outcomes in Redis: every replica adds to the same slots, and a batch counts once among them.

Keys, all in the slot of their service key::

    canary:{<slot>}:outcomes:<n>    hash  labels -> tally, of the n-th ten seconds of Unix time
    canary:{<slot>}:outcome-batches zset  batch ids by the time they came

Redis forgets each slot KEPT_S after its time; batch ids are forgotten after LATE_S, when what
they told would no longer be taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from canary_engine.outcomes import Labels, Tally

from decision_svc.outcomes.packing import (
    pack_labels,
    pack_tally,
    tally,
    unpack_flat,
    unpack_labels,
)
from decision_svc.outcomes.protocol import (
    COMPARED,
    KEPT_S,
    LATE_S,
    SLOT_S,
    Flat,
    Found,
    Reported,
    Wanted,
)
from decision_svc.outcomes.slots import (
    MAX_LABELS,
    ahead,
    merged_into,
    service_keys,
    slot_of,
    window,
)
from decision_svc.store.connection import Connection, as_bytes, slot_key
from decision_svc.store.protocol import StoreError, StoreUnavailable
from decision_svc.store.servers import Asked, Script, whole_hash

# Of one service key: a thousand gateways for a minute and a half, a hundred for LATE_S.
MAX_BATCH_IDS = 100_000
_PIPELINED = 300
_UNPACKED_AT_ONCE = 50


class RedisOutcomes:
    """See Outcomes. ``clock`` gives Unix time."""

    def __init__(self, connection: Connection, clock: Callable[[], float]) -> None:
        self._connection, self._clock = connection, clock
        self._add = Script("add_outcomes.lua")

    @property
    def kept_s(self) -> int:
        """See Outcomes."""
        return KEPT_S

    async def add(self, batch_id: str, reported: Sequence[Reported]) -> frozenset[str]:
        """See Outcomes."""
        told = service_keys(found.labels for found in reported)
        parts: dict[str, list[Reported]] = {key: [] for key in told}
        for found in reported:
            if found.age_s <= LATE_S:
                parts[found.labels.service_key].append(found)
        answers = await self._connection.ask_all(
            [self._addition(service_key, batch_id, part) for service_key, part in parts.items()]
        )
        return frozenset(key for key, is_new in zip(parts, answers, strict=True) if is_new)

    def _addition(self, service_key: str, batch_id: str, part: Sequence[Reported]) -> Asked:
        now = self._clock()
        keys = [slot_key(service_key, "outcome-batches")]
        args: list[Any] = [batch_id, now, now - LATE_S, LATE_S, MAX_BATCH_IDS, MAX_LABELS]
        indices: dict[int, int] = {}
        for labels, age_s, told in part:
            slot = slot_of(now, age_s)
            if slot not in indices:
                keys.append(_slot_key(service_key, slot))
                indices[slot] = len(keys)
            args += [indices[slot], (slot + 1) * SLOT_S + KEPT_S]
            args += [pack_labels(labels), pack_labels(merged_into(labels)), pack_tally(told)]
        return Asked(keys[0], self._add.on(keys, args))

    async def is_added(self, batch_id: str, service_key: str) -> bool:
        """See Outcomes."""
        key = slot_key(service_key, "outcome-batches")
        found = await self._connection.ask(key, lambda redis: redis.zscore(key, batch_id))
        return found is not None

    async def read(self, service_key: str, window_s: int) -> Mapping[Labels, Tally]:
        """See Outcomes."""
        found: dict[Labels, Tally] = {}
        asked = [(service_key, slot) for slot in window(self._clock(), window_s)]
        async for (_, slot), answer in self._slots(asked):
            if isinstance(answer, StoreUnavailable):
                raise answer
            for labels, packed in _unpacked(service_key, slot, answer, lambda labels: True):
                found.setdefault(labels, Tally()).merge(tally(packed))
        return found

    async def look(self, wanted: Sequence[Wanted]) -> Sequence[Found]:
        """See Outcomes."""
        now = self._clock()
        ahead_of = [ahead(now, one.after, KEPT_S) for one in wanted]
        asked = [(at, slot) for at, (slots, _) in enumerate(ahead_of) for slot in slots]
        tallies: list[list[tuple[int, Labels, Flat]]] = [[] for _ in wanted]
        keys = [(wanted[at].service_key, slot) for at, slot in asked]
        places, lost = iter(asked), dict[int, StoreUnavailable]()
        async for (service_key, slot), answer in self._slots(keys):
            at, _ = next(places)
            if isinstance(answer, StoreUnavailable):
                lost[at] = answer
                continue
            is_wanted = partial(_is_compared, wanted[at].release_id)
            told = [(slot, *one) for one in _unpacked(service_key, slot, answer, is_wanted)]
            if sum(sum(tally.statuses[1::2]) for *_, tally in told) != wanted[at].heard.get(slot):
                tallies[at] += told
        if lost and len(lost) == len({at for at, _ in asked}):
            raise lost.popitem()[1]
        found = [
            Found(part, slots[-1] if slots else one.after, has_more)
            for one, part, (slots, has_more) in zip(wanted, tallies, ahead_of, strict=True)
        ]
        for at in lost:
            found[at] = Found((), wanted[at].after, True)
        return found

    async def _slots(
        self, asked: Sequence[tuple[str, int]]
    ) -> AsyncIterator[tuple[tuple[str, int], Mapping[Any, Any] | StoreUnavailable]]:
        """Each slot that is asked for and what it holds; decisions have their turn in between."""
        for start in range(0, len(asked), _PIPELINED):
            some = asked[start : start + _PIPELINED]
            answers = await self._connection.answers([whole_hash(_slot_key(*one)) for one in some])
            unpacked = 0
            for one, answer in zip(some, answers, strict=True):
                if isinstance(answer, StoreError) and not isinstance(answer, StoreUnavailable):
                    raise answer
                yield one, answer
                unpacked += 0 if isinstance(answer, StoreUnavailable) else len(answer)
                if unpacked >= _UNPACKED_AT_ONCE:
                    unpacked = 0
                    await asyncio.sleep(0)


def _unpacked(
    service_key: str,
    slot: int,
    answer: Mapping[Any, Any],
    is_wanted: Callable[[Labels], bool],
) -> Iterator[tuple[Labels, Flat]]:
    where = _slot_key(service_key, slot)
    for name, data in answer.items():
        labels = unpack_labels(service_key, as_bytes(name), where)
        if is_wanted(labels):
            yield labels, unpack_flat(as_bytes(data), where)


def _is_compared(release_id: str, labels: Labels) -> bool:
    return labels.release_id == release_id and labels.cohort in COMPARED


def _slot_key(service_key: str, slot: int) -> str:
    return slot_key(service_key, "outcomes", str(slot))
