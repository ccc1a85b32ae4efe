"""Leases, in memory and in Redis: one holds, tokens only grow, an end is an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from decision_svc.leases.memory import MemoryLeases
from decision_svc.leases.protocol import Lease, LeaseStore
from decision_svc.leases.redis import RedisLeases
from decision_svc.store.connection import Connection
from support.calls import until

AWKWARD_NAMES = ["controller", "控制器", "{a}b}{", "%", "a:lease-token"]


@dataclass
class Kept:
    """Leases as two replicas see them, and what lets time pass until a lease has ended."""

    one: LeaseStore
    other: LeaseStore
    until_ended: Callable[[str], Awaitable[None]]


@pytest.fixture(params=["memory", "redis", "cluster"])
def kept(request: pytest.FixtureRequest) -> Kept:
    if request.param == "memory":
        moment = [1_000.0]
        leases = MemoryLeases(lambda: moment[0])

        async def later(_: str) -> None:
            moment[0] += 3_600

        return Kept(leases, leases, later)
    connections: Callable[[], Connection] = request.getfixturevalue(f"{request.param}_connections")
    connection = connections()

    async def gone(name: str) -> None:
        key = f"canary:{{{name}}}:lease"

        async def is_gone() -> bool:
            return not await connection.ask(key, lambda redis: redis.exists(key))

        await until(is_gone)

    return Kept(RedisLeases(connections()), RedisLeases(connections()), gone)


def is_held_by(lease: Lease, holder: str) -> bool:
    return lease.holder == holder and lease.left_ms > 0


async def test_of_two_who_ask_one_holds_and_both_hear_who(kept: Kept) -> None:
    held = await kept.one.hold("controller", "a", 60)
    refused = await kept.other.hold("controller", "b", 60)
    assert is_held_by(held, "a")
    assert is_held_by(refused, "a")
    assert held.token == refused.token == 1
    assert held.left_ms == 60_000
    assert refused.left_ms <= 60_000


async def test_of_many_who_ask_at_once_one_holds(kept: Kept) -> None:
    asking = [(kept.one, kept.other)[n % 2].hold("controller", f"c{n}", 60) for n in range(40)]
    found = await asyncio.gather(*asking)
    assert len({(lease.holder, lease.token) for lease in found}) == 1


async def test_who_holds_it_keeps_it_and_its_token(kept: Kept) -> None:
    before = await kept.one.hold("controller", "a", 3_600)
    after = await kept.one.hold("controller", "a", 60)
    assert (after.token, after.left_ms) == (before.token, 60_000)


async def test_a_lease_that_has_ended_is_another_s_with_a_greater_token(kept: Kept) -> None:
    before = await kept.one.hold("controller", "a", 0.05)
    await kept.until_ended("controller")
    after = await kept.other.hold("controller", "b", 60)
    assert is_held_by(after, "b")
    assert after.token > before.token


async def test_who_held_it_before_gets_a_greater_token_too(kept: Kept) -> None:
    before = await kept.one.hold("controller", "a", 0.05)
    await kept.until_ended("controller")
    assert (await kept.one.hold("controller", "a", 60)).token > before.token


async def test_a_dropped_lease_is_free_at_once_and_its_token_is_never_given_again(
    kept: Kept,
) -> None:
    before = await kept.one.hold("controller", "a", 60)
    await kept.one.drop("controller", "a")
    after = await kept.other.hold("controller", "b", 60)
    assert (after.holder, after.token) == ("b", before.token + 1)


async def test_dropping_what_another_holds_or_nobody_does_nothing(kept: Kept) -> None:
    await kept.one.drop("controller", "a")
    held = await kept.one.hold("controller", "a", 60)
    await kept.other.drop("controller", "b")
    refused = await kept.other.hold("controller", "b", 60)
    assert (refused.holder, refused.token) == ("a", held.token)


@pytest.mark.parametrize("name", AWKWARD_NAMES)
async def test_leases_of_different_names_have_nothing_to_do_with_each_other(
    kept: Kept, name: str
) -> None:
    await kept.one.hold("another", "a", 60)
    await kept.one.hold(name, "ä 'b'", 60)
    await kept.one.drop("another", "a")
    assert is_held_by(await kept.other.hold(name, "c", 60), "ä 'b'")
