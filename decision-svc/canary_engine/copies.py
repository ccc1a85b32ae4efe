"""Copies of what a store knows of users: which are valid, and what an old one is still good for.

Membership and profiles live in a store that takes time to ask. Whoever decides keeps copies, and
both who do, the service in front of the store and the gateway in front of the service, keep them
by the same rules:

- A copy is made by *ways*: the policy's membership epoch and the listed segments that were looked
  at. It is valid for a policy with exactly these ways.
- It is valid until something is announced of its user. What counts is when the store was *asked*,
  not when it answered: an answer that was overtaken by an announcement is old when it comes.
- It is valid for a bounded time, if one is given, for announcements can be lost.
- When nobody can be asked, an old copy is better than none, however old. Where the policy lists
  a segment that was not looked at, the person counts as not fully known: whom the unseen segment
  might protect is protected.

Nothing here reads a clock: ``now`` is an argument, in seconds of any clock that only grows.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from canary_engine.model import UNKNOWN, Person, Policy, Strategy

_WITH_SEGMENTS = (Strategy.COMBINED, Strategy.USER_SEGMENT)
_WITH_FLAGS = (Strategy.COMBINED, Strategy.FEATURE_FLAG)


class Ways(NamedTuple):
    """The ways by which a policy gets members."""

    epoch: int
    # Baselines of one service key have the same epoch and may list different segments.
    listed: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What somebody who was asked knows of a user, and by which ways.

    ``is_old``: it served a decision for want of better, and is no valid copy.
    """

    person: Person
    ways: Ways
    is_old: bool = False


class Copy(NamedTuple):
    """A person as they were known when the store was asked."""

    person: Person
    ways: Ways
    asked: int
    """How many announcements had been heard when the store was asked."""
    expires: float

    def is_valid(self, ways: Ways, announced: int, now: float) -> bool:
        """Whether it holds for a policy with ``ways``; ``announced`` is the number of the last
        announcement of this user.
        """
        return self.asked >= announced and now < self.expires and self.ways == ways

    def at_best(self, ways: Ways) -> Person:
        """The person for want of better, valid or not."""
        if ways.listed <= self.ways.listed:
            return self.person
        return replace(self.person, is_known=False)


def ways_of(policy: Policy) -> Ways:
    """The ways by which ``policy`` gets members."""
    return Ways(policy.membership_epoch, frozenset([s.name for s in policy.segments if s.listed]))


def reads_persons(policy: Policy) -> bool:
    """Whether a decision under ``policy`` may need what the store knows of the user."""
    release = policy.release
    if release is None or not release.is_in_force or release.halted:
        return False
    if policy.segments and release.strategy in _WITH_SEGMENTS:
        return True
    has_flags = any(flag.enabled and flag.segments for flag in policy.flags)
    return has_flags and release.strategy in _WITH_FLAGS


class Copies:
    """At most ``most`` copies by service key and user; the one kept longest ago goes first."""

    def __init__(self, most: int, *, max_age_s: float = math.inf) -> None:
        self._most, self._max_age_s = most, max_age_s
        self._copies: OrderedDict[tuple[str, str], Copy] = OrderedDict()
        self._announced: dict[str, int] = {}
        self._all_announced = 0
        # The last policy that was asked about: working its ways out takes as long as the rest.
        self._policy: Policy | None = None
        self._ways = Ways(0, frozenset())
        self.heard = 0
        """How many announcements have been heard; to be noted before the store is asked."""

    def __len__(self) -> int:
        return len(self._copies)

    def valid(self, policy: Policy, user: str, now: float = 0.0) -> Person | None:
        """The person if there is a valid copy, else None."""
        copy = self._copies.get((policy.service_key, user))
        if copy is None:
            return None
        is_valid = copy.is_valid(self._ways_of(policy), self.last_announced(user), now)
        return copy.person if is_valid else None

    def at_best(self, policy: Policy, user: str) -> Person:
        """The person by any copy, however old; UNKNOWN if there is none."""
        copy = self._copies.get((policy.service_key, user))
        return copy.at_best(self._ways_of(policy)) if copy else UNKNOWN

    def known(self, policy: Policy, user: str, now: float = 0.0) -> Known | None:
        """What to tell others: the person by any copy and by which ways, None if there is none."""
        copy = self._copies.get((policy.service_key, user))
        if copy is None:
            return None
        is_valid = copy.is_valid(self._ways_of(policy), self.last_announced(user), now)
        return Known(person=copy.person, ways=copy.ways, is_old=not is_valid)

    def keep(self, service_key: str, user: str, known: Known, asked: int, now: float = 0.0) -> None:
        """Keep what was answered, if anything is known; ``asked`` is ``heard`` at the asking."""
        if not known.person.is_known:
            return
        key = (service_key, user)
        if known.is_old:
            if key in self._copies:
                return  # it may be the newer of two that are old
            asked = -1
        self._copies[key] = Copy(known.person, known.ways, asked, now + self._max_age_s)
        self._copies.move_to_end(key)
        if len(self._copies) > self._most:
            self._copies.popitem(last=False)

    def last_announced(self, user: str) -> int:
        """The number of the last announcement of a user; who was asked before it may be wrong."""
        return max(self._all_announced, self._announced.get(user, 0))

    def outdate(self, users: Iterable[str]) -> None:
        """Something was announced of these users: what was asked before it is old."""
        self.heard += 1
        self._announced.update(dict.fromkeys(users, self.heard))
        if len(self._announced) > self._most:
            self.outdate_all()

    def outdate_all(self) -> None:
        """Announcements may have been missed: everything that was asked before now is old."""
        self.heard += 1
        self._all_announced = self.heard
        self._announced.clear()

    def _ways_of(self, policy: Policy) -> Ways:
        if policy is not self._policy:
            self._policy, self._ways = policy, ways_of(policy)
        return self._ways
