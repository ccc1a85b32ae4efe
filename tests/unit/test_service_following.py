"""Which releases a controller is told of, for how long, and what it costs to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from canary_engine import parse
from canary_engine.model import Policy
from decision_svc.following import FOLLOWED_FOR, SETTLED_AFTER, Followed, Following, Known
from decision_svc.outcomes.memory import MemoryOutcomes
from decision_svc.records.memory import MemoryRecords
from decision_svc.records.protocol import Record, RecordKey, RecordState
from decision_svc.snapshot import Snapshot

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = RecordKey("shop", "r-1")
PLAN = {"steps": [{"weight": 5}]}


class CountingRecords(MemoryRecords):
    """Counts of how many releases the state was asked for."""

    asked = 0

    async def states(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, RecordState]:
        self.asked += len(keys)
        return await super().states(keys)


class Parts:
    """What follows, and a clock that a test sets."""

    def __init__(self) -> None:
        self.now = START
        self.snapshot, self.records = Snapshot(), CountingRecords()
        self.revision = 0
        outcomes = MemoryOutcomes(lambda: self.now.timestamp())
        self.following = Following(self.snapshot, outcomes, self.records, lambda: self.now)

    def put(self, status: str, *, has_plan: bool = True, service_key: str = "shop") -> Policy:
        self.revision += 1
        is_over = status != "in-progress"
        release: dict[str, Any] = {"id": "r-1", "version": "v2", "status": status, "salt": "s"}
        release["started_at"] = "2026-03-01T11:00:00Z"
        if is_over:
            release["ended_at"] = START.isoformat()
        versions = [
            {"version": "v1", "status": "stable"},
            {"version": "v2", "status": "deprecated" if is_over else "canary"},
        ]
        document = {"service_key": service_key, "revision": self.revision, "release": release}
        plan = {"plan": PLAN} if has_plan else {}
        policy = parse.policy({**document, "versions": versions, **plan})
        self.snapshot.replace(policy)
        return policy

    async def follow(self, **known: Known) -> list[Followed]:
        return [found async for found in self.following.follow(known)]

    async def keys(self) -> list[str]:
        return [found.policy.service_key for found in await self.follow()]

    async def note(self, *, is_closed: bool) -> None:
        await self.records.put(KEY, Record(data=b"", fence=1, is_closed=is_closed))


async def test_releases_in_force_are_told_by_service_key_without_a_look_at_records() -> None:
    parts = Parts()
    for service_key in ("shop", "bakery"):
        parts.put("in-progress", has_plan=False, service_key=service_key)
    assert await parts.keys() == ["bakery", "shop"]
    assert parts.records.asked == 0


async def test_a_policy_is_new_at_any_other_revision_for_a_store_may_be_set_back() -> None:
    parts = Parts()
    parts.put("in-progress")
    for revision, is_new in ((0, True), (1, False), (2, True)):
        (found,) = await parts.follow(shop=Known(revision=revision))
        assert found.is_new is is_new


async def test_what_has_settled_is_asked_for_no_more() -> None:
    parts = Parts()
    parts.put("rolled-back")
    await parts.note(is_closed=True)
    assert await parts.keys() == []
    assert await parts.keys() == []
    assert parts.records.asked == 1


async def test_a_release_that_is_brought_back_is_followed_to_its_next_end() -> None:
    parts = Parts()
    parts.put("rolled-back")
    await parts.note(is_closed=True)
    assert await parts.keys() == []
    parts.put("in-progress")
    assert await parts.keys() == ["shop"]
    await parts.note(is_closed=False)
    parts.put("rolled-back")
    assert await parts.keys() == ["shop"]


async def test_a_release_without_a_plan_may_be_noted_for_a_while_after_its_end() -> None:
    parts = Parts()
    parts.put("rolled-back", has_plan=False)
    assert await parts.keys() == []
    await parts.note(is_closed=False)
    assert await parts.keys() == ["shop"]


async def test_a_release_without_a_plan_that_nobody_noted_settles() -> None:
    parts = Parts()
    parts.put("rolled-back", has_plan=False)
    parts.now += SETTLED_AFTER + timedelta(seconds=1)
    assert await parts.keys() == []
    assert await parts.keys() == []
    assert parts.records.asked == 1


async def test_nothing_is_followed_for_ever() -> None:
    parts = Parts()
    parts.put("rolled-back")
    parts.now += FOLLOWED_FOR - timedelta(seconds=1)
    assert await parts.keys() == ["shop"]
    parts.now += timedelta(seconds=1)
    assert await parts.keys() == []
