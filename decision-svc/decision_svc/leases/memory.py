"""Leases in memory: for a service that has no replica."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from decision_svc.leases.protocol import Lease


class _Held(NamedTuple):
    holder: str
    ends: float


class MemoryLeases:
    """See LeaseStore. ``clock`` gives seconds and only grows."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._tokens: Counter[str] = Counter()

    async def hold(self, name: str, holder: str, valid_s: float) -> Lease:
        """See LeaseStore."""
        now, held = self._clock(), self._held.get(name)
        if held is None or held.ends <= now:
            self._tokens[name] += 1
        if held is None or held.ends <= now or held.holder == holder:
            held = self._held[name] = _Held(holder, now + valid_s)
        left_ms = ceil((held.ends - now) * 1_000)
        return Lease(holder=held.holder, token=self._tokens[name], left_ms=left_ms)

    async def drop(self, name: str, holder: str) -> None:
        """See LeaseStore."""
        held = self._held.get(name)
        if held is not None and held.holder == holder:
            del self._held[name]
