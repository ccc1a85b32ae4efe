"""Counts how requests are decided by two policies, in memory that does not grow with the log.

What one request says to both policies another may say again, and is then decided as it was: an
engine reads nothing else. So visitors who come back cost a look into a table.

Distinct users are estimated with HyperLogLog (Flajolet et al. 2007), 16,384 registers: within 1 %
more often than not, and small numbers exactly enough by linear counting. A few users of those who
move are kept, the ones whose hashes are the smallest, so that parts of a log agree on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from heapq import nsmallest
from math import log
from typing import Any

from canary_engine.decide import CompiledPolicy, decide
from canary_engine.model import NOBODY, Person, Policy, Reason, Request, Variant
from mmh3 import mmh3_x64_128_uintdigest

from canaryctl.replay.lines import Found, Seen

_BITS = 14
REGISTERS = 1 << _BITS
_RANK_BITS = 50
_MASK = REGISTERS - 1
_HIGH_BITS = int.from_bytes(b"\x80" * REGISTERS, "little")
SAMPLE = 20
KEPT_ANSWERS = 8_192
"""How many different requests are remembered at most; then all are forgotten."""

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
        # The larger of each two registers, of all at once: as digits of one long number, which
        # is 50 times as fast as one by one. A digit's high bit is free, for no rank needs it.
        ours, others = (int.from_bytes(d.registers, "little") for d in (self, other))
        is_ours = ((ours | _HIGH_BITS) - others & _HIGH_BITS) >> 7
        mask = is_ours * 0x7F
        self.registers = bytearray((others ^ (ours ^ others) & mask).to_bytes(REGISTERS, "little"))

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
Facts = Callable[[Request], tuple[object, ...]]


def reads_time(policy: Policy) -> bool:
    """Whether the same request may be decided otherwise at another time."""
    registered = any(s.criteria and s.criteria.registered for s in policy.segments)
    return registered or bool(policy.overrides.public_key)


def _asks(compiled: CompiledPolicy) -> frozenset[int]:
    """The reasons, by identity, of decisions that were made after segments were looked at."""
    has_segments = any(stage.reason is Reason.SEGMENT for stage in compiled.stages)
    has_flags = any(flag.segments for flag in compiled.policy.flags)
    late = _LATE if has_segments else _LATE[1:2] if has_flags else ()
    return frozenset(map(id, late))


def _facts(now: CompiledPolicy, proposed: CompiledPolicy) -> Facts | None:
    """A function that finds all of a request that the two policies, or we, look at.

    None if the time decides, too.
    """
    if any(reads_time(compiled.policy) for compiled in (now, proposed)):
        return None
    one, other = now.reads, proposed.reads
    headers = tuple(one.headers | other.headers | {now.user_id_header, proposed.user_id_header})
    cookies = tuple(one.cookies | other.cookies)
    has_ip, has_path = one.client_ip or other.client_ip, one.path or other.path

    def facts(request: Request) -> tuple[object, ...]:
        return (
            request.client_ip if has_ip else "",
            request.fallback_key,
            request.consumer,
            request.flags,
            request.path if has_path else "",
            *map(request.headers.get, headers),
            *map(request.cookies.get, cookies),
        )

    return facts


def _stages_alike(now: CompiledPolicy, proposed: CompiledPolicy) -> int:
    """How many stages, from the first on, say the same: where only the share differs, all but the
    last ones. Else, and that is no loss but of time, none.
    """
    if _without_share(now.policy) != _without_share(proposed.policy):
        return 0
    reasons = [stage.reason for stage in now.stages]
    same = reasons == [stage.reason for stage in proposed.stages] and Reason.PERCENTAGE in reasons
    return reasons.index(Reason.PERCENTAGE) if same else 0


def _without_share(policy: Policy) -> Policy:
    """What decides of a policy, but for the share of its release."""
    release = policy.release
    if release is not None:
        release = replace(release, share=0, id="", started_at=None, ended_at=None)
    return Policy(
        service_key=policy.service_key,
        release=release,
        rules=policy.rules,
        compatibility=policy.compatibility,
        whitelist=policy.whitelist,
        segments=policy.segments,
        flags=policy.flags,
        bucketing=policy.bucketing,
        identity=policy.identity,
        overrides=policy.overrides,
    )


# Enums hash in Python, their identities do not: what they stand for is put back at the end.
_Key = tuple[int, int, str, int, int, str, bool]
_KNOWN: dict[int, Any] = {id(word): word for word in (*Variant, *Reason)}
_WAYS: tuple[Way, ...] = ((False, False), (False, True), (True, False), (True, True))
_MOVES = _WAYS[1:3]


class Count:
    """Counts the requests of any number of blocks by what the two policies answer."""

    def __init__(
        self, now: CompiledPolicy, proposed: CompiledPolicy, *, remembers: bool = True
    ) -> None:
        self.found = Found()
        self.remembers = remembers
        """Whether it is worth it: not where hardly anybody comes back."""
        self._now, self._proposed = now, proposed
        self._is_same = now.policy == proposed.policy
        self._asks_now, self._asks = _asks(now), _asks(proposed)
        is_constant = len(now.stages) == 1
        self._constant = decide(now, Request(), NOBODY, _ANY_TIME) if is_constant else None
        self._alike = _stages_alike(now, proposed)
        self._facts = _facts(now, proposed)
        self._began = 0
        # A list holds the one count of all requests with the same answers.
        self._answers: dict[tuple[object, ...], list[int]] = {}
        self._counts: dict[_Key, list[int]] = {}
        self._users = {way: Distinct() for way in _WAYS}
        self._movers: dict[Way, dict[int, str]] = {way: {} for way in _MOVES}
        self._largest: dict[Way, int] = dict.fromkeys(_MOVES, 1 << 128)

    def add(self, seen: Iterator[Seen]) -> None:
        """Decide every request by both policies and count the answers."""
        facts, answers = self._facts, self._answers
        for request, person, at in seen:
            if facts is None or person is not NOBODY or not self.remembers:
                self._decided(request, person, at)[0] += 1
                continue
            said = facts(request)
            count = answers.get(said)
            if count is None:
                if len(answers) >= KEPT_ANSWERS:
                    self._forget()
                answers[said] = count = self._decided(request, person, at)
            count[0] += 1

    def tally(self) -> Tally:
        """What all of them come to."""
        tally = Tally(found=self.found)
        for (a, b, c, d, e, f, is_unknown), (count,) in self._counts.items():
            pair = Why(_KNOWN[a], _KNOWN[b], c), Why(_KNOWN[d], _KNOWN[e], f)
            tally.pairs[pair] = tally.pairs.get(pair, 0) + count
            tally.unknown += count * is_unknown
        tally.users = {way: users for way, users in self._users.items() if any(users.registers)}
        tally.movers = {way: kept for way, kept in self._movers.items() if kept}
        return tally

    def _forget(self) -> None:
        """Begin anew, or no more if fewer than a third of the requests were known."""
        self._answers.clear()
        self.remembers = self.found.lines - self._began > KEPT_ANSWERS * 3 // 2
        self._began = self.found.lines

    def _decided(self, request: Request, person: Person, at: datetime) -> list[int]:
        """The count that the request belongs to; the user is counted."""
        old, new = self._both(request, person, at)
        user = request.headers.get(self._proposed.user_id_header)
        is_unknown = (
            bool(user)
            and person is NOBODY
            and (id(new[3]) in self._asks or id(old[3]) in self._asks_now)
        )
        self._count_user(
            user or request.consumer or request.fallback_key,
            (old[0] is Variant.CANARY, new[0] is Variant.CANARY),
        )
        key = (id(old[0]), id(old[3]), old[4], id(new[0]), id(new[3]), new[4], is_unknown)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = [0]
        return count

    def _both(self, request: Request, person: Person, at: datetime) -> tuple[Any, Any]:
        """Both decisions; given a person, there are no other answers."""
        old: Any = self._constant or decide(self._now, request, person, at)
        if self._is_same:
            return old, old
        if not self._alike or not person.is_known:
            return old, decide(self._proposed, request, person, at)
        if old[3] is not Reason.PERCENTAGE and old[3] is not Reason.DEFAULT:
            return old, old
        answers = (ask(request, person, at) for ask in self._proposed.deciders[self._alike :])
        return old, next(answer for answer in answers if answer is not None)

    def _count_user(self, user: str, way: Way) -> None:
        hashed = mmh3_x64_128_uintdigest(user.encode("utf-8", "surrogatepass"))
        self._users[way].add(hashed)
        if way in self._largest and hashed < self._largest[way]:
            kept = self._movers[way]
            kept[hashed] = user
            if len(kept) > 2 * SAMPLE:
                self._movers[way] = kept = {h: kept[h] for h in nsmallest(SAMPLE, kept)}
                self._largest[way] = max(kept)
