"""What is known of users: copies in memory, read from the store only when there is no valid one.

A copy is valid while its policy's membership epoch is the same and it is younger than
``max_age_s``. When the store cannot answer in time, an old copy still does: a user keeps
their variant through an outage.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from canary_engine.model import UNKNOWN, Person, Policy, Profile

from decision_svc.store.protocol import PeopleStore, StoreError

MAX_COPIES = 200_000
Key = tuple[str, str]


@dataclass(slots=True)
class _Copy:
    epoch: int
    person: Person
    expires: float


class People:
    """Persons by service key and user id."""

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
        self._copies: OrderedDict[Key, _Copy] = OrderedDict()
        self._reading: dict[Key, asyncio.Task[Person]] = {}
        self.is_store_up = True

    def copy(self, policy: Policy, user: str) -> Person | None:
        """A valid copy; None if there is none. Never waits.

        While the store is known to be down, any copy is valid, and a user without one is
        UNKNOWN at once.
        """
        copy = self._copies.get((policy.service_key, user))
        if not self.is_store_up:
            return copy.person if copy else UNKNOWN
        if copy is None or copy.epoch != policy.membership_epoch:
            return None
        return copy.person if self._clock() < copy.expires else None

    async def read(self, policy: Policy, user: str) -> Person:
        """The person from the store within the deadline, else an old copy, else UNKNOWN."""
        key = (policy.service_key, user)
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._fetch(policy, user))
            task.add_done_callback(lambda _: self._reading.pop(key, None))
        try:
            # Shielded: others may wait for the same answer, and a late one is kept anyway.
            return await asyncio.wait_for(asyncio.shield(task), self._deadline_s)
        except (TimeoutError, StoreError):
            task.add_done_callback(_retrieve)
            old = self._copies.get(key)
            return old.person if old else UNKNOWN

    def outdate(self, user: str, service_keys: tuple[str, ...]) -> None:
        """The user's profile changed: copies are no longer valid, but still better than none."""
        for service_key in service_keys:
            copy = self._copies.get((service_key, user))
            if copy is not None:
                copy.expires = 0.0

    def outdate_all(self) -> None:
        """Announcements may have been missed: read everybody anew when next asked."""
        for copy in self._copies.values():
            copy.expires = 0.0

    async def _fetch(self, policy: Policy, user: str) -> Person:
        listed = [segment.name for segment in policy.segments if segment.listed]
        found, profile = await asyncio.gather(
            self._store.listed_in(policy.service_key, user, listed) if listed else _none(),
            self._store.profile(user),
        )
        person = Person(listed_in=found, profile=profile or Profile())
        expires = self._clock() + self._max_age_s
        self._copies[policy.service_key, user] = _Copy(policy.membership_epoch, person, expires)
        if len(self._copies) > MAX_COPIES:
            self._copies.popitem(last=False)
        return person


async def _none() -> frozenset[str]:
    return frozenset()


def _retrieve(task: asyncio.Task[Person]) -> None:
    """Take the late answer's exception, which nobody waits for any more."""
    if not task.cancelled():
        task.exception()
