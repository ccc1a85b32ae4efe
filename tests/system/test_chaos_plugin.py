"""The plugin server is hurt under load: every answer is a 2xx, by the version that user must get.

A request that is with a worker at the moment it is killed has no decision, and Kong sends it to
stable; that is the only way to get another version than one's own, so it is counted and bounded.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest
from dev_stack.stack import STABLE
from support.admin import admin_of
from support.chaos import Chaos, chaos_stack, is_gone, kill, stored, users_of
from support.load import User, load, until

CLIENTS = 8
KILLS = 20
# A Python process starts in some tenths of a second; a busy machine takes its time.
STARTED_WITHIN_S = 30.0
# Missed heartbeats, and the start of the next worker; Kong alone would wait for a minute.
REPLACED_WITHIN_S = 50.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Chaos]:
    with chaos_stack() as running:
        yield running


@pytest.fixture(scope="module")
def users(stack: Chaos) -> list[User]:
    with admin_of(stack.admin_address) as admin:
        return users_of(stored(admin))


async def test_twenty_killed_workers_cost_at_most_the_requests_they_had(
    stack: Chaos, users: list[User]
) -> None:
    """A kill costs at most one request of each client: the one that it has under way."""
    async with load(stack.gateway.address, users, clients=CLIENTS) as found:
        await found.round()
        found.check()
        for _ in range(KILLS):
            wrong = len(found.wrong)
            await kill_worker(stack)
            await found.more(CLIENTS)
            assert len(found.wrong) - wrong <= CLIENTS, found.summary()
        costs = len(found.wrong)
        await found.round()
        assert len(found.wrong) == costs, found.summary()
    found.check(open_at_most=CLIENTS * KILLS, stable=STABLE)


async def test_workers_killed_the_moment_they_are_ready_fail_no_request(
    stack: Chaos, users: list[User]
) -> None:
    """Whatever Kong has begun with such a worker, starting an instance too, is cut off.

    How many get stable is not bounded here: while workers never last, nothing is decided.
    """
    async with load(stack.gateway.address, users, clients=CLIENTS) as found:
        await found.round()
        for _ in range(KILLS):
            await kill_worker(stack)
        await found.more(2 * CLIENTS)
        costs = len(found.wrong)
        await found.round()
        assert len(found.wrong) == costs, found.summary()
    found.check(open_at_most=found.answered, stable=STABLE)


async def test_a_worker_that_stands_still_is_replaced_and_costs_the_requests_it_had(
    stack: Chaos, users: list[User]
) -> None:
    """Kong would wait for a minute; the supervisor misses the heartbeat within some seconds."""
    async with load(stack.gateway.address, users, clients=CLIENTS) as found:
        await found.round()
        ready = len(stack.workers)
        os.kill(stack.workers[-1], signal.SIGSTOP)
        await until(lambda: len(stack.workers) > ready, "the next worker")
        await found.round()
    assert found.slowest_s < REPLACED_WITHIN_S
    found.check(open_at_most=CLIENTS, stable=STABLE)


async def test_a_killed_supervisor_costs_what_is_asked_until_the_next_one_has_bound(
    stack: Chaos, users: list[User]
) -> None:
    """Nobody holds the socket then, so Kong decides nothing: for as long as a process needs to
    start, and by no request that began once the socket was there again and the worker that was
    left had ended: on connections of Kong's pool it goes on with what it has until then.
    """
    async with load(stack.gateway.address, users, clients=CLIENTS) as found:
        await found.round()
        found.check()
        before, answered, left = inode(stack), found.answered, stack.workers[-1]
        killed = time.monotonic()
        await asyncio.to_thread(stack.plugin.kill)
        await asyncio.to_thread(stack.spawn_plugin_server)
        await until(lambda: inode(stack) != before, "the socket")
        bound = time.monotonic()
        await until(lambda: is_gone(left), "the end of the worker that was left")
        alone, asked = time.monotonic(), found.began - answered
        await asyncio.to_thread(stack.plugin.await_ready)
        await found.round()
    assert bound - killed < STARTED_WITHIN_S
    assert [answer for answer in found.wrong if answer.began > alone] == [], found.summary()
    # All that was under way at the kill or began before both.
    found.check(open_at_most=asked, stable=STABLE)


async def test_the_socket_file_is_removed_and_nobody_notices(
    stack: Chaos, users: list[User]
) -> None:
    """Kong goes on with the connections of its pool; new ones find the socket bound again."""
    async with load(stack.gateway.address, users, clients=CLIENTS) as found:
        await found.round()
        worker = stack.workers[-1]
        for _ in range(3):
            stack.plugin_socket.unlink()
            await until(stack.plugin_socket.exists, "the socket")
            await found.more(CLIENTS)
        async with load(stack.gateway.address, users, clients=4 * CLIENTS) as more:
            await more.round()
        await found.round()
    assert stack.workers[-1] == worker
    more.check()
    found.check()


async def kill_worker(stack: Chaos) -> None:
    """Kill the worker and wait until the next one says that it is ready."""
    ready = len(stack.workers)
    kill(stack.workers[-1])
    await until(lambda: len(stack.workers) > ready, "the next worker")


def inode(stack: Chaos) -> int:
    """What tells a socket from the one that was there before it; 0 if there is none."""
    try:
        return stack.plugin_socket.stat().st_ino
    except FileNotFoundError:
        return 0
