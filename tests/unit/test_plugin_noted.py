"""What is noted of decisions made at the gateway: bounded, told once, kept by who gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from canary_engine import parse
from canary_engine.decide import CompiledPolicy, decide
from canary_engine.exposure import mark
from canary_engine.model import Decision, Request, Variant
from canary_plugin.outcomes import noted as module
from canary_plugin.outcomes.noted import NOTHING, Noted, Pair, Served

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = datetime(2026, 3, 2, tzinfo=UTC)
STABLE = Served("shop", "r-1", Variant.STABLE)


def a_policy(percentage: float = 0, **fields: Any) -> CompiledPolicy:
    versions = [{"version": "v1", "status": "stable"}, {"version": "v2", "status": "canary"}]
    release = {"id": "r-1", "version": "v2", "status": "in-progress", "salt": "s"}
    document = {
        "service_key": "shop",
        "versions": versions,
        "release": {**release, "percentage": percentage},
    }
    return CompiledPolicy(parse.policy(document | fields))


def see(noted: Noted, users: Iterable[str], compiled: CompiledPolicy | None = None) -> None:
    policy = compiled or a_policy()
    for user in users:
        request = Request(headers={"x-user-id": user})
        answer = decide(policy, request, None, NOW)
        assert isinstance(answer, Decision)
        noted.saw(policy, request, answer)


def marks(users: Iterable[str]) -> set[int]:
    return {mark("shop", "r-1", user) for user in users}


async def test_users_are_told_once_and_as_marks() -> None:
    noted = Noted()
    see(noted, "abab")
    ((served, told),) = (await noted.take()).served
    assert (served, set(told), len(told)) == (STABLE, marks("ab"), 2)
    assert await noted.take() == NOTHING
    see(noted, "a")
    assert (await noted.take()).users == 1


async def test_variants_are_told_apart() -> None:
    noted = Noted()
    see(noted, "a")
    see(noted, "b", a_policy(100))
    told = dict((await noted.take()).served)
    canary = Served("shop", "r-1", Variant.CANARY)
    assert {served: set(m) for served, m in told.items()} == {
        STABLE: marks("a"),
        canary: marks("b"),
    }


async def test_without_a_release_or_anything_to_tell_a_user_by_nobody_is_noted() -> None:
    noted = Noted()
    see(noted, "a", CompiledPolicy(parse.policy({"service_key": "shop"})))
    see(noted, [""])
    assert await noted.take() == NOTHING


async def test_users_for_whom_there_is_no_room_are_counted() -> None:
    noted = Noted(max_waiting=2)
    see(noted, "abcda")
    notes = await noted.take()
    assert (notes.users, notes.unexposed) == (2, 2)
    see(noted, "cd")
    noted.miss(5)
    notes = await noted.take()
    assert (notes.users, notes.unexposed) == (2, 5)


async def test_many_users_are_told_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MARKS", 3)
    noted, told = Noted(), set[int]()
    see(noted, "abcdefgh")
    sizes = []
    while (notes := await noted.take()) != NOTHING:
        sizes.append(notes.users)
        told |= {m for _, found in notes.served for m in found}
    assert (sizes, told) == ([3, 3, 2], marks("abcdefgh"))


async def test_who_gives_up_while_marks_are_made_has_taken_nothing() -> None:
    noted = Noted()
    see(noted, "abc")
    taking = asyncio.create_task(noted.take())
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    assert taking.cancelled()
    assert (await noted.take()).users == 3


async def test_who_comes_while_marks_are_made_is_told_next_time() -> None:
    noted = Noted()
    see(noted, "abc")
    taking = asyncio.create_task(noted.take())
    await asyncio.sleep(0)
    see(noted, "abcd")
    assert (await taking).users == 3
    ((_, told),) = (await noted.take()).served
    assert set(told) == marks("d")


async def test_what_a_shadow_says_is_counted_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    proposed = parse.document(a_policy(100).policy)
    compiled = a_policy(shadow={"policy": proposed, "expires_at": "2026-03-02T00:00:00Z"})
    stable, canary = (
        found
        for policy in (compiled, a_policy(100))
        if isinstance(found := decide(policy, Request(consumer="firm"), None, NOW), Decision)
    )
    monkeypatch.setattr(module, "MAX_PAIRS", 1)
    noted = Noted()
    for other in (canary, canary, stable):
        noted.compare(compiled, stable, other)
    reasons = (stable.reason, Variant.CANARY, canary.reason)
    pair = Pair("shop", LATER, Variant.STABLE, *reasons)
    assert (await noted.take()).shadows == ((pair, 2),)
    assert await noted.take() == NOTHING
