"""What the service's store knows of users: asked once, kept until the service says otherwise."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from canary_engine.errors import CanaryError
from canary_engine.model import UNKNOWN, Person, Policy

MAX_COPIES = 100_000
Key = tuple[str, str]


class _Copy(NamedTuple):
    epoch: int
    asked: int
    """How many announcements had been heard when the service was asked."""
    person: Person


class Persons:
    """Copies by service key and user; ``fetch`` asks the service and raises CanaryError.

    A copy is valid while the policy's membership epoch is the same and nothing was said of the
    user's profile. While the service cannot answer, an old copy still does.
    """

    def __init__(self, fetch: Callable[[str, str, float], Awaitable[Person]]) -> None:
        self._fetch = fetch
        self._copies: OrderedDict[Key, _Copy] = OrderedDict()
        # By number of announcement: a copy that was asked for before it is not valid.
        self._heard = 0
        self._changed: dict[str, int] = {}
        self._all_changed = 0
        self._reading: dict[Key, asyncio.Task[None]] = {}

    def copy(self, policy: Policy, user: str) -> Person | None:
        """A valid copy; None if there is none."""
        key = (policy.service_key, user)
        found = self._copies.get(key)
        if found is None or found.epoch != policy.membership_epoch:
            return None
        changed = max(self._all_changed, self._changed.get(user, 0))
        return found.person if found.asked >= changed else None

    async def read(self, policy: Policy, user: str, deadline_s: float) -> Person:
        """The person from the service in time, else an old copy, else UNKNOWN."""
        key = (policy.service_key, user)
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._read(policy, user, deadline_s))
            task.add_done_callback(lambda _: self._reading.pop(key, None))
        # Shielded: others may wait for the same answer.
        await asyncio.wait((task,), timeout=deadline_s)
        found = self._copies.get(key)
        return found.person if found else UNKNOWN

    def outdate(self, users: Iterable[str]) -> None:
        """The profiles of these users have changed."""
        self._heard += 1
        self._changed.update(dict.fromkeys(users, self._heard))
        if len(self._changed) > MAX_COPIES:
            self.outdate_all()

    def outdate_all(self) -> None:
        """Announcements may have been missed: ask for everybody anew when next needed."""
        self._heard += 1
        self._all_changed = self._heard
        self._changed.clear()

    async def _read(self, policy: Policy, user: str, deadline_s: float) -> None:
        key = (policy.service_key, user)
        asked = self._heard
        try:
            person = await self._fetch(policy.service_key, user, deadline_s)
        except CanaryError:
            person = UNKNOWN
        if not person.is_known:
            return
        self._copies[key] = _Copy(policy.membership_epoch, asked, person)
        if len(self._copies) > MAX_COPIES:
            self._copies.popitem(last=False)
