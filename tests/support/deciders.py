"""Both deciders over real streams to one service, without a Kong in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from canary_plugin.deciders.local import LocalDecider
from canary_plugin.deciders.person_calls import PersonCalls
from canary_plugin.deciders.persons import Persons
from canary_plugin.deciders.policies import KnownPolicies
from canary_plugin.deciders.policy_stream import PolicyStream
from canary_plugin.deciders.remote import RemoteDecider
from canary_plugin.deciders.service import Service
from canary_plugin.deciders.stream import DecideStream
from canary_plugin.troubles import Troubles

from support.waiting import WITHIN_S


@dataclass(frozen=True)
class Deciders:
    """A remote and a local decider, each with its own memory, and what they know of persons."""

    remote: RemoteDecider
    local: LocalDecider
    persons: dict[str, Persons]
    troubles: Troubles


@asynccontextmanager
async def deciders(*addresses: str) -> AsyncIterator[Deciders]:
    """Deciders that have heard all that the service has to say."""
    troubles, policies, service = Troubles(lambda: 0.0), KnownPolicies(), Service(addresses)
    calls = PersonCalls(service.stubs)
    persons = {name: Persons(calls.person) for name in ("remote", "local")}
    stream = DecideStream(service.stubs, troubles)
    told = [
        PolicyStream(service.stubs, policies, each, troubles, "test") for each in persons.values()
    ]
    tasks = [asyncio.create_task(stream.run()), *(asyncio.create_task(t.run()) for t in told)]
    async with asyncio.timeout(WITHIN_S):
        await asyncio.gather(stream.opened.wait(), *(t.complete.wait() for t in told))
    remote = RemoteDecider(stream, policies, persons["remote"], troubles)
    local = LocalDecider(policies, persons["local"], remote)
    try:
        yield Deciders(remote, local, persons, troubles)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await service.close()
