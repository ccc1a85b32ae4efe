"""Cold starts with traffic already there: whoever comes early waits, and nobody gets a 500.

Kong answers 500 when it must start an instance and nothing listens. So the supervisor holds the
socket from before Kong's start, and what comes before a worker is ready waits in its queue.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from dev_stack.stack import STABLE
from support.admin import admin_of
from support.chaos import Chaos, chaos_stack, children, stored, until_asked, users_of
from support.load import User, load, until

CLIENTS = 8


@pytest.fixture(scope="module")
def stack() -> Iterator[Chaos]:
    # nginx wants the outcomes' socket, which is the worker's, before it starts.
    with chaos_stack(outcomes="off") as running:
        yield running


@pytest.fixture(scope="module")
def users(stack: Chaos) -> list[User]:
    with admin_of(stack.admin_address) as admin:
        return users_of(stored(admin))


async def test_who_comes_before_the_worker_waits_for_it_and_gets_their_own_version(
    stack: Chaos, users: list[User]
) -> None:
    """Gateway and clients are there first; the worker stands still until all of them wait."""
    await asyncio.to_thread(stack.gateway.stop)
    await asyncio.to_thread(stack.plugin.stop)
    await asyncio.to_thread(stack.spawn_plugin_server)
    await until(stack.plugin_socket.exists, "the supervisor's socket")
    await until(lambda: children(stack.plugin.pid), "a worker")
    (worker,) = children(stack.plugin.pid)
    # Its supervisor too, which would take it for one that is stuck.
    for pid in (stack.plugin.pid, worker):
        os.kill(pid, signal.SIGSTOP)
    await asyncio.to_thread(stack.gateway.start)
    async with load(stack.gateway.address, users, clients=CLIENTS) as found:
        await until(lambda: found.began == CLIENTS, "every client's first request")
        assert found.answered == 0
        for pid in (worker, stack.plugin.pid):
            os.kill(pid, signal.SIGCONT)
        await found.round()
    found.check()
    assert stack.undecided() == {}


async def test_a_gateway_that_starts_with_the_plugin_server_fails_nobody(
    stack: Chaos, users: list[User]
) -> None:
    """Both start at one moment, the socket a moment earlier; clients come as soon as they can."""
    await asyncio.to_thread(stack.gateway.stop)
    await asyncio.to_thread(stack.plugin.stop)
    await asyncio.to_thread(stack.spawn_plugin_server)
    await until(stack.plugin_socket.exists, "the supervisor's socket")
    await asyncio.to_thread(stack.gateway.start)
    async with load(stack.gateway.address, users, clients=CLIENTS) as found:
        await found.round()
    found.check()


async def test_before_the_decision_service_has_ever_spoken_everybody_is_stable_then_all_get_theirs(
    stack: Chaos, users: list[User]
) -> None:
    """A plugin server that has never heard a policy knows nobody's version: all are stable, which
    is counted, and bounded by its end: once every policy is heard, nobody is undecided.
    """
    await asyncio.to_thread(stack.gateway.stop)
    await asyncio.to_thread(stack.plugin.stop)
    stack.decision.kill()
    stack.plugin_module = "canary_plugin"
    await asyncio.to_thread(stack.spawn_plugin_server)
    await until(stack.plugin_socket.exists, "the supervisor's socket")
    await asyncio.to_thread(stack.gateway.start)
    async with load(stack.gateway.address, users, clients=CLIENTS) as found:
        await found.round()
        await asyncio.to_thread(stack.start_decision_service)
        await until(lambda: stack.plugin_samples()["canary_plugin_policies"] > 0, "every policy")
        await until_asked(stack, found)
        await found.more(CLIENTS)  # what was asked before that is answered
        undecided, wrong = sum(stack.undecided().values()), len(found.wrong)
        await found.round()
        assert len(found.wrong) == wrong, found.summary()
        assert sum(stack.undecided().values()) == undecided
    assert 0 < wrong <= undecided
    found.check(open_at_most=undecided, stable=STABLE)
