"""What is decided here and nowhere else: for whom, and what a shadow would have said.

The service knows that of its own decisions. Noting is a set and a counter; users become marks when
they are told, and nobody's id leaves the gateway for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from canary_engine import exposure
from canary_engine.decide import CompiledPolicy
from canary_engine.model import Decision, Reason, Request, Variant

MAX_WAITING = 100_000
MAX_MARKS = 10_000
"""How many users are told at once; the others wait for the next time."""
MAX_PAIRS = 1_000
_HASHED_AT_ONCE = 500


class Served(NamedTuple):
    """One variant of one release."""

    service_key: str
    release_id: str
    variant: Variant


class Pair(NamedTuple):
    """What was said in force, and what the shadow that expires then says."""

    service_key: str
    expires_at: datetime
    in_force: Variant
    in_force_reason: Reason
    shadow: Variant
    shadow_reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What was noted, to be told; ``unexposed`` users found no room."""

    served: tuple[tuple[Served, tuple[int, ...]], ...] = ()
    shadows: tuple[tuple[Pair, int], ...] = ()
    unexposed: int = 0

    @property
    def users(self) -> int:
        """How many users are told of."""
        return sum(len(marks) for _, marks in self.served)


NOTHING = Notes()


class Noted:
    """What was noted and is not told yet."""

    def __init__(self, *, max_waiting: int = MAX_WAITING) -> None:
        self._left = max_waiting
        self._seen: dict[Served, set[str]] = {}
        self._pairs: Counter[Pair] = Counter()
        self._unexposed = 0

    def saw(self, compiled: CompiledPolicy, request: Request, decision: Decision) -> None:
        """Note whom a decision was made for, if a release was in force and they can be told."""
        if not decision.release_id:
            return
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
            self._unexposed += 1

    def compare(self, compiled: CompiledPolicy, real: Decision, other: Decision) -> None:
        """Note what the policy's shadow says of a request."""
        shadow = compiled.policy.shadow
        assert shadow is not None, "somebody decided by it"
        pair = Pair(
            compiled.policy.service_key, shadow.expires_at,
            real.variant, real.reason, other.variant, other.reason,
        )  # fmt: skip
        if pair in self._pairs or len(self._pairs) < MAX_PAIRS:
            self._pairs[pair] += 1

    def miss(self, users: int) -> None:
        """Count users who were to be told of and never will be."""
        self._unexposed += users

    async def take(self) -> Notes:
        """What there is to be told now. Others have their turn meanwhile; who gives up waiting
        has taken nothing.
        """
        room, taken = MAX_MARKS, list[tuple[Served, list[str]]]()
        for served, seen in self._seen.items():
            users = list(islice(seen, room))
            room -= len(users)
            if users:
                taken.append((served, users))
        marked = [(served, await _marks(served, users)) for served, users in taken]
        for served, users in taken:
            self._forget(served, users)
        pairs, self._pairs = self._pairs, Counter()
        unexposed, self._unexposed = self._unexposed, 0
        return Notes(served=tuple(marked), shadows=tuple(pairs.items()), unexposed=unexposed)

    def _forget(self, served: Served, users: Collection[str]) -> None:
        seen = self._seen[served]
        seen.difference_update(users)
        if not seen:
            del self._seen[served]
        self._left += len(users)


async def _marks(served: Served, users: Sequence[str]) -> tuple[int, ...]:
    marks: list[int] = []
    for start in range(0, len(users), _HASHED_AT_ONCE):
        some = users[start : start + _HASHED_AT_ONCE]
        marks += (exposure.mark(served.service_key, served.release_id, who) for who in some)
        await asyncio.sleep(0)
    return tuple(marks)
