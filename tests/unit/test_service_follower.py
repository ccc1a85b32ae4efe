"""Following the store: no answer that came late, no error and no bug ends it or sets it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from canary_engine import parse
from decision_svc.follower import Follower, cancel
from decision_svc.metrics import Metrics
from decision_svc.people import People
from decision_svc.snapshot import Snapshot
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import (
    UNREACHABLE,
    UNREADABLE,
    ChangeRecord,
    Document,
    StoreError,
    StoreUnavailable,
)
from structlog.testing import capture_logs
from support.calls import until_so

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Store(MemoryStore):
    """A store whose answers can be held back, and whose calls can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()
        self.answers.set()
        self.failure: Exception | None = None
        self.spoiled: set[str] = set()

    async def revisions(self) -> Mapping[str, int]:
        found = await super().revisions()
        await self._answer()
        return found

    async def load(self, service_key: str, revision: int | None = None) -> Document | None:
        found = await super().load(service_key, revision)
        await self._answer()
        if service_key in self.spoiled:
            raise StoreError("it holds something that is not JSON")
        return found

    async def watch(self) -> AsyncGenerator[str, None]:
        await self._answer()
        async for service_key in super().watch():
            await self._answer()
            yield service_key

    async def _answer(self) -> None:
        await self.answers.wait()
        if self.failure:
            raise self.failure


class Parts:
    """A follower and what it tells."""

    def __init__(self) -> None:
        self.store, self.snapshot, self.metrics = Store(), Snapshot(), Metrics()
        self.states: list[bool] = []
        self.people = People(self.store, clock=lambda: 0.0, max_age_s=60, deadline_s=1)
        self.follower = Follower(
            self.store, self.store, self.snapshot, self.people, self.metrics,
            compare_every_s=0, on_store_state=self._tell,
        )  # fmt: skip

    async def _tell(self, up: bool) -> None:
        self.states.append(up)

    async def save(self, revision: int, service_key: str = "shop", **more: Any) -> Document:
        document = {"service_key": service_key, "revision": revision, **more}
        record = ChangeRecord(revision=revision, actor="a", at=NOW, reason="r", summary="s")
        await self.store.save(service_key, document, record)
        return document

    @asynccontextmanager
    async def following(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.follower.run())
        yield task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def has(self, revision: int, service_key: str = "shop") -> None:
        await until_so(lambda: self.snapshot.revision(service_key) == revision)


async def test_a_load_that_a_newer_write_overtook_does_not_set_the_snapshot_back() -> None:
    parts = Parts()
    await parts.save(1)
    await parts.follower.compare()
    await parts.save(2)
    parts.store.answers.clear()
    comparing = asyncio.create_task(parts.follower.compare())
    await asyncio.sleep(0)
    # Meanwhile this replica writes revision 3 itself; the answer under way says less.
    parts.snapshot.put(parse.policy(await parts.save(3)))
    with capture_logs() as logs:
        parts.store.answers.set()
        await comparing
    assert parts.snapshot.revision("shop") == 3
    assert logs == []


async def test_two_loads_that_answer_in_the_wrong_order_leave_the_newer_revision() -> None:
    parts = Parts()
    await parts.save(1)
    parts.store.answers.clear()
    old = asyncio.create_task(parts.follower._bring("shop"))
    await asyncio.sleep(0)
    document = await parts.save(2)
    parts.snapshot.put(parse.policy(document))
    parts.store.answers.set()
    await old
    assert parts.snapshot.revision("shop") == 2


async def test_a_policy_that_comes_while_the_store_is_asked_is_not_taken_for_lost() -> None:
    parts = Parts()
    parts.store.answers.clear()
    comparing = asyncio.create_task(parts.follower.compare())
    await asyncio.sleep(0)
    parts.snapshot.put(parse.policy(await parts.save(1)))
    with capture_logs() as logs:
        parts.store.answers.set()
        await comparing
    assert logs == []
    assert parts.snapshot.revision("shop") == 1


@pytest.mark.parametrize("failure", [StoreUnavailable("gone"), ValueError("a bug")])
async def test_whatever_fails_following_goes_on_and_the_store_counts_as_down_meanwhile(
    failure: Exception,
) -> None:
    parts = Parts()
    await parts.save(1)
    with capture_logs() as logs:
        async with parts.following() as task:
            await parts.has(1)
            parts.store.failure = failure
            await until_so(lambda: not parts.people.is_store_up)
            parts.store.failure = None
            await parts.save(2)
            await parts.has(2)
            await until_so(lambda: parts.people.is_store_up)
            assert not task.done()
    assert parts.states == [True, False, True]
    lost = [line for line in logs if line["event"] == "store lost, going on from memory"]
    assert [line["error"] for line in lost] == [str(failure)]
    tracebacks = [line for line in logs if line.get("exc_info")]
    assert bool(tracebacks) is isinstance(failure, ValueError)


