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
from typing import Any

from canary_engine.decide import CompiledPolicy, decide
from canary_engine.model import NOBODY, Person, Policy, Reason, Request, Variant
from canary_engine.segments import Test, membership
from mmh3 import mmh3_x64_128_uintdigest

from canaryctl.replay.distinct import Distinct
from canaryctl.replay.lines import Found, Seen

SAMPLE = 20
KEPT_ANSWERS = 8_192
"""How many different requests are remembered at most; then all are forgotten."""

Way = tuple[bool, bool]
"""Whether the canary is got now, and whether it would be."""


@dataclass(frozen=True, slots=True)
class Why:
    """A side's answer: what it gives, and what decided."""

    variant: Variant
    reason: Reason
    matched: str


@dataclass(slots=True)
class Share:
    """How many requests there are, and how many of them get the canary by either policy."""

    requests: int = 0
    now: int = 0
    proposed: int = 0

    def add(self, requests: int, now: int, proposed: int) -> None:
        """Count more of them."""
        self.requests += requests
        self.now += now
        self.proposed += proposed


@dataclass(slots=True)
class Tally:
    """What a part of a log, or all of it, comes to."""

    pairs: dict[tuple[Why, Why], int] = field(default_factory=dict)
    users: dict[Way, Distinct] = field(default_factory=dict)
    movers: dict[Way, dict[int, str]] = field(default_factory=dict)
    segments: dict[str, Share] = field(default_factory=dict)
    """The requests of each segment's members, whatever decided; "" is of users in none."""
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
        for name, share in other.segments.items():
            found = self.segments.setdefault(name, Share())
            found.add(share.requests, share.now, share.proposed)
        self.unknown += other.unknown
        self.found.merge(other.found)


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
    headers = tuple(
        one.headers
        | other.headers
        | {now.user_id_header, proposed.user_id_header}
        | _of_segments(now.policy)
        | _of_segments(proposed.policy)
    )
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


def _of_segments(policy: Policy) -> frozenset[str]:
    """The headers that say of which segments a user is, whether or not segments decide."""
    identity = policy.identity
    return frozenset(identity.attribute_headers.values()) if policy.segments else frozenset()


def _memberships(now: Policy, proposed: Policy) -> tuple[tuple[str, Test], ...]:
    """Who is in which segment: as the proposed policy says, or as it is now for those it lacks."""
    tests = {
        segment.name: membership(segment, policy.identity)
        for policy in (now, proposed)
        for segment in policy.segments
    }
    return tuple(tests.items())


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
_Key = tuple[int, int, str, int, int, str, bool, tuple[str, ...]]
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
        self._memberships = _memberships(now.policy, proposed.policy)
        self._traits = tuple(_of_segments(now.policy) | _of_segments(proposed.policy))
        self._segments_by_traits: dict[tuple[str | None, ...], tuple[str, ...]] = {}
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
        for (a, b, c, d, e, f, is_unknown, segments), (count,) in self._counts.items():
            old, new = Why(_KNOWN[a], _KNOWN[b], c), Why(_KNOWN[d], _KNOWN[e], f)
            tally.pairs[old, new] = tally.pairs.get((old, new), 0) + count
            tally.unknown += count * is_unknown
            is_now, is_then = (why.variant is Variant.CANARY for why in (old, new))
            for name in segments:
                tally.segments.setdefault(name, Share()).add(count, count * is_now, count * is_then)
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
        segments = self._segments_of(request, person, at) if self._memberships else ()
        key = (
            id(old[0]), id(old[3]), old[4], id(new[0]), id(new[3]), new[4], is_unknown, segments,
        )  # fmt: skip
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = [0]
        return count

    def _segments_of(self, request: Request, person: Person, at: datetime) -> tuple[str, ...]:
        if person is not NOBODY or self._facts is None:
            return self._asked_segments(request, person, at)
        # Of somebody of whom nothing is known but what the headers say, those say it all.
        traits = tuple(map(request.headers.get, self._traits))
        found = self._segments_by_traits.get(traits)
        if found is None:
            if len(self._segments_by_traits) >= KEPT_ANSWERS:
                self._segments_by_traits.clear()
            found = self._asked_segments(request, person, at)
            self._segments_by_traits[traits] = found
        return found

    def _asked_segments(self, request: Request, person: Person, at: datetime) -> tuple[str, ...]:
        found = [name for name, is_in in self._memberships if is_in(request, person, at)]
        return tuple(found) or ("",)

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
