"""Every decision is settled once or lost; what is counted is bounded and never silently gone."""

from __future__ import annotations

from typing import Any

import pytest
from canary_engine.model import Variant
from canary_engine.outcomes import Labels
from canary_plugin.outcomes.aggregate import KEPT_S, MAX_BATCH, SLOT_S, Aggregate, Uncounted
from canary_plugin.outcomes.ledger import Ledger
from canary_plugin.outcomes.lines import Line
from canary_plugin.troubles import Troubles
from hypothesis import given
from hypothesis import strategies as st

CANARY = Labels("orders", "v2", Variant.CANARY, "r1")
STABLE = Labels("orders", "v1", Variant.STABLE, "r1")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Accounts:
    """A ledger and its aggregate on a clock of the test's."""

    def __init__(self, max_entries: int = 100, **limits: Any) -> None:
        self.clock = Clock()
        self.aggregate = Aggregate(self.clock, max_entries=max_entries)
        self.troubles = Troubles(self.clock)
        self.ledger = Ledger(self.aggregate, self.troubles, self.clock, **limits)

    def hear(self, decision: str, status: int = 200) -> None:
        self.ledger.settle(Line(status, 5_000, 4_000, decision))


def test_an_outcome_belongs_to_the_decision_that_it_names() -> None:
    accounts = Accounts()
    canary, stable = accounts.ledger.expect(CANARY), accounts.ledger.expect(STABLE)
    accounts.hear(stable, 200)
    accounts.hear(canary, 503)
    batch = accounts.aggregate.take()
    assert batch is not None
    found = {entry.labels: dict(entry.tally.statuses) for entry in batch.entries}
    assert found == {CANARY: {503: 1}, STABLE: {200: 1}}
    assert not batch.uncounted
    assert len(accounts.ledger) == 0


def test_a_decision_is_settled_once() -> None:
    accounts = Accounts()
    decision = accounts.ledger.expect(CANARY)
    accounts.hear(decision)
    accounts.hear(decision)
    batch = accounts.aggregate.take()
    assert batch is not None
    assert [entry.tally.requests for entry in batch.entries] == [1]
    assert batch.uncounted == {Uncounted.FOREIGN: 1}


def test_what_no_tally_holds_is_counted_by_why() -> None:
    accounts = Accounts()
    accounts.hear("")
    accounts.hear("forged")
    accounts.ledger.hear(b"\xff")
    batch = accounts.aggregate.take()
    assert batch is not None
    assert batch.uncounted == {
        Uncounted.UNLABELLED: 1,
        Uncounted.FOREIGN: 1,
        Uncounted.GARBAGE: 1,
    }


def test_decisions_cannot_be_guessed_from_one_another() -> None:
    accounts = Accounts()
    ids = {accounts.ledger.expect(CANARY) for _ in range(1_000)}
    assert len(ids) == 1_000
    assert len({id_[:8] for id_ in ids}) > 990


def test_what_is_not_heard_of_in_time_is_lost_and_counted() -> None:
    accounts = Accounts(grace_s=60)
    accounts.ledger.expect(CANARY)
    accounts.clock.now += 59
    in_time = accounts.ledger.expect(STABLE)
    accounts.clock.now += 1
    accounts.ledger.expire()
    accounts.hear(in_time)
    batch = accounts.aggregate.take()
    assert batch is not None
    assert {e.labels: (e.tally.requests, e.tally.lost) for e in batch.entries} == {
        CANARY: (0, 1),
        STABLE: (1, 0),
    }
    assert accounts.troubles.counts["outcome-lost"] == 1


def test_awaited_decisions_are_bounded_and_the_oldest_is_lost() -> None:
    accounts = Accounts(max_awaited=3)
    first, *others = [accounts.ledger.expect(CANARY) for _ in range(4)]
    for decision in (first, *others):
        accounts.hear(decision)
    batch = accounts.aggregate.take()
    assert batch is not None
    (entry,) = batch.entries
    assert (entry.tally.requests, entry.tally.lost) == (3, 1)
    assert batch.uncounted == {Uncounted.FOREIGN: 1}


def test_nothing_heard_is_nothing_to_tell() -> None:
    assert Accounts().aggregate.take() is None


def test_what_is_taken_is_not_taken_again() -> None:
    accounts = Accounts()
    accounts.hear(accounts.ledger.expect(CANARY))
    first = accounts.aggregate.take()
    accounts.hear(accounts.ledger.expect(CANARY))
    second = accounts.aggregate.take()
    assert first is not None
    assert second is not None
    assert first.id != second.id
    assert [entry.tally.requests for entry in (*first.entries, *second.entries)] == [1, 1]
    assert accounts.aggregate.take() is None


def test_what_is_given_back_merges_with_what_came_since() -> None:
    accounts = Accounts()
    accounts.hear(accounts.ledger.expect(CANARY))
    batch = accounts.aggregate.take()
    assert batch is not None
    accounts.hear(accounts.ledger.expect(CANARY))
    for entry in batch.entries:
        accounts.aggregate.give_back(entry)
    again = accounts.aggregate.take()
    assert again is not None
    assert [entry.tally.requests for entry in again.entries] == [2]


def test_what_waited_longer_than_anybody_keeps_it_is_dropped_and_counted() -> None:
    accounts = Accounts()
    accounts.hear(accounts.ledger.expect(CANARY))
    accounts.clock.now += KEPT_S + 2 * SLOT_S
    batch = accounts.aggregate.take()
    assert batch is not None
    assert (batch.entries, dict(batch.uncounted)) == ((), {Uncounted.DROPPED: 1})


def test_a_batch_is_bounded_and_begins_with_the_oldest() -> None:
    accounts = Accounts(max_entries=10_000)
    for number in range(MAX_BATCH + 1):
        accounts.hear(accounts.ledger.expect(CANARY._replace(version=f"v{number}")))
    accounts.clock.now -= 10 * SLOT_S
    accounts.hear(accounts.ledger.expect(STABLE))
    batch = accounts.aggregate.take()
    assert batch is not None
    assert len(batch.entries) == MAX_BATCH
    assert batch.entries[0].labels == STABLE


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.integers(0, 40)), max_size=200))
def test_requests_are_counted_lost_or_dropped_and_memory_is_bounded(
    events: list[tuple[int, bool, int]],
) -> None:
    accounts = Accounts(max_entries=5, grace_s=20, max_awaited=4)
    for version, is_heard, passed_s in events:
        decision = accounts.ledger.expect(CANARY._replace(version=str(version)))
        if is_heard:
            accounts.hear(decision)
        accounts.clock.now += passed_s
        accounts.ledger.expire()
        assert len(accounts.aggregate) <= 5
        assert len(accounts.ledger) <= 4
    accounts.clock.now += 20
    accounts.ledger.expire()
    batch = accounts.aggregate.take()
    entries = batch.entries if batch else ()
    dropped = batch.uncounted.get(Uncounted.DROPPED, 0) if batch else 0
    known = sum(entry.tally.requests + entry.tally.lost for entry in entries)
    assert known + dropped == len(events)


@pytest.mark.parametrize("age_s", [0, 4, 9, 25, 300])
def test_the_age_of_an_outcome_is_right_to_five_seconds(age_s: int) -> None:
    accounts = Accounts()
    accounts.hear(accounts.ledger.expect(CANARY))
    accounts.clock.now += age_s
    batch = accounts.aggregate.take()
    assert batch is not None
    (entry,) = batch.entries
    assert abs(accounts.aggregate.age_s(entry) - age_s) <= SLOT_S / 2
