"""Alerts: told once while they last and once when they are over, whoever restarts when."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product

import pytest
from canary_engine.alerts import (
    MOST_KEPT,
    QUIET,
    Notice,
    Raised,
    is_all_told,
    notices,
    told,
    updated,
)
from canary_engine.plan import Plan, RollbackPlan
from canary_engine.record import Alert, Severity
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
PLAN = Plan()
CPU = Raised(key="limit:cpu", severity=Severity.WARNING, title="CPU", text="90 %")
MOMENT = Raised(key="promoted", severity=Severity.INFO, title="promoted", is_moment=True)
LATER = replace(CPU, after_s=300)

Alerts = tuple[Alert, ...]


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def tell_all(alerts: Alerts, seconds: float) -> tuple[Alerts, list[tuple[str, bool]]]:
    """The alerts after everybody was told all there is to tell, and what that was."""
    due = notices(alerts, PLAN, at(seconds))
    for notice in due:
        alerts = told(alerts, notice, at(seconds))
    return alerts, [(notice.alert.title, notice.is_over) for notice in due]


def test_an_alert_is_told_once_for_as_long_as_it_lasts() -> None:
    alerts: Alerts = ()
    said = []
    for second in range(0, 100, 10):
        alerts = updated(alerts, [CPU], at(second))
        alerts, now_said = tell_all(alerts, second)
        said += now_said
    assert said == [("CPU", False)]
    assert [alert.since for alert in alerts] == [NOW]


def test_its_end_is_told_once_and_only_when_it_stays_away() -> None:
    alerts, _ = tell_all(updated((), [CPU], NOW), 0)
    alerts = updated(alerts, [], at(10))
    quiet_s = QUIET.total_seconds()
    assert tell_all(alerts, 10 + quiet_s - 1)[1] == []
    alerts, said = tell_all(alerts, 10 + quiet_s)
    assert said == [("CPU", True)]
    assert tell_all(alerts, 10_000)[1] == []
    assert alerts[0].resolved_at == at(10)


def test_what_flickers_is_one_alert() -> None:
    alerts: Alerts = ()
    said = []
    for second in range(0, 600, 5):
        alerts = updated(alerts, [CPU] if second % 2 else [], at(second))
        alerts, now_said = tell_all(alerts, second)
        said += now_said
    assert said == [("CPU", False)]
    assert len(alerts) == 1


def test_what_comes_back_after_its_end_was_told_is_told_anew() -> None:
    alerts, _ = tell_all(updated((), [CPU], NOW), 0)
    alerts, _ = tell_all(updated(alerts, [], at(10)), 100)
    alerts, said = tell_all(updated(alerts, [CPU], at(101)), 101)
    assert said == [("CPU", False)]
    assert [alert.is_open for alert in alerts] == [False, True]


def test_what_must_last_is_told_no_sooner_and_is_forgotten_if_it_does_not() -> None:
    alerts = updated((), [LATER], NOW)
    assert tell_all(updated(alerts, [LATER], at(299)), 299)[1] == []
    assert tell_all(updated(alerts, [LATER], at(300)), 300)[1] == [("CPU", False)]
    assert updated(alerts, [], at(299)) == ()


def test_what_was_due_and_ends_before_anybody_was_told_is_told_once() -> None:
    alerts = updated(updated((), [LATER], NOW), [LATER], at(400))
    alerts, said = tell_all(updated(alerts, [], at(401)), 500)
    assert said == [("CPU", True)]
    assert tell_all(alerts, 600)[1] == []


def test_without_data_an_alert_neither_begins_nor_ends() -> None:
    alerts = updated((), [CPU], NOW)
    unknown = frozenset({CPU.key})
    assert updated(alerts, [], at(10), unknown) == alerts
    assert updated((), [], at(10), unknown) == ()


def test_what_gets_worse_is_told_again_and_what_gets_better_is_not() -> None:
    worse = replace(CPU, severity=Severity.CRITICAL, title="worse")
    alerts, _ = tell_all(updated((), [CPU], NOW), 0)
    alerts, said = tell_all(updated(alerts, [worse], at(1)), 1)
    assert said == [("worse", False)]
    assert tell_all(updated(alerts, [CPU], at(2)), 2)[1] == []


def test_what_people_were_told_is_not_rewritten_behind_their_backs() -> None:
    first = updated((), [CPU], NOW)
    assert updated(first, [replace(CPU, text="91 %")], at(1))[0].text == "91 %"
    heard, _ = tell_all(first, 0)
    assert updated(heard, [replace(CPU, text="91 %")], at(1)) == heard


def test_a_moment_is_told_once_and_has_no_end() -> None:
    alerts: Alerts = ()
    said = []
    for second, raised in product(range(0, 300, 50), ([MOMENT], [])):
        alerts = updated(alerts, raised, at(second))
        alerts, now_said = tell_all(alerts, second)
        said += now_said
    assert said == [("promoted", False)]
    assert len(alerts) == 1
    assert is_all_told(alerts, PLAN)


def test_all_is_told_when_nothing_lasts_and_nothing_is_owed() -> None:
    alerts = updated((), [CPU], NOW)
    assert not is_all_told(alerts, PLAN)
    alerts, _ = tell_all(alerts, 0)
    assert not is_all_told(alerts, PLAN)
    alerts = updated(alerts, [], at(1))
    assert not is_all_told(alerts, PLAN)
    alerts, _ = tell_all(alerts, 100)
    assert is_all_told(alerts, PLAN)


def test_a_clock_that_goes_back_makes_no_moment_of_an_alert() -> None:
    alerts, _ = tell_all(updated((), [CPU], NOW), 0)
    (ended,) = updated(alerts, [], at(-100))
    assert not ended.is_moment
    assert tell_all((ended,), 100)[1] == [("CPU", True)]


def test_alerts_about_rollbacks_go_where_the_plan_says() -> None:
    rollback = replace(MOMENT, key="rollback:done")
    alerts = updated((), [rollback, CPU], NOW)
    channels = Plan(rollback=RollbackPlan(channels=("ops", "mail")))
    assert [n.channels for n in notices(alerts, channels, NOW)] == [("ops", "mail"), ()]
    silent = Plan(rollback=RollbackPlan(notify=False))
    assert [n.alert.key for n in notices(alerts, silent, NOW)] == [CPU.key]
    assert is_all_told(updated((), [rollback], NOW), silent)


def test_old_alerts_are_forgotten_and_those_that_matter_are_not() -> None:
    alerts: Alerts = ()
    for number in range(MOST_KEPT * 2):
        moment = replace(MOMENT, key=f"raised:{number}")
        alerts, _ = tell_all(updated(alerts, [moment, CPU], at(number)), number)
    assert len(alerts) == MOST_KEPT
    assert alerts[0].key == CPU.key
    assert alerts[-1].key == f"raised:{MOST_KEPT * 2 - 1}"


@pytest.mark.parametrize("is_over", [False, True])
def test_only_the_alert_that_was_told_is_told(is_over: bool) -> None:
    old = Alert(key="a", severity=Severity.INFO, title="t", since=NOW, resolved_at=at(1))
    new = replace(old, since=at(100), resolved_at=at(101) if is_over else None)
    after = told((old, new), Notice(alert=new, is_over=is_over), at(200))
    assert after == (old, replace(new, told_at=at(200)))


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([(), (CPU,), (LATER,), (MOMENT,), (CPU, MOMENT)]),
            st.floats(0.1, 200),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_beginnings_and_ends_are_told_in_turn_whatever_happens(
    steps: list[tuple[tuple[Raised, ...], float, bool]],
) -> None:
    alerts: Alerts = ()
    said: list[tuple[str, bool]] = []
    second = 0.0
    for raised, wait_s, somebody_tells in steps:
        second += wait_s
        alerts = updated(alerts, raised, at(second))
        if somebody_tells:
            alerts, now_said = tell_all(alerts, second)
            said += now_said
    ends = [is_over for title, is_over in said if title == "CPU"]
    assert all(one or other for one, other in pairwise(ends))
    assert [title for title, _ in said].count("promoted") <= 1
