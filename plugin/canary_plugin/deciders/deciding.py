"""Who decides, and the two streams from the decision service that it takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from canary_plugin.config import Baseline
from canary_plugin.credentials import Credentials
from canary_plugin.deciders.local import LocalDecider
from canary_plugin.deciders.person_calls import PersonCalls
from canary_plugin.deciders.persons import Persons
from canary_plugin.deciders.policies import KnownPolicies
from canary_plugin.deciders.policy_stream import PolicyStream
from canary_plugin.deciders.protocol import Decider, Hear
from canary_plugin.deciders.remote import RemoteDecider
from canary_plugin.deciders.service import Service
from canary_plugin.deciders.stream import DecideStream
from canary_plugin.outcomes.noted import Noted
from canary_plugin.settings import Settings
from canary_plugin.troubles import Troubles

if TYPE_CHECKING:
    from canary_plugin.deciders.service import Stubs


class Deciding:
    """The decider that the settings name, with all it needs."""

    def __init__(self, settings: Settings, troubles: Troubles, hear: Hear) -> None:
        self._warm_up_s = settings.warm_up_s
        self._service = Service(settings.decision_service, Credentials(settings.credentials))
        stubs = self._service.stubs
        self.policies = KnownPolicies()
        persons = Persons(PersonCalls(stubs).person)
        self._policy_stream = PolicyStream(
            stubs, self.policies, persons, troubles, settings.gateway
        )
        self._decide_stream = DecideStream(stubs, troubles)
        self.noted = Noted()
        """What is decided here, until the service is told."""
        remote = RemoteDecider(
            self._decide_stream, self.policies, persons, troubles, hear, self.noted
        )
        self.decider: Decider = remote
        if settings.decider == "local":
            self.decider = LocalDecider(self.policies, persons, remote, hear, self.noted)

    @property
    def stubs(self) -> Stubs:
        """The decision service's addresses."""
        return self._service.stubs

    @property
    def age_s(self) -> float:
        """For how long the policy stream has told everything; 0 while it is broken."""
        return self._policy_stream.age_s

    def declare(self, baseline: Baseline) -> None:
        """Let people see a baseline of this gateway, for as long as the caller holds it."""
        self._policy_stream.declare(baseline)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Follow the service while this is open; begins when the policies are known, or in time."""
        streams = (self._policy_stream, self._decide_stream)
        tasks = [asyncio.create_task(stream.run()) for stream in streams]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._warm_up_s):
                    await self._policy_stream.complete.wait()
                    await self._decide_stream.opened.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._service.close()
