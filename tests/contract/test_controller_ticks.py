"""Single ticks of a controller on the real editor: what one finding must not do to the next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random

import pytest
from canary_controller.errors import AdminError, Refused, Unreachable, Unreadable
from canary_controller.slots import slot_of
from canary_engine import parse
from canary_engine.judge.verdict import Verdict
from canary_engine.model import ReleaseStatus, Strategy
from canary_engine.plan import Plan, PlanStep, RollbackPlan
from canary_engine.release import Move
from canary_engine.step import Do
from support.controller_world import Machine, World

PLAN = Plan(steps=(PlanStep(weight=5_000, hold="0s"), PlanStep(weight=25_000, hold="1h")))
BY_HAND = replace(PLAN, rollback=RollbackPlan(automatic=False))


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    return World(getattr(request, "param", PLAN), 5_000)


@pytest.fixture
async def machine(world: World) -> AsyncIterator[Machine]:
    await world.begin()
    machine = Machine(world, "one", Random(1))
    machine.wire.is_faulty = False
    yield machine
    await machine.crash()


async def second(world: World, machine: Machine, seconds: float = 1) -> None:
    world.passed_s += seconds
    await machine.tick()


async def test_a_raise_that_was_refused_does_not_hold_up_the_rollback(
    world: World, machine: Machine
) -> None:
    world.refused[Do.RAISE] = "a freeze is in force"
    await machine.tick()
    record = world.records[world.release.id]
    assert (world.release.share, record.waits_for) == (
        5_000, "raise was refused: a freeze is in force"
    )  # fmt: skip
    world.verdict = Verdict.FAIL
    await second(world, machine, 5)
    assert world.release.status is ReleaseStatus.ROLLED_BACK


async def test_what_was_refused_is_not_waited_for_any_more_once_it_is_not_wanted(
    world: World, machine: Machine
) -> None:
    world.refused[Do.RAISE] = "a freeze is in force"
    await machine.tick()
    world.verdict = Verdict.INCONCLUSIVE
    await second(world, machine, 5)
    assert world.records[world.release.id].waits_for == "as the world says"


@pytest.mark.parametrize("world", [BY_HAND], indirect=True)
async def test_who_resumes_a_release_has_it_judged_anew_at_once(
    world: World, machine: Machine
) -> None:
    """And not by what was found before, however short a time ago that was."""
    world.verdict = Verdict.FAIL
    await machine.tick()
    assert [one.write.action.do for one in world.accepted] == [Do.PAUSE]
    world.verdict = Verdict.INCONCLUSIVE
    await world.person(lambda editor: editor.move_release(Move.RESUME))
    await second(world, machine)
    assert world.release.status is ReleaseStatus.IN_PROGRESS


async def test_a_clock_that_was_ahead_for_a_while_leaves_no_release_unseen(
    world: World, machine: Machine
) -> None:
    world.verdict = Verdict.INCONCLUSIVE
    await machine.tick()
    world.jumped_s = 3_600
    await second(world, machine)
    world.jumped_s = 0
    for _ in range(10):
        await second(world, machine, 3)
    assert world.looked is not None
    assert [slot.start_s // 10 for slot in world.looked.recent][-1] == slot_of(world.now)


async def test_a_record_that_cannot_be_written_keeps_nobody_from_being_asked_and_told(
    world: World, machine: Machine
) -> None:
    world.mistake = ValueError("half of a character")
    await machine.tick()
    assert not machine.is_well
    assert machine.webhooks.asked == 1
    world.mistake = None
    await second(world, machine)
    assert machine.is_well


@pytest.mark.parametrize("refused", [Refused("no token"), Unreachable("too late")])
async def test_a_record_that_could_not_be_had_is_not_written_over(
    world: World, machine: Machine, refused: AdminError
) -> None:
    await machine.tick()
    kept = world.records[world.release.id]
    await machine.crash()
    world.unread = refused
    await second(world, machine, 20)
    assert world.records[world.release.id] == kept
    world.unread = None
    await second(world, machine)
    assert world.records[world.release.id].events[: len(kept.events)] == kept.events
    assert kept.events


async def test_a_record_that_is_spoilt_is_begun_anew(world: World, machine: Machine) -> None:
    await machine.tick()
    await machine.crash()
    world.unread = Unreadable("it is no record")
    await second(world, machine, 20)
    assert world.records[world.release.id].fence == 2


async def test_a_release_that_gives_way_to_the_next_leaves_its_report_and_a_closed_record(
    world: World, machine: Machine
) -> None:
    """Whoever starts another within the minute does not have the end verified, but told of."""
    await machine.tick()
    await world.person(lambda editor: editor.move_release(Move.ABANDON))
    await world.person(lambda editor: editor.start_release("v2", 5_000, Strategy.COMBINED, ""))
    await second(world, machine)
    (left,) = [r for key, r in world.records.items() if key != world.release.id]
    assert machine.reports.reported == [left.release_id] == ["r-1"]
    assert left.is_closed
    assert (left.events[-1].what, left.events[-1].why) == ("succeeded", "another was started")
    await second(world, machine)
    assert machine.reports.reported == ["r-1"]


@pytest.mark.parametrize("world", [BY_HAND], indirect=True)
async def test_whose_plan_is_removed_is_left_to_people_and_nothing_of_it_lasts(
    world: World, machine: Machine
) -> None:
    """Else its alerts would stay open, and it would wait at gates that are no more."""
    world.verdict = Verdict.FAIL
    for _ in range(2):
        await second(world, machine, 5)
    assert "paused" in {a.key for a in world.records["r-1"].alerts if a.is_open}
    unplanned = {key: value for key, value in parse.document(world.policy).items() if key != "plan"}
    await world.change("kim", lambda _: unplanned)
    await second(world, machine)
    left = world.records["r-1"]
    assert not [alert.key for alert in left.alerts if alert.is_open]
    assert (left.events[-1].what, left.waits_for, left.gates) == ("plan-removed", "", ())
    assert not left.is_closed


async def test_who_hears_nothing_of_an_end_has_the_report_at_once_and_the_record_stays_open(
    world: World, machine: Machine
) -> None:
    """Gateways tell of stable only where they are asked to, so nothing may ever be heard."""
    world.counted = []
    await machine.tick()
    await world.person(lambda editor: editor.move_release(Move.ROLL_BACK))
    for seconds in (1, 62, 1, 1):
        await second(world, machine, seconds)
    record = world.records[world.release.id]
    assert record.events[-1].what == "unheard"
    assert machine.reports.reported == [record.release_id]
    assert not record.is_closed
    for seconds in (601, 1, 1):
        await second(world, machine, seconds)
    assert world.records[world.release.id].is_closed
    assert machine.reports.reported == [record.release_id] * 2
