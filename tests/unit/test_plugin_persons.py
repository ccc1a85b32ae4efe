"""What a gateway knows of users: heard once, kept until told otherwise, asked for with patience."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from canary_engine.copies import Known, ways_of
from canary_engine.errors import CanaryError
from canary_engine.model import NOBODY, UNKNOWN, Person, Policy, Segment
from canary_plugin.deciders.breaker import MAX_FAILURES, PROBE_EVERY_S, Breaker
from canary_plugin.deciders.persons import Persons

SHOP = Policy(service_key="shop", membership_epoch=1)
STAFF = Person(listed_in=frozenset({"staff"}))


def known(person: Person = STAFF, by: Policy = SHOP, *, is_old: bool = False) -> Known:
    return Known(person=person, ways=ways_of(by), is_old=is_old)


class Service:
    """Answers what it is set to, and can be gone or slow."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Known | None = known()
        self.gate = asyncio.Event()
        self.gate.set()

    async def person(self, service_key: str, user: str, deadline_s: float) -> Known:
        self.asked.append(user)
        answer = self.answer
        await self.gate.wait()
        if answer is None:
            raise CanaryError("it is gone")
        return answer


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def turn() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_person_is_asked_for_once_until_the_service_says_otherwise() -> None:
    service = Service()
    persons = Persons(service.person)
    assert persons.copy(SHOP, "ann") is None
    assert await persons.read(SHOP, "ann", 20) == STAFF
    assert persons.copy(SHOP, "ann") == STAFF
    persons.outdate(["bob"])
    assert persons.at_once(SHOP, "ann") == STAFF
    by_name_and_all: tuple[Callable[[], None], ...] = (
        lambda: persons.outdate(["ann"]),
        persons.outdate_all,
    )
    for outdate in by_name_and_all:
        outdate()
        assert persons.copy(SHOP, "ann") is None
        await persons.read(SHOP, "ann", 20)
        assert persons.copy(SHOP, "ann") == STAFF
    assert persons.copy(Policy(service_key="shop", membership_epoch=2), "ann") is None
    assert service.asked == ["ann"] * 3


async def test_an_answer_by_another_epoch_or_other_segments_is_no_valid_copy() -> None:
    service = Service()
    persons = Persons(service.person)
    vip = Segment(name="vip", canary_eligible=False, listed=True)
    for others in (
        Policy(service_key="shop", membership_epoch=2),
        Policy(service_key="shop", membership_epoch=1, segments=(vip,)),
    ):
        await persons.read(others, "ann", 20)
        assert persons.copy(others, "ann") is None
        assert persons.copy(SHOP, "ann") == STAFF


async def test_a_change_while_a_person_is_asked_for_makes_the_copy_old() -> None:
    service = Service()
    persons = Persons(service.person)
    service.gate.clear()
    before = asyncio.create_task(persons.read(SHOP, "ann", 20))
    await turn()
    persons.outdate(["ann"])
    service.answer = known(NOBODY)
    after = asyncio.create_task(persons.read(SHOP, "ann", 20))
    await turn()
    assert service.asked == ["ann"] * 2, "nobody joins a read from before the change"
    service.gate.set()
    await before
    assert await after == NOBODY


async def test_who_asks_at_once_shares_one_call() -> None:
    service = Service()
    persons = Persons(service.person)
    found = await asyncio.gather(*(persons.read(SHOP, "ann", 20) for _ in range(50)))
    assert found == [STAFF] * 50
    assert service.asked == ["ann"]


async def test_a_store_that_is_down_leaves_the_old_copy_and_strangers_unknown() -> None:
    service = Service()
    persons = Persons(service.person)
    await persons.read(SHOP, "ann", 20)
    persons.outdate_all()
    service.answer = known(UNKNOWN)
    assert await persons.read(SHOP, "ann", 20) == STAFF
    assert persons.copy(SHOP, "ann") is None
    assert await persons.read(SHOP, "bob", 20) == UNKNOWN
    assert len(persons) == 1


async def test_what_the_service_knows_from_before_only_serves_and_is_asked_for_again() -> None:
    service = Service()
    persons = Persons(service.person)
    service.answer = known(is_old=True)
    for _ in range(2):
        assert await persons.read(SHOP, "ann", 20) == STAFF
        assert persons.at_once(SHOP, "ann") is None
    assert service.asked == ["ann"] * 2


async def test_nobody_waits_longer_than_the_deadline() -> None:
    service = Service()
    persons = Persons(service.person)
    service.gate.clear()
    assert await persons.read(SHOP, "late", 0.01) == UNKNOWN
    service.gate.set()
    await turn()
    assert persons.copy(SHOP, "late") == STAFF, "a late answer serves the next who asks"


async def test_after_failures_in_a_row_only_probes_ask_until_one_is_answered() -> None:
    service, clock = Service(), Clock()
    persons = Persons(service.person, clock)
    await persons.read(SHOP, "ann", 20)
    persons.outdate_all()
    service.answer = None
    for _ in range(MAX_FAILURES):
        assert persons.at_once(SHOP, "ann") is None
        assert await persons.read(SHOP, "ann", 20) == STAFF
    before = len(service.asked)
    assert persons.at_once(SHOP, "ann") == STAFF
    assert persons.at_once(SHOP, "bob") == UNKNOWN
    clock.now += PROBE_EVERY_S
    assert persons.at_once(SHOP, "ann") is None, "the probe"
    assert persons.at_once(SHOP, "ann") == STAFF
    assert await persons.read(SHOP, "ann", 20) == STAFF
    assert len(service.asked) == before + 1
    clock.now += PROBE_EVERY_S
    service.answer = known(NOBODY)
    assert persons.at_once(SHOP, "ann") is None
    assert await persons.read(SHOP, "ann", 20) == NOBODY
    assert persons.at_once(SHOP, "bob") is None, "everybody is asked for again"


def test_a_breaker_counts_failures_in_a_row_only() -> None:
    breaker = Breaker(Clock())
    for _ in range(3):
        for _ in range(MAX_FAILURES - 1):
            breaker.failed()
        assert breaker.may_ask()
        breaker.answered()
    for _ in range(MAX_FAILURES):
        breaker.failed()
    assert breaker.is_open
    assert not breaker.may_ask()
