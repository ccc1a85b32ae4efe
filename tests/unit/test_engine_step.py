"""What becomes of a release: every state, verdict, gate and circumstance there is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from canary_engine import release
from canary_engine.judge.verdict import Verdict
from canary_engine.model import (
    BUCKETS,
    Policy,
    Release,
    Strategy,
    Version,
    VersionStatus,
)
from canary_engine.plan import (
    Comparison,
    GateKind,
    NoData,
    NoDataAction,
    Plan,
    PlanStep,
    RollbackPlan,
)
from canary_engine.record import PROMOTION, GateState
from canary_engine.release import Move, State
from canary_engine.step import (
    LOW_REQUESTS,
    Action,
    Because,
    Do,
    Look,
    NoPlan,
    current_step,
    next_weight,
    step,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = START + timedelta(hours=1)
PLAN = Plan(
    steps=(
        PlanStep(weight=5_000, hold="30m", min_samples=100),
        PlanStep(weight=25_000, hold="30m", min_samples=1_000),
        PlanStep(weight=50_000, hold="30m", min_samples=1_000),
    )
)
OPEN = (GateState(weight=25_000, kind=GateKind.APPROVAL, is_open=True),)
SHUT = (GateState(weight=25_000, kind=GateKind.APPROVAL, waits_for="approval by somebody"),)
GOOD = Look(verdict=Verdict.PASS, why="all is well", samples=1_000)
BAD = Look(verdict=Verdict.FAIL, why="too many errors")
IN_FORCE = (State.IN_PROGRESS, State.PAUSED, State.HALTED)
ENDED = (State.COMPLETED, State.ROLLED_BACK, State.ABANDONED)


def policy(share: int = 5_000, plan: Plan | None = PLAN) -> Policy:
    """A release that was started at ``share`` an hour ago."""
    versions = (
        Version(version="v1", status=VersionStatus.STABLE),
        Version(version="v2"),
    )
    return release.start(
        Policy(service_key="shop", versions=versions, plan=plan),
        id="r1", version="v2", share=share, strategy=Strategy.COMBINED, salt="", now=START,
    )  # fmt: skip


def in_state(state: State, share: int = 5_000, plan: Plan = PLAN) -> Policy:
    moves = {
        State.IN_PROGRESS: None,
        State.PAUSED: Move.PAUSE,
        State.HALTED: Move.HALT,
        State.COMPLETED: Move.PROMOTE,
        State.ROLLED_BACK: Move.ROLL_BACK,
        State.ABANDONED: Move.ABANDON,
    }
    move = moves[state]
    found = policy(share, plan)
    return found if move is None else release.BY_MOVE[move](found, START)


def having(found: Policy, **fields: Any) -> Policy:
    return replace(found, release=replace(the_release(found), **fields))


def the_release(found: Policy) -> Release:
    assert found.release is not None
    return found.release


@pytest.mark.parametrize(("state", "verdict"), list(product(State, Verdict)))
def test_every_case_there_is(state: State, verdict: Verdict) -> None:
    for circumstances in product(
        [(), OPEN, SHUT], [True, False], ["0s", "5m"], [None, True, False], ["", "it is locked"],
        ["", "the API server is away"],
    ):  # fmt: skip
        check_case(state, verdict, *circumstances)


def check_case(
    state: State,
    verdict: Verdict,
    gates: tuple[GateState, ...],
    automatic: bool,
    delay: str,
    is_due: bool | None,
    refusal: str,
    mesh: str,
) -> None:
    """What the product promises, told a second time and in another way."""
    plan = replace(PLAN, rollback=RollbackPlan(automatic=automatic, delay=delay))
    found = in_state(state, plan=plan)
    if is_due is not None and state in IN_FORCE:
        due = NOW - timedelta(seconds=1) if is_due else NOW + timedelta(seconds=1)
        found = release.roll_back_later(found, "found before", START, due)
    look = Look(
        verdict=verdict, why="words", samples=1_000, gates=gates, refusal=refusal, mesh=mesh
    )
    done = step(found, look, NOW)

    assert done.why
    if state in ENDED:
        assert done.do is Do.STAY
    elif is_due is not None:
        assert done.do is (Do.ROLL_BACK if is_due else Do.STAY)
        assert "found before" in done.why
    elif verdict is Verdict.FAIL and automatic:
        assert done.do is (Do.ROLL_BACK if delay == "0s" else Do.ROLL_BACK_LATER)
        assert (done.why, done.delay_s) == ("words", 0 if delay == "0s" else 300)
    elif verdict is Verdict.FAIL:
        assert done.do is (Do.PAUSE if state is State.IN_PROGRESS else Do.STAY)
    elif refusal and state is not State.HALTED:
        assert (done.do, done.why) == (Do.HALT, refusal)
    elif state is State.IN_PROGRESS and verdict is Verdict.PASS and mesh:
        assert (done.do, done.because, done.why) == (Do.WAIT, Because.MESH, mesh)
    elif state is State.IN_PROGRESS and verdict is Verdict.PASS and gates != SHUT:
        assert (done.do, done.share, done.control) == (Do.RAISE, 25_000, 75_000)
    elif state is State.IN_PROGRESS and verdict is Verdict.PASS:
        assert (done.do, done.why) == (Do.WAIT, "approval by somebody")
    else:
        assert done.do is Do.STAY


@pytest.mark.parametrize(
    "share", [0, 1, 4_999, 5_000, 5_001, 25_000, 30_000, 50_000, 70_000, BUCKETS]
)
@pytest.mark.parametrize("verdict", Verdict)
def test_nobody_gets_more_unless_everything_holds_and_never_more_than_the_next_step(
    share: int, verdict: Verdict
) -> None:
    for circumstances in product(
        [-600, 0, 1_799, 1_800, 360_000], [0, 99, 100, 1_000], [(), OPEN, SHUT], ["", "away"]
    ):
        check_gives(share, verdict, *circumstances)


def check_gives(
    share: int,
    verdict: Verdict,
    watched_s: int,
    samples: int,
    gates: tuple[GateState, ...],
    mesh: str,
) -> None:
    found = having(policy(share), weight_since=NOW - timedelta(seconds=watched_s))
    look = Look(verdict=verdict, why="words", samples=samples, gates=gates, mesh=mesh)
    done = step(found, look, NOW)
    wanted = {0: 0, 1: 100, 4_999: 100, 5_000: 100, 5_001: 100}.get(share, 1_000)
    may = gates != SHUT and watched_s >= 1_800 and not mesh
    if share:
        may = may and verdict is Verdict.PASS and samples >= wanted
    else:
        may = may and verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
    gives = done.do in (Do.RAISE, Do.PROMOTE)
    assert gives == may
    if done.do is Do.RAISE:
        assert done.share == next(s.weight for s in PLAN.steps if s.weight > share)
    elif done.do is Do.PROMOTE:
        assert share >= 50_000
    else:
        assert done.share in (None, share)


def test_a_release_that_was_started_at_zero_gets_its_first_users_as_soon_as_its_gates_hold() -> (
    None
):
    found = policy(0)
    look = Look(verdict=Verdict.INCONCLUSIVE, gates=SHUT)
    assert step(found, look, START).do is Do.WAIT
    assert step(found, replace(look, gates=OPEN), START).share == 5_000


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.INCONCLUSIVE])
def test_no_release_begins_while_a_limit_is_broken_if_only_for_a_moment(verdict: Verdict) -> None:
    cpu = "cpu of the canary is 95 %"
    look = Look(verdict=verdict, why=cpu, gates=OPEN, broken=cpu)
    action = step(policy(share=0), look, NOW)
    assert (action.do, action.because) == (Do.STAY, Because.INCONCLUSIVE)
    assert action.why == cpu


def test_no_release_begins_while_a_source_of_metrics_is_down() -> None:
    assert step(policy(0), Look(verdict=Verdict.ERROR, no_data_s=99_999), NOW).do is Do.STAY


def test_one_that_a_person_took_to_zero_stays_there_for_the_time_of_a_step() -> None:
    found = release.set_percentage(policy(5_000), 0, NOW)
    look = Look(verdict=Verdict.INCONCLUSIVE)
    stays = step(found, look, NOW + timedelta(minutes=29))
    assert (stays.do, stays.because) == (Do.STAY, Because.HOLDING)
    assert step(found, look, NOW + timedelta(minutes=30)).do is Do.RAISE


def test_the_step_follows_from_the_share_wherever_a_person_put_it() -> None:
    places = {share: current_step(PLAN, share) for share in (0, 4_999, 5_000, 30_000, 99_999)}
    assert [found and found.weight for found in places.values()] == [
        None, None, 5_000, 25_000, 50_000,
    ]  # fmt: skip
    following = [next_weight(PLAN, share) for share in places]
    assert following == [5_000, 5_000, 25_000, 50_000, PROMOTION]


def test_a_step_above_the_maximum_is_never_taken() -> None:
    assert next_weight(replace(PLAN, max_weight=30_000), 25_000) == PROMOTION


def test_the_last_step_ends_in_the_promotion_or_waits_for_a_person_to_promote() -> None:
    found = policy(50_000)
    assert step(found, GOOD, NOW).do is Do.PROMOTE
    by_hand = step(replace(found, plan=replace(PLAN, promote=False)), GOOD, NOW)
    assert (by_hand.do, by_hand.because) == (Do.WAIT, Because.LAST_STEP)


@pytest.mark.parametrize("state", IN_FORCE)
@pytest.mark.parametrize("action", NoDataAction)
def test_what_follows_when_there_is_no_data_for_long_is_as_the_plan_says(
    state: State, action: NoDataAction
) -> None:
    plan = replace(PLAN, no_data=NoData(action=action, after="15m"))
    found = in_state(state, plan=plan)
    look = Look(verdict=Verdict.ERROR, why="Prometheus is gone", no_data_s=899)
    assert step(found, look, NOW).do is Do.STAY
    done = step(found, replace(look, no_data_s=900), NOW).do
    follows = {
        NoDataAction.HOLD: Do.STAY,
        NoDataAction.PAUSE: Do.PAUSE if state is State.IN_PROGRESS else Do.STAY,
        NoDataAction.HALT: Do.HALT,
        NoDataAction.ROLL_BACK: Do.ROLL_BACK,
    }
    assert done is (Do.STAY if state is State.HALTED else follows[action])


def test_a_release_that_was_just_resumed_gets_the_whole_time_again() -> None:
    plan = replace(PLAN, no_data=NoData(action=NoDataAction.PAUSE))
    found = having(policy(plan=plan), weight_since=NOW - timedelta(minutes=14))
    assert step(found, Look(verdict=Verdict.ERROR, no_data_s=9_999), NOW).do is Do.STAY


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_all_who_lost_the_draw_stand_for_stable_while_traffic_is_low(verdict: Verdict) -> None:
    low = Look(verdict=verdict, requests_per_check=LOW_REQUESTS - 1)
    done = step(policy(), low, NOW)
    assert (done.do, done.share, done.control) == (Do.WIDEN, 5_000, 95_000)
    wide = having(policy(), control=95_000)
    assert step(wide, low, NOW).do is Do.STAY
    assert step(policy(), replace(low, requests_per_check=LOW_REQUESTS), NOW).do is Do.STAY
    assert step(policy(), replace(low, requests_per_check=None), NOW).do is Do.STAY


def test_control_is_widened_only_where_somebody_is_compared() -> None:
    low = Look(verdict=Verdict.INCONCLUSIVE, requests_per_check=1)
    apart = replace(PLAN, comparison=Comparison(enabled=False))
    assert step(policy(plan=apart), low, NOW).do is Do.STAY
    assert step(policy(0), low, START).control == 20_000
    assert step(in_state(State.HALTED), low, NOW).do is Do.STAY


def test_a_raise_takes_the_control_that_the_traffic_of_the_next_step_needs() -> None:
    plan = replace(PLAN, steps=(PlanStep(weight=1_000), PlanStep(weight=2_000)))
    look = replace(GOOD, requests_per_check=LOW_REQUESTS / 2)
    enough = step(policy(1_000, plan), look, NOW)
    assert (enough.do, enough.share, enough.control) == (Do.RAISE, 2_000, 8_000)
    few = step(policy(1_000, plan), replace(look, requests_per_check=LOW_REQUESTS / 3), NOW)
    assert (few.do, few.share, few.control) == (Do.RAISE, 2_000, 98_000)


def test_a_release_without_a_plan_is_nobodys_but_peoples() -> None:
    with pytest.raises(NoPlan):
        step(policy(plan=None), GOOD, NOW)
    with pytest.raises(NoPlan):
        step(Policy(service_key="shop", plan=PLAN), GOOD, NOW)


def test_only_what_changes_the_policy_is_a_write() -> None:
    writes = {do for do in Do if Action(do=do, because=Because.HOLDING, why="w").is_write}
    assert writes == set(Do) - {Do.STAY, Do.WAIT}
