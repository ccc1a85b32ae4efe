"""The promises to users, on a stack of its own: whatever is killed, nobody notices."""

from __future__ import annotations

import asyncio
import itertools
import re
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import monotonic

import pytest
from dev_stack.processes import wait_until
from dev_stack.stack import CANARY, STABLE, Stack
from prometheus_client.parser import text_string_to_metric_families
from support.admin import Admin, admin_of
from support.stack import (
    PATIENCE_S,
    Client,
    client_of,
    running_stack,
    share,
    until_heard,
    until_release_rules,
)

USERS = [f"user-{number}" for number in range(20_000)]
SOME = USERS[:1_000]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack() as running:
        with admin_of(running.admin_address) as admin:
            admin.release(5, salt="promises")
        yield running


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    async with client_of(stack) as found:
        yield found


@pytest.fixture
def admin(stack: Stack) -> Iterator[Admin]:
    with admin_of(stack.admin_address) as found:
        yield found


@pytest.fixture(scope="module")
def before(stack: Stack) -> dict[str, str]:
    """The version that each of 20,000 users gets."""

    async def asked() -> dict[str, str]:
        async with client_of(stack) as client:
            await until_release_rules(client)
            return await client.versions(USERS, clients=32)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, asked()).result()


# Two tests: each asks for minutes where the machine is busy, and no test may take ten.
def test_five_per_cent_of_20000_users_get_the_canary(before: dict[str, str]) -> None:
    assert 0.045 < share(before) < 0.055


async def test_all_of_them_stick_over_every_restart(stack: Stack, before: dict[str, str]) -> None:
    await asyncio.to_thread(restart_everything, stack)
    async with client_of(stack) as again:
        assert await again.versions(USERS, clients=32) == before


def restart_everything(stack: Stack) -> None:
    """Stop every process and start it again, in the order of need."""
    stack.gateway.stop()
    for process in (stack.plugin, stack.decision, *stack.upstreams.values(), stack.redis):
        assert process.stop() == 0, process.output()
    stack.redis.start()
    stack.start_decision_service()
    stack.start_plugin_server()
    for version in (STABLE, CANARY):
        stack.start_upstream(version)
    until_heard(stack)
    stack.gateway.start()


TOLD = ("canary_plugin_decisions_total", "canary_plugin_troubles_total")


def said_by_plugin(stack: Stack) -> dict[str, float]:
    """What the plugin server has counted of decisions and troubles."""
    (*_, address) = re.findall(r"metrics=(\S+)", stack.plugin.output())
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        ", ".join(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name in TOLD
    }


@asynccontextmanager
async def load(
    stack: Stack, client: Client, expected: dict[str, str]
) -> AsyncIterator[Callable[[], int]]:
    """Requests by 8 clients while this is open, each checked for status and version.

    Yields how many were answered so far. A wrong answer is told with who has decided since:
    remote is the service, alone the plugin, and of those how many for which cause.
    """
    answered = 0
    users = itertools.cycle(expected)
    is_over = False

    before = await asyncio.to_thread(said_by_plugin, stack)

    async def ask() -> None:
        nonlocal answered
        for user in users:
            if is_over:
                return
            began = monotonic()
            found = await client.version({"x-user-id": user})
            if found != expected[user]:
                took_ms = (monotonic() - began) * 1_000
                after = await asyncio.to_thread(said_by_plugin, stack)
                more = {name: n for name in after if (n := after[name] - before.get(name, 0))}
                pytest.fail(
                    f"{user} got {found} instead of {expected[user]}: answer {answered + 1}, after "
                    f"{took_ms:.0f} ms; since the load began the plugin has counted {more}"
                )
            answered += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(ask())
        yield lambda: answered
        is_over = True


async def until_answered(answered: Callable[[], int], more: int) -> None:
    """Wait until so many more requests were answered."""
    wanted = answered() + more
    await asyncio.to_thread(wait_until, lambda: answered() >= wanted, PATIENCE_S, "answers")


async def test_the_decision_service_is_killed_under_load_and_every_user_keeps_their_version(
    stack: Stack, client: Client
) -> None:
    expected = await client.versions(SOME)
    async with load(stack, client, expected) as answered:
        await until_answered(answered, 300)
        stack.decision.kill()
        await until_answered(answered, 1_000)
        await asyncio.to_thread(stack.start_decision_service)
        await until_answered(answered, 300)


async def test_redis_is_killed_under_load_and_decisions_do_not_change(
    stack: Stack, client: Client, admin: Admin
) -> None:
    admin("PutSegment", segment={"name": "listed", "canary_eligible": True, "listed": True})
    admin("AddMembers", segment="listed", users=SOME[:20])
    async with asyncio.timeout(PATIENCE_S):
        while set((await client.versions(SOME[:20])).values()) != {CANARY}:
            pass  # the change is on its way
    expected = await client.versions(SOME)
    async with load(stack, client, expected) as answered:
        await until_answered(answered, 300)
        stack.redis.kill()
        await until_answered(answered, 1_000)
        await asyncio.to_thread(stack.redis.start)
        await until_answered(answered, 300)


async def test_the_plugin_server_is_killed_under_load_and_every_request_is_answered(
    stack: Stack, client: Client
) -> None:
    """What it cannot promise alone: without the plugin Kong sends everybody to stable."""
    expected = await client.versions(SOME[100:])
    seen: dict[str, set[str]] = {}
    stack.plugin.kill()
    for user in SOME[100:200]:
        seen[user] = {await client.version({"x-user-id": user})}
    assert set.union(*seen.values()) == {STABLE}
    await asyncio.to_thread(stack.start_plugin_server)
    await asyncio.to_thread(until_heard, stack)
    for user, version in expected.items():
        assert await client.version({"x-user-id": user}) == version
