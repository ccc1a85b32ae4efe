"""Notes whom decisions are made for, in memory, and tells the store once a second.

No decision waits for it. What there is no room for, while the store is gone, is not counted, and
that is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

import structlog
from canary_engine import exposure
from canary_engine.decide import CompiledPolicy
from canary_engine.model import Decision, Request

from decision_svc.exposure.protocol import ExposureStore, Served
from decision_svc.metrics import Metrics
from decision_svc.store.protocol import StoreError

log = structlog.get_logger()

_T = TypeVar("_T")

EVERY_S = 1.0
MAX_WAITING = 100_000
AT_ONCE = 1_000
"""How many users are hashed and sent before other work gets its turn."""


class Collector:
    """Users who wait to be told, by the variant and release that served them."""

    def __init__(
        self,
        store: ExposureStore,
        metrics: Metrics,
        *,
        listed: bool = False,
        room: int = MAX_WAITING,
    ) -> None:
        self._store, self._metrics, self._listed = store, metrics, listed
        self._room, self._left = room, room
        self._seen: dict[Served, set[str]] = {}
        self._marks: dict[Served, set[int]] = {}
        self._flushing = asyncio.Lock()

    @property
    def is_listed(self) -> bool:
        """Whether who is kept, not only how many."""
        return self._listed

    def saw(self, compiled: CompiledPolicy, request: Request, decision: Decision) -> None:
        """Note whom a decision of a release in force was made for."""
        who = compiled.who(request)
        if not who:
            return
        served = Served(compiled.policy.service_key, decision.release_id, decision.variant)
        seen = self._seen.get(served)
        if seen is None:
            seen = self._seen[served] = set()
        if who in seen:
            return
        if self._left:
            self._left -= 1
            seen.add(who)
        else:
            self._metrics.unexposed.inc()

    def heard(self, served: Served, marks: Iterable[int]) -> None:
        """Note users whom a gateway decided for by itself."""
        waiting = self._marks.setdefault(served, set())
        for mark in marks:
            if mark in waiting:
                continue
            if self._left:
                self._left -= 1
                waiting.add(mark)
            else:
                self._metrics.unexposed.inc()

    async def flush_for_ever(self) -> None:
        """Tell the store until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.flush()
            except StoreError:
                pass  # What is not told waits for the next second; health tells of the store.
            except Exception:
                log.exception("users could not be counted, going on")

    async def flush(self) -> None:
        """Tell the store all there is. Raises StoreError; what was not told then waits on."""
        async with self._flushing:
            await self._hash()
            await self._tell()

    async def _hash(self) -> None:
        seen, self._seen = self._seen, {}
        for served, users in seen.items():
            waiting = self._marks.setdefault(served, set())
            for some in _in_parts(list(users)):
                before = len(waiting)
                waiting.update(
                    exposure.mark(served.service_key, served.release_id, who) for who in some
                )
                self._left += len(some) - (len(waiting) - before)
                await asyncio.sleep(0)

    async def _tell(self) -> None:
        for served in list(self._marks):
            for marks in _in_parts(list(self._marks[served])):
                await self._store.expose(served, marks, self._listed)
                self._marks[served].difference_update(marks)
                self._left += len(marks)
            if not self._marks[served]:
                del self._marks[served]


def _in_parts(items: list[_T]) -> Iterable[list[_T]]:
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))
