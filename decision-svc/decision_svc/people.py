"""What is known of users: copies in memory, read from the store only when there is no valid one.

Which copy is valid says ``canary_engine/copies.py``. When the store cannot answer in time, an old
copy still does: a user keeps their variant through an outage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from canary_engine.copies import Copies, Known, Ways, ways_of
from canary_engine.model import Person, Policy, Profile

from decision_svc.store.protocol import PeopleStore, StoreError

MAX_COPIES = 200_000


_Reading = tuple[str, str, Ways, int]
"""Service key, user, ways and the user's last announcement: a read that began before a change
does not answer one after it.
"""


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
        self._deadline_s = deadline_s
        self._copies = Copies(MAX_COPIES, max_age_s=max_age_s)
        self._reading: dict[_Reading, asyncio.Task[Person]] = {}
        self.is_store_up = True

    def copy(self, policy: Policy, user: str) -> Person | None:
        """A valid copy; None if there is none. Never waits.

        While the store is known to be down, any copy is valid, and a user without one is
        UNKNOWN at once.
        """
        if not self.is_store_up:
            return self._copies.at_best(policy, user)
        return self._copies.valid(policy, user, self._clock())

    async def read(self, policy: Policy, user: str) -> Person:
        """The person from the store within the deadline, else an old copy, else UNKNOWN."""
        task = self._task(policy, user)
        try:
            # Shielded: others may wait for the same answer, and a late one is kept anyway.
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.shield(task)
        except (TimeoutError, StoreError):
            return self._copies.at_best(policy, user)

    def now(self) -> float:
        """The moment, for ``known``."""
        return self._clock()

    def known(self, policy: Policy, user: str, at: float) -> Known | None:
        """What a gateway may keep of a user, old if it was so ``at`` that moment, when it was
        asked for; None if nothing is known.
        """
        return self._copies.known(policy, user, at)

    def outdate(self, user: str) -> None:
        """The user's profile changed: copies are no longer valid, but still better than none."""
        self._copies.outdate((user,))

    def outdate_all(self) -> None:
        """Announcements may have been missed: read everybody anew when next asked."""
        self._copies.outdate_all()

    def _task(self, policy: Policy, user: str) -> asyncio.Task[Person]:
        """The read that brings this person, begun unless one is under way."""
        announced = self._copies.last_announced(user)
        key = (policy.service_key, user, ways_of(policy), announced)
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._fetch(policy.service_key, key))
            task.add_done_callback(lambda _: self._reading.pop(key))
            task.add_done_callback(_retrieve)
        return task

    async def _fetch(self, service_key: str, reading: _Reading) -> Person:
        _, user, ways, _ = reading
        asked = self._copies.heard
        found, profile = await asyncio.gather(
            self._store.listed_in(service_key, user, sorted(ways.listed))
            if ways.listed
            else _none(),
            self._store.profile(user),
        )
        person = Person(listed_in=found, profile=profile or Profile())
        known = Known(person=person, ways=ways)
        self._copies.keep(service_key, user, known, asked, self._clock())
        return person


async def _none() -> frozenset[str]:
    return frozenset()


def _retrieve(task: asyncio.Task[Person]) -> None:
    """Take the exception, for which nobody may wait any more."""
    if not task.cancelled():
        task.exception()