class Swallower(Store):
    """Loses the first cancellation, as asyncio.wait_for does in Python 3.11."""

    is_asked = False
    has_swallowed = False

    async def revisions(self) -> Mapping[str, int]:
        self.is_asked = True
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.has_swallowed:
                raise
            self.has_swallowed = True
        return {}


async def test_following_ends_when_it_is_told_to_though_a_cancellation_is_lost() -> None:
    store, snapshot, metrics = Swallower(), Snapshot(), Metrics()
    people = People(store, clock=lambda: 0.0, max_age_s=60, deadline_s=1)
    parts = Parts()
    follower = Follower(
        store, store, snapshot, people, metrics,
        compare_every_s=0, on_store_state=parts._tell,
    )  # fmt: skip
    task = asyncio.create_task(follower.run())
    await until_so(lambda: store.is_asked)
    async with asyncio.timeout(10):
        await cancel(task)
    assert task.cancelled()
    assert store.has_swallowed


async def test_cancelling_goes_on_though_whoever_cancels_is_cancelled_too() -> None:
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while lost < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
        await asyncio.Event().wait()

    loop = asyncio.create_task(stubborn())
    canceller = asyncio.create_task(cancel(loop))
    for told in (1, 2):
        await until_so(lambda told=told: lost >= told)  # type: ignore[misc]
        canceller.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([canceller])
    assert loop.cancelled()
    assert canceller.cancelled()


async def test_one_spoiled_policy_does_not_keep_the_others_from_being_followed() -> None:
    parts = Parts()
    await parts.save(1, "a")
    await parts.save(1, "z")
    parts.store.spoiled.add("a")
    async with parts.following():
        await parts.has(1, "z")
        parts.store.spoiled.clear()
        await parts.has(1, "a")


async def test_a_set_back_store_makes_copies_of_memberships_invalid() -> None:
    parts = Parts()
    first = await parts.save(1, membership_epoch=1)
    await parts.follower.compare()
    policy = parse.policy(first)
    await parts.people.read(policy, "u")
    # What is held here is newer than all the store has.
    parts.snapshot.put(parse.policy({"service_key": "shop", "revision": 9}))
    assert parts.people.copy(policy, "u") is not None
    await parts.follower.compare()
    assert parts.snapshot.revision("shop") == 1
    assert parts.people.copy(policy, "u") is None


async def test_a_revision_that_is_not_a_number_is_told_once_and_the_others_are_brought(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = Parts()
    await parts.save(1)
    await parts.save(1, "zoo")
    await parts.follower.compare()
    await parts.save(2)
    await parts.save(2, "zoo")

    async def revisions() -> dict[str, int]:
        return {"shop": UNREADABLE, "zoo": 2}

    monkeypatch.setattr(parts.store, "revisions", revisions)
    with capture_logs() as logs:
        await parts.follower.compare()
        await parts.follower.compare()
    assert (parts.snapshot.revision("shop"), parts.snapshot.revision("zoo")) == (1, 2)
    assert [(line["service_key"], line["event"]) for line in logs] == [
        ("shop", "stored policy is invalid")
    ]


async def test_of_a_store_that_is_partly_gone_the_rest_is_followed_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = Parts()
    await parts.save(1)
    await parts.save(1, "zoo")

    async def revisions() -> dict[str, int]:
        return {"shop": UNREACHABLE, "zoo": 1}

    with monkeypatch.context() as gone:
        gone.setattr(parts.store, "revisions", revisions)
        with capture_logs() as logs:
            assert await parts.follower.compare() == ["shop"]
        assert (parts.snapshot.revision("shop"), parts.snapshot.revision("zoo")) == (0, 1)
        assert not parts.snapshot.is_loaded, "a policy that was never read may still come"
        assert logs == []
    assert await parts.follower.compare() == []
    assert parts.snapshot.revision("shop") == 1
    assert parts.snapshot.is_loaded


async def test_users_are_asked_for_while_a_part_of_the_store_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = Parts()
    await parts.save(1)
    parts.people.is_store_up = False

    async def revisions() -> dict[str, int]:
        return {"shop": UNREACHABLE}

    monkeypatch.setattr(parts.store, "revisions", revisions)
    with capture_logs() as logs:
        async with parts.following():
            await until_so(lambda: parts.states == [False])
    assert parts.people.is_store_up
    assert [line["error"] for line in logs if line["event"].startswith("store lost")] == [
        "no answer about 1 service keys: shop"
    ]
