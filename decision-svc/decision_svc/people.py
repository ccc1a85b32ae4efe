"""What is known of users: copies in memory, read from the store only when there is no valid one.

A copy is valid while its policy lists the same segments at the same membership epoch and it
is younger than ``max_age_s``. When the store cannot answer in time, an old copy still does: a
user keeps their variant through an outage.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from canary_engine.model import UNKNOWN, Person, Policy, Profile

from decision_svc.store.protocol import PeopleStore, StoreError

MAX_USERS = 200_000


class _Ways(NamedTuple):
    """The ways by which a policy gets members; a copy made by other ways is not valid."""

    epoch: int
    listed: tuple[str, ...]


@dataclass(slots=True)
class _Copy:
    ways: _Ways
    person: Person
    expires: float


_Reading = tuple[str, _Ways]
"""Service key and ways: a read that began before a change does not answer one after it."""
_Tasks = dict[_Reading, asyncio.Task[Person]]


class People:
    """Persons by user id and service key."""

    def __init__(
        self,
        store: PeopleStore,
        *,
        clock: Callable[[], float],
        max_age_s: float,
        deadline_s: float,
    ) -> None:
        self._store, self._clock = store, clock
        self._max_age_s, self._deadline_s = max_age_s, deadline_s
        self._copies: OrderedDict[str, dict[str, _Copy]] = OrderedDict()
        self._reading: dict[str, _Tasks] = {}
        self.is_store_up = True

    def copy(self, policy: Policy, user: str) -> Person | None:
        """A valid copy; None if there is none. Never waits.

        While the store is known to be down, any copy is valid, and a user without one is
        UNKNOWN at once.
        """
        copy = self._any_copy(policy, user)
        if not self.is_store_up:
            return copy.person if copy else UNKNOWN
        if copy is None or copy.ways != _ways(policy):
            return None
        return copy.person if self._clock() < copy.expires else None

    async def read(self, policy: Policy, user: str) -> Person:
        """The person from the store within the deadline, else an old copy, else UNKNOWN."""
        task = self._task(policy, user)
        try:
            # Shielded: others may wait for the same answer, and a late one is kept anyway.
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.shield(task)
        except (TimeoutError, StoreError):
            old = self._any_copy(policy, user)
            return old.person if old else UNKNOWN

    def outdate(self, user: str) -> None:
        """The user's profile changed: copies are no longer valid, but still better than none."""
        # A read under way may have the old profile: nobody joins it, and its copy is born old.
        self._reading.pop(user, None)
        for copy in self._copies.get(user, {}).values():
            copy.expires = 0.0

    def outdate_all(self) -> None:
        """Announcements may have been missed: read everybody anew when next asked."""
        for user in {*self._reading, *self._copies}:
            self.outdate(user)

    def _any_copy(self, policy: Policy, user: str) -> _Copy | None:
        return self._copies.get(user, {}).get(policy.service_key)

    def _task(self, policy: Policy, user: str) -> asyncio.Task[Person]:
        """The read that brings this person, begun unless one is under way."""
        key = (policy.service_key, _ways(policy))
        tasks = self._reading.setdefault(user, {})
        task = tasks.get(key)
        if task is None:
            task = tasks[key] = asyncio.create_task(self._fetch(policy, user, tasks))
            task.add_done_callback(lambda _: self._read(user, tasks, key))
            task.add_done_callback(_retrieve)
        return task

    def _read(self, user: str, tasks: _Tasks, key: _Reading) -> None:
        del tasks[key]
        if not tasks and self._reading.get(user) is tasks:
            del self._reading[user]

    async def _fetch(self, policy: Policy, user: str, tasks: _Tasks) -> Person:
        ways = _ways(policy)
        found, profile = await asyncio.gather(
            self._store.listed_in(policy.service_key, user, ways.listed)
            if ways.listed
            else _none(),
            self._store.profile(user),
        )
        person = Person(listed_in=found, profile=profile or Profile())
        is_current = self._reading.get(user) is tasks
        expires = self._clock() + self._max_age_s if is_current else 0.0
        self._copies.setdefault(user, {})[policy.service_key] = _Copy(ways, person, expires)
        self._copies.move_to_end(user)
        if len(self._copies) > MAX_USERS:
            self._copies.popitem(last=False)
        return person


def _ways(policy: Policy) -> _Ways:
    # Baselines of one service key have the same epoch and may list different segments.
    listed = tuple(segment.name for segment in policy.segments if segment.listed)
    return _Ways(policy.membership_epoch, listed)


async def _none() -> frozenset[str]:
    return frozenset()


def _retrieve(task: asyncio.Task[Person]) -> None:
    """Take the exception, for which nobody may wait any more."""
    if not task.cancelled():
        task.exception()
