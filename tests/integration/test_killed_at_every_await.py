"""A service that dies anywhere in a promotion or a rollback leaves the old state or the new one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from canary_engine import parse
from canary_engine.errors import RefusedMove
from canary_engine.model import Policy, Strategy
from canary_engine.release import Move
from decision_svc import changes
from decision_svc.editor import Who
from decision_svc.store.redis import RedisStore
from redis.asyncio import Redis
from support.killed_writer import SHOP, Writers, editor_of, killed_writers
from support.redis_server import RedisServer, running_redis

WHO = Who(actor="ada", reason="a test")
FEWEST_WAITS = 4
"""To read, to write, to hear that it is written, to answer: a move waits at least so often."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    with killed_writers() as found:
        yield found


async def started(redis: RedisServer) -> Policy:
    """A store with nothing but a release in progress at 5 %."""
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
    store = RedisStore.connect(redis.url, timeout_s=10)
    editor = editor_of(store)
    for version in ({"version": "v1", "status": "stable"}, {"version": "v2"}):
        await editor.change(SHOP, None, WHO, "register", changes.register_version(version))
    start = editor.start_release("v2", 5_000, Strategy.COMBINED, "")
    await editor.change(SHOP, None, WHO, "start", start)
    found = await stored(store)
    await store.aclose()
    return found


async def stored(store: RedisStore) -> Policy:
    """What is stored; all that is kept of it must be of the same revision."""
    document = await store.load(SHOP)
    assert document is not None
    policy = parse.policy(document)
    assert await store.revisions() == {SHOP: policy.revision}
    assert await store.load(SHOP, policy.revision) == document
    assert await store.load(SHOP, policy.revision + 1) is None
    records = await store.changes(SHOP)
    assert [record.revision for record in records] == list(range(policy.revision, 0, -1))
    links = await store.links(SHOP)
    assert [link.sequence for link in links] == list(range(1, policy.revision + 1))
    return policy


def said(policy: Policy) -> tuple[Any, ...]:
    assert policy.release is not None
    statuses = [str(version.status) for version in policy.versions]
    return policy.revision, str(policy.release.status), policy.release.share, statuses


OLD = (3, "in-progress", 5_000, ["stable", "canary"])
NEW = {
    Move.PROMOTE: (4, "completed", 5_000, ["deprecated", "stable"]),
    Move.ROLL_BACK: (4, "rolled-back", 0, ["stable", "unspecified"]),
}


@pytest.mark.parametrize("move", NEW)
async def test_killed_at_any_await_a_move_is_made_whole_or_not_at_all(
    move: Move, redis: RedisServer, writers: Writers
) -> None:
    found, waits, is_killed = [], 0, True
    while is_killed:
        assert said(await started(redis)) == OLD
        is_killed = writers.move(redis.url, move, waits)
        store = RedisStore.connect(redis.url, timeout_s=10)
        now = said(await stored(store))
        assert now in (OLD, NEW[move]), f"killed at wait {waits}"
        found.append(now)
        # Whoever comes next goes on from there, and nobody does it twice.
        editor = editor_of(store)
        again = editor.change(SHOP, None, WHO, "again", editor.move_release(move))
        if now == OLD:
            assert await again == 4
        else:
            with pytest.raises(RefusedMove):
                await again
        assert said(await stored(store)) == NEW[move]
        await store.aclose()
        waits += 1
    assert waits > FEWEST_WAITS
    # How often it waits depends on how soon Redis answers, so in between either may come.
    assert found[0] == OLD
    assert found[-1] == NEW[move]
