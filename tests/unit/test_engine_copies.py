"""Copies of what a store knows: when they are valid, and what an old one is good for."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest
from canary_engine.copies import Copies, Copy, Known, Ways, reads_persons, ways_of
from canary_engine.decide import CompiledPolicy, decide
from canary_engine.model import (
    UNKNOWN,
    Flag,
    Person,
    PersonNeeded,
    Policy,
    Release,
    ReleaseStatus,
    Request,
    Segment,
    Strategy,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STAFF = Person(listed_in=frozenset({"staff"}))


def policy(epoch: int = 1, *listed: str, service_key: str = "shop") -> Policy:
    segments = tuple(Segment(name=name, canary_eligible=True, listed=True) for name in listed)
    return Policy(service_key=service_key, membership_epoch=epoch, segments=segments)


def known(by: Policy, person: Person = STAFF, *, is_old: bool = False) -> Known:
    return Known(person=person, ways=ways_of(by), is_old=is_old)


def holding(by: Policy) -> Copies:
    copies = Copies(10)
    copies.keep(by.service_key, "ann", known(by), copies.heard)
    return copies


def test_the_ways_are_the_epoch_and_the_listed_segments_in_any_order() -> None:
    criteria = Segment(name="vip", canary_eligible=False)
    mixed = Policy(service_key="shop", segments=(*policy(1, "a", "b").segments, criteria))
    assert ways_of(mixed) == Ways(0, frozenset({"a", "b"}))
    assert ways_of(policy(1, "a", "b")) == ways_of(policy(1, "b", "a"))


def test_a_copy_is_valid_for_its_own_ways_service_key_and_user() -> None:
    copies = holding(policy(1, "staff"))
    assert copies.valid(policy(1, "staff"), "ann") == STAFF
    for other in (
        policy(2, "staff"),
        policy(0, "staff"),
        policy(1),
        policy(1, "staff", "more"),
        policy(1, "staff", service_key="other"),
    ):
        assert copies.valid(other, "ann") is None
    assert copies.valid(policy(1, "staff"), "bob") is None
    assert copies.valid(policy(1, "staff"), "ann") == STAFF


def test_an_announcement_makes_the_copies_of_its_users_old_and_no_others() -> None:
    by = policy()
    copies = holding(by)
    copies.outdate(["bob"])
    assert copies.valid(by, "ann") == STAFF
    copies.outdate(["bob", "ann"])
    assert copies.valid(by, "ann") is None
    copies.keep("shop", "ann", known(by), copies.heard)
    assert copies.valid(by, "ann") == STAFF
    copies.outdate_all()
    assert copies.valid(by, "ann") is None


@pytest.mark.parametrize("is_for_all", [False, True])
def test_what_was_asked_before_an_announcement_is_old_when_it_comes(is_for_all: bool) -> None:
    by, copies = policy(), Copies(10)
    asked = copies.heard
    if is_for_all:
        copies.outdate_all()
    else:
        copies.outdate(["ann"])
    copies.keep("shop", "ann", known(by), asked)
    assert copies.valid(by, "ann") is None
    assert copies.at_best(by, "ann") == STAFF


def test_a_copy_is_valid_for_as_long_as_was_said() -> None:
    by, copies = policy(), Copies(10, max_age_s=60)
    copies.keep("shop", "ann", known(by), 0, now=1_000.0)
    assert copies.valid(by, "ann", 1_059.9) == STAFF
    assert copies.valid(by, "ann", 1_060.0) is None
    assert copies.at_best(by, "ann") == STAFF


def test_without_a_bound_age_makes_no_copy_old() -> None:
    assert holding(policy()).valid(policy(), "ann", 1e12) == STAFF


def test_nothing_is_kept_of_somebody_who_could_not_be_asked_for() -> None:
    by, copies = policy(), holding(policy())
    copies.keep("shop", "ann", known(by, UNKNOWN), 0)
    copies.keep("shop", "bob", known(by, UNKNOWN), 0)
    assert copies.valid(by, "ann") == STAFF
    assert copies.known(by, "bob") is None
    assert copies.at_best(by, "bob") == UNKNOWN


def test_what_was_told_as_old_is_better_than_nothing_and_not_than_a_copy() -> None:
    by, copies = policy(), holding(policy())
    older = Person(listed_in=frozenset({"former"}))
    for user in ("ann", "bob"):
        copies.keep("shop", user, known(by, older, is_old=True), copies.heard)
    assert copies.valid(by, "ann") == STAFF
    assert copies.valid(by, "bob") is None
    assert copies.at_best(by, "bob") == older
    copies.keep("shop", "bob", known(by), copies.heard)
    assert copies.valid(by, "bob") == STAFF


def test_an_old_copy_does_not_say_that_somebody_is_in_no_segment_that_it_never_looked_at() -> None:
    copies = holding(policy(1, "staff"))
    assert copies.at_best(policy(2, "staff"), "ann") == STAFF
    assert copies.at_best(policy(2), "ann") == STAFF
    partly = copies.at_best(policy(2, "staff", "vip"), "ann")
    assert partly == Person(listed_in=STAFF.listed_in, is_known=False)


def test_what_is_told_to_others_names_its_ways_and_whether_it_is_old() -> None:
    copies = holding(policy(1, "staff"))
    assert copies.known(policy(1, "staff"), "ann") == known(policy(1, "staff"))
    assert copies.known(policy(2, "staff"), "ann") == known(policy(1, "staff"), is_old=True)
    copies.outdate(["ann"])
    assert copies.known(policy(1, "staff"), "ann") == known(policy(1, "staff"), is_old=True)


def test_the_copies_kept_longest_ago_go_first() -> None:
    by, copies = policy(), Copies(3)
    for user in ("a", "b", "c", "a", "d"):
        copies.keep("shop", user, known(by), 0)
    assert [user for user in "abcd" if copies.valid(by, user)] == ["a", "c", "d"]
    assert len(copies) == 3


def test_announcements_are_bounded_and_never_forgotten() -> None:
    by, copies = policy(), Copies(3)
    copies.keep("shop", "ann", known(by), copies.heard)
    copies.outdate(["ann"])
    for number in range(10):
        copies.outdate([f"user-{number}"])
        assert copies.valid(by, "ann") is None
        assert len(copies._announced) <= 3


def test_a_change_of_policies_between_questions_is_not_mistaken_for_the_last_one() -> None:
    copies = holding(policy(1, "staff"))
    for epoch in (1, 2, 1, 2):
        found = copies.valid(policy(epoch, "staff"), "ann")
        assert found == (STAFF if epoch == 1 else None)


@given(
    asked=st.integers(0, 3),
    announced=st.integers(0, 3),
    expires=st.integers(0, 3),
    now=st.integers(0, 3),
    is_same=st.booleans(),
)
def test_a_copy_is_valid_if_nothing_speaks_against_it(
    asked: int, announced: int, expires: int, now: int, is_same: bool
) -> None:
    ways = Ways(1, frozenset({"a"}))
    copy = Copy(STAFF, ways, asked, expires)
    others = ways if is_same else Ways(1, frozenset({"b"}))
    is_valid = copy.is_valid(others, announced, now)
    assert is_valid == (is_same and announced <= asked and now < expires)


SEGMENT = Segment(name="staff", canary_eligible=True, listed=True)
FLAGS = {
    "none": (),
    "off": (Flag(name="f", enabled=False, segments=("staff",)),),
    "on": (Flag(name="f", enabled=True, segments=("staff",)),),
    "for users only": (Flag(name="f", enabled=True, users=("ann",)),),
}


@pytest.mark.parametrize("strategy", Strategy)
def test_a_policy_reads_persons_exactly_where_a_decision_may_need_one(strategy: Strategy) -> None:
    request = Request(headers={"x-user-id": "bob"}, flags=("f",))
    for segments, flags, status, halted in product(
        ((), (SEGMENT,)), FLAGS.values(), ReleaseStatus, (False, True)
    ):
        release = Release(
            id="r", version="v2", status=status, share=0, strategy=strategy, salt="s", halted=halted
        )
        by = Policy(service_key="shop", release=release, segments=segments, flags=flags)
        needs = isinstance(decide(CompiledPolicy(by), request, None, NOW), PersonNeeded)
        assert reads_persons(by) == needs
    assert not reads_persons(Policy(service_key="shop"))
