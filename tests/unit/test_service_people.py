"""Copies of what is known of users: one read for many, no old answer to a new question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from canary_engine.model import UNKNOWN, Person, Policy, Profile, Segment
from decision_svc import people as people_module
from decision_svc.people import People
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import StoreUnavailable

PREMIUM = Profile(tier="premium")


class SlowStore(MemoryStore):
    """Reads what is there at once, and answers when the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.members_of: dict[str, frozenset[str]] = {}
        self.reads = 0
        self.is_down = False

    async def listed_in(
        self, service_key: str, user: str, segments: Sequence[str]
    ) -> frozenset[str]:
        return self.members_of.get(user, frozenset()).intersection(segments)

    async def profile(self, user: str) -> Profile | None:
        self.reads += 1
        found = await super().profile(user)
        await self.gate.wait()
        if self.is_down:
            raise StoreUnavailable("it is down")
        return found


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def people(store: SlowStore, clock: Clock) -> People:
    return People(store, clock=clock, max_age_s=60, deadline_s=10)


def policy(epoch: int = 1, *listed: str, service_key: str = "shop") -> Policy:
    segments = tuple(Segment(name=name, canary_eligible=True, listed=True) for name in listed)
    return Policy(service_key=service_key, membership_epoch=epoch, segments=segments)


async def turn() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_many_who_ask_for_one_user_at_once_cause_one_read(
    people: People, store: SlowStore
) -> None:
    found = await asyncio.gather(*(people.read(policy(), "u") for _ in range(50)))
    assert found == [Person()] * 50
    assert store.reads == 1
    await people.read(policy(), "u")
    assert store.reads == 2


async def test_a_read_that_began_before_a_member_was_added_answers_nobody_who_asks_after(
    people: People, store: SlowStore
) -> None:
    store.gate.clear()
    before = asyncio.create_task(people.read(policy(1, "early"), "u"))
    await turn()
    store.members_of["u"] = frozenset(["early"])
    after = asyncio.create_task(people.read(policy(2, "early"), "u"))
    await turn()
    store.gate.set()
    assert (await before).listed_in == frozenset()
    assert (await after).listed_in == {"early"}
    copy = people.copy(policy(2, "early"), "u")
    assert copy is None or copy.listed_in == {"early"}


async def test_a_profile_that_changes_during_a_read_leaves_no_valid_copy_of_the_old_one(
    people: People, store: SlowStore
) -> None:
    store.gate.clear()
    before = asyncio.create_task(people.read(policy(), "u"))
    await turn()
    await store.put_profile("u", PREMIUM)
    people.outdate("u")
    store.gate.set()
    assert (await before).profile == Profile()
    assert people.copy(policy(), "u") is None
    assert (await people.read(policy(), "u")).profile == PREMIUM


async def test_one_who_asks_after_a_profile_changed_does_not_join_the_read_from_before(
    people: People, store: SlowStore
) -> None:
    store.gate.clear()
    before = asyncio.create_task(people.read(policy(), "u"))
    await turn()
    await store.put_profile("u", PREMIUM)
    people.outdate("u")
    after = asyncio.create_task(people.read(policy(), "u"))
    await turn()
    store.gate.set()
    assert (await before).profile == Profile()
    assert (await after).profile == PREMIUM


async def test_an_announced_profile_is_read_anew_for_service_keys_known_by_baseline_only(
    people: People, store: SlowStore
) -> None:
    declared = policy(0, service_key="declared by a gateway")
    await people.read(declared, "u")
    assert people.copy(declared, "u") == Person()
    people.outdate("u")
    assert people.copy(declared, "u") is None


async def test_a_copy_is_valid_for_the_same_segments_and_epoch_until_it_is_old(
    people: People, clock: Clock
) -> None:
    await people.read(policy(1, "a"), "u")
    assert people.copy(policy(1, "a"), "u") == Person()
    assert people.copy(policy(2, "a"), "u") is None
    assert people.copy(policy(1, "b"), "u") is None
    assert people.copy(policy(1, "a"), "other") is None
    clock.now = 59.9
    assert people.copy(policy(1, "a"), "u") == Person()
    clock.now = 60
    assert people.copy(policy(1, "a"), "u") is None


async def test_while_the_store_is_down_any_copy_is_valid(people: People, clock: Clock) -> None:
    await people.read(policy(1), "u")
    people.is_store_up = False
    clock.now = 1_000_000
    assert people.copy(policy(2), "u") == Person()
    assert people.copy(policy(2), "stranger") == UNKNOWN


async def test_a_store_that_fails_leaves_old_copies_and_unknown_strangers(
    people: People, store: SlowStore
) -> None:
    await store.put_profile("u", PREMIUM)
    await people.read(policy(), "u")
    store.is_down = True
    assert await people.read(policy(2), "u") == Person(profile=PREMIUM)
    assert await people.read(policy(2), "stranger") == UNKNOWN


async def test_an_answer_after_the_deadline_is_kept_for_the_next_who_asks(
    store: SlowStore, clock: Clock
) -> None:
    people = People(store, clock=clock, max_age_s=60, deadline_s=0)
    await store.put_profile("u", PREMIUM)
    store.gate.clear()
    assert await people.read(policy(), "u") == UNKNOWN
    store.gate.set()
    await turn()
    assert people.copy(policy(), "u") == Person(profile=PREMIUM)


async def test_one_who_goes_away_takes_the_answer_from_nobody_else(
    people: People, store: SlowStore
) -> None:
    store.gate.clear()
    goes = asyncio.create_task(people.read(policy(), "u"))
    stays = asyncio.create_task(people.read(policy(), "u"))
    await turn()
    goes.cancel()
    store.gate.set()
    assert await stays == Person()
    assert goes.cancelled()


async def test_a_read_that_fails_when_everybody_has_gone_is_no_unhandled_error(
    people: People, store: SlowStore
) -> None:
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, found: unhandled.append(found))
    store.gate.clear()
    goes = asyncio.create_task(people.read(policy(), "u"))
    await turn()
    goes.cancel()
    store.is_down = True
    store.gate.set()
    await turn()
    del goes
    assert unhandled == []


async def test_nothing_is_kept_of_a_read_that_is_over(people: People, store: SlowStore) -> None:
    await people.read(policy(), "u")
    store.is_down = True
    await people.read(policy(2), "u")
    store.gate.clear()
    late = asyncio.create_task(people.read(policy(3), "u"))
    await turn()
    people.outdate_all()
    store.gate.set()
    await late
    await turn()
    assert people._reading == {}


async def test_the_least_recently_read_users_are_forgotten_first(
    store: SlowStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people_module, "MAX_COPIES", 3)
    people = People(store, clock=clock, max_age_s=60, deadline_s=10)
    for user in ("a", "b", "c", "a", "d"):
        await people.read(policy(), user)
    known = [user for user in "abcd" if people.copy(policy(), user)]
    assert known == ["a", "c", "d"]
