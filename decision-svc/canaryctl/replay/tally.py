"""Counts how requests are decided by two policies, in memory that does not grow with the log.

Distinct users are estimated with HyperLogLog (Flajolet et al. 2007), 16,384 registers: within 1 %
more often than not, and small numbers exactly enough by linear counting. A few users of those who
move are kept, the ones whose hashes are the smallest, so that parts of a log agree on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import nsmallest
from math import log
from typing import Any

from canary_engine.decide import CompiledPolicy, decide
from canary_engine.model import NOBODY, Reason, Request, Variant
from mmh3 import mmh3_x64_128_uintdigest

from canaryctl.replay.lines import Found, Seen

_BITS = 14
REGISTERS = 1 << _BITS
_RANK_BITS = 50
_MASK = REGISTERS - 1
SAMPLE = 20

Way = tuple[bool, bool]
"""Whether the canary is got now, and whether it would be."""


class Distinct:
    """How many different users there are, more or less."""

    __slots__ = ("registers",)

    def __init__(self) -> None:
        self.registers = bytearray(REGISTERS)

    def add(self, hashed: int) -> None:
        """Count a user by a hash of 64 bits or more; again makes no difference."""
        index = hashed & _MASK
        rank = _RANK_BITS + 1 - (hashed >> _BITS & (1 << _RANK_BITS) - 1).bit_length()
        if rank > self.registers[index]:
            self.registers[index] = rank

    def merge(self, other: Distinct) -> None:
        """Count those of another as well."""
        self.registers = bytearray(map(max, self.registers, other.registers))

    def __len__(self) -> int:
        zeros = self.registers.count(0)
        if zeros > REGISTERS * 0.1:  # few users: how many registers are empty says it better
            return round(REGISTERS * log(REGISTERS / zeros))
        total = sum(2.0**-rank for rank in self.registers)
        return round(0.7213 / (1 + 1.079 / REGISTERS) * REGISTERS * REGISTERS / total)


@dataclass(frozen=True, slots=True)
class Why:
    """A side's answer: what it gives, and what decided."""

    variant: Variant
    reason: Reason
    matched: str


@dataclass(slots=True)
class Tally:
    """What a part of a log, or all of it, comes to."""

    pairs: dict[tuple[Why, Why], int] = field(default_factory=dict)
    users: dict[Way, Distinct] = field(default_factory=dict)
    movers: dict[Way, dict[int, str]] = field(default_factory=dict)
    unknown: int = 0
    """Requests for which a service would have asked its store about the user."""
    found: Found = field(default_factory=Found)

    def merge(self, other: Tally) -> None:
        """Add what another part comes to."""
        for pair, count in other.pairs.items():
            self.pairs[pair] = self.pairs.get(pair, 0) + count
        for way, distinct in other.users.items():
            self.users.setdefault(way, Distinct()).merge(distinct)
        for way, users in other.movers.items():
            both = self.movers.get(way, {}) | users
            self.movers[way] = {h: both[h] for h in nsmallest(SAMPLE, both)}
        self.unknown += other.unknown
        self.found.lines += other.found.lines
        self.found.bad += other.found.bad
        self.found.of_others += other.found.of_others
        self.found.formats |= other.found.formats


_LATE = (Reason.SEGMENT, Reason.FLAG, Reason.PERCENTAGE, Reason.DEFAULT)
_ANY_TIME = datetime.fromtimestamp(0, UTC)


def _asking(compiled: CompiledPolicy) -> frozenset[int]:
    """The reasons, by identity, of decisions that were made after segments were looked at."""
    has_segments = any(stage.reason is Reason.SEGMENT for stage in compiled.stages)
    has_flags = any(flag.segments for flag in compiled.policy.flags)
    late = _LATE if has_segments else _LATE[1:2] if has_flags else ()
    return frozenset(map(id, late))


def add_up(
    seen: Iterator[Seen], now: CompiledPolicy, proposed: CompiledPolicy, tally: Tally
) -> None:
    """Decide every request by both policies and count the answers."""
    # Enums hash in Python, their identities do not; what they stand for is put back at the end.
    counts: dict[tuple[int, int, str, int, int, str], int] = {}
    known: dict[int, Variant | Reason] = {id(x): x for x in (*Variant, *Reason)}
    same = now.policy == proposed.policy
    asks_now, asks = _asking(now), _asking(proposed)
    constant = decide(now, Request(), NOBODY, _ANY_TIME) if len(now.stages) == 1 else None
    canary, unknown = Variant.CANARY, 0
    users: dict[Way, Distinct] = {(a, b): Distinct() for a in (False, True) for b in (False, True)}
    movers: dict[Way, dict[int, str]] = {(False, True): {}, (True, False): {}}
    largest: dict[Way, int] = dict.fromkeys(movers, 1 << 128)
    user_header, digest = proposed.user_id_header, mmh3_x64_128_uintdigest
    for request, person, at in seen:
        new: Any = decide(proposed, request, person, at)  # given a person, a decision
        old: Any = new if same else constant or decide(now, request, person, at)
        user = request.headers.get(user_header)
        if user and person is NOBODY and (id(new[3]) in asks or id(old[3]) in asks_now):
            unknown += 1
        key = (id(old[0]), id(old[3]), old[4], id(new[0]), id(new[3]), new[4])
        counts[key] = counts.get(key, 0) + 1
        user = user or request.consumer or request.fallback_key
        hashed = digest(user.encode("utf-8", "surrogatepass"))
        way = (old[0] is canary, new[0] is canary)
        users[way].add(hashed)
        if way in movers and hashed < largest[way]:
            kept = movers[way]
            kept[hashed] = user
            if len(kept) > 2 * SAMPLE:
                movers[way] = kept = {h: kept[h] for h in nsmallest(SAMPLE, kept)}
                largest[way] = max(kept)
    for (a, b, c, d, e, f), count in counts.items():
        pair = Why(known[a], known[b], c), Why(known[d], known[e], f)  # type: ignore[arg-type]
        tally.pairs[pair] = tally.pairs.get(pair, 0) + count
    part = Tally(users={way: u for way, u in users.items() if any(u.registers)}, unknown=unknown)
    part.movers = {way: kept for way, kept in movers.items() if kept}
    tally.merge(part)
