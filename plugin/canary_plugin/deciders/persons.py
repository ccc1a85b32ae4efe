"""What the service's store knows of users: heard once, kept until the service says otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic

from canary_engine.copies import Copies, Known
from canary_engine.errors import CanaryError
from canary_engine.model import Person, Policy

from canary_plugin.deciders.breaker import Breaker

MAX_COPIES = 100_000
Fetch = Callable[[str, str, float], Awaitable[Known]]
"""Asks the service by service key, user and seconds left; raises CanaryError."""
_Reading = tuple[str, str, int, int]


class Persons:
    """Copies by service key and user; which are valid says ``canary_engine/copies.py``.

    Announcements come by the policy stream. While the service cannot answer, an old copy still
    does, and after some failures in a row it is asked only now and then.
    """

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = monotonic) -> None:
        self._fetch = fetch
        self._copies = Copies(MAX_COPIES)
        self._breaker = Breaker(clock)
        # By what makes an answer another one: who asks after a change joins no read from before.
        self._reading: dict[_Reading, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._copies)

    @property
    def heard(self) -> int:
        """How many announcements have been heard; to be noted before the service is asked."""
        return self._copies.heard

    def copy(self, policy: Policy, user: str) -> Person | None:
        """A valid copy; None if there is none."""
        return self._copies.valid(policy, user)

    def at_best(self, policy: Policy, user: str) -> Person:
        """The person without asking: by any copy, however old, else UNKNOWN."""
        return self._copies.at_best(policy, user)

    def at_once(self, policy: Policy, user: str) -> Person | None:
        """The person if there is nothing to wait for, else None: then ``read``.

        There is not where a copy is valid, nor while the service has stopped answering.
        """
        person = self._copies.valid(policy, user)
        if person is None and not self._breaker.may_ask():
            return self._copies.at_best(policy, user)
        return person

    async def read(self, policy: Policy, user: str, deadline_s: float) -> Person:
        """The person from the service in time, else an old copy, else UNKNOWN."""
        announced = self._copies.last_announced(user)
        key = (policy.service_key, user, policy.membership_epoch, announced)
        task = self._reading.get(key)
        if task is None:
            task = asyncio.create_task(self._read(policy.service_key, user, deadline_s))
            self._reading[key] = task
            task.add_done_callback(lambda _: self._reading.pop(key))
        # Not cancelled with the one who waits: others may wait for the same answer.
        await asyncio.wait((task,), timeout=deadline_s)
        return self._copies.at_best(policy, user)

    def keep(self, service_key: str, user: str, known: Known, asked: int) -> None:
        """Keep what the service said, if it knows; ``asked`` is ``heard`` before it was asked."""
        self._copies.keep(service_key, user, known, asked)

    def outdate(self, users: Iterable[str]) -> None:
        """The profiles of these users have changed."""
        self._copies.outdate(users)

    def outdate_all(self) -> None:
        """Announcements may have been missed: ask for everybody anew when next needed."""
        self._copies.outdate_all()

    async def _read(self, service_key: str, user: str, deadline_s: float) -> None:
        asked = self.heard
        try:
            known = await self._fetch(service_key, user, deadline_s)
        except CanaryError:
            self._breaker.failed()
        else:
            self._breaker.answered()
            self.keep(service_key, user, known, asked)
