"""The life of a release: every state against every move, and what each move changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from canary_engine import parse, release
from canary_engine.errors import CanaryError, RefusedMove
from canary_engine.model import (
    DueRollback,
    Policy,
    Release,
    ReleaseStatus,
    Strategy,
    Tick,
    Version,
    VersionStatus,
)
from canary_engine.plan import ChecklistItem, Comparison, Plan, PlanStep
from canary_engine.release import MOVES, Move, State

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEFORE = datetime(2026, 2, 1, tzinfo=UTC)
RUNNING = Policy(
    service_key="shop",
    revision=7,
    versions=(
        Version(version="v1", status=VersionStatus.STABLE, release_date=BEFORE),
        Version(version="v2", status=VersionStatus.CANARY),
        Version(version="v3"),
    ),
    release=Release(
        id="r1",
        version="v2",
        status=ReleaseStatus.IN_PROGRESS,
        share=5_000,
        salt="spring",
        started_at=BEFORE,
        weight_since=NOW,
        judged_since=NOW,
        due_rollback=DueRollback(why="errors", at=BEFORE, due=NOW),
    ),
)
DO = {
    Move.RAISE: lambda policy: release.set_percentage(policy, 10_000, NOW),
    Move.LOWER: lambda policy: release.set_percentage(policy, 0, NOW),
    Move.PAUSE: lambda policy: release.pause(policy, NOW),
    Move.RESUME: lambda policy: release.resume(policy, NOW),
    Move.HALT: lambda policy: release.halt(policy, NOW),
    Move.PROMOTE: lambda policy: release.promote(policy, NOW),
    Move.ROLL_BACK: lambda policy: release.roll_back(policy, NOW),
    Move.ABANDON: lambda policy: release.abandon(policy, NOW),
    Move.KEEP: lambda policy: release.keep(policy, NOW),
}
ENDED = release.roll_back(RUNNING, NOW)
PROMOTED = release.promote(RUNNING, NOW)
IN_STATE = {
    State.IN_PROGRESS: RUNNING,
    State.PAUSED: release.pause(RUNNING, NOW),
    State.HALTED: release.halt(RUNNING, NOW),
    State.COMPLETED: PROMOTED,
    State.ROLLED_BACK: ENDED,
    State.ABANDONED: release.abandon(RUNNING, NOW),
}
IN_FORCE = [State.IN_PROGRESS, State.PAUSED, State.HALTED]
# Rows: states; columns: raise, lower, pause, resume, halt, promote, roll back, abandon, keep.
SPECIFIED = """
in-progress in-progress in-progress paused - halted completed rolled-back abandoned in-progress
paused      - paused - in-progress halted - rolled-back abandoned paused
halted      - halted - in-progress -      - rolled-back abandoned halted
completed   - - - - - - - - -
rolled-back - - - - - - - - -
abandoned   - - - - - - - - -
"""


def start(policy: Policy, version: str, salt: str = "") -> Policy:
    return release.start(
        policy,
        id="r2",
        version=version,
        share=1_000,
        strategy=Strategy.PERCENTAGE,
        salt=salt,
        now=NOW,
    )


def statuses(policy: Policy) -> dict[str, VersionStatus]:
    return {version.version: version.status for version in policy.versions}


def the_release(policy: Policy) -> Release:
    assert policy.release is not None
    return policy.release


def test_the_table_is_the_specified_one() -> None:
    rows = [line.split() for line in SPECIFIED.strip().splitlines()]
    specified = {
        State(state): {
            move: State(reached) for move, reached in zip(Move, row, strict=True) if reached != "-"
        }
        for state, *row in rows
    }
    assert specified == MOVES


@pytest.mark.parametrize(("state", "move"), list(product(State, Move)))
def test_a_release_takes_the_moves_of_the_table_and_refuses_all_others(
    state: State, move: Move
) -> None:
    before = IN_STATE[state]
    if move in MOVES[state]:
        assert release.state_of(the_release(DO[move](before))) is MOVES[state][move]
        return
    with pytest.raises(RefusedMove) as caught:
        DO[move](before)
    can = ", ".join(other.replace("-", " ") for other in MOVES[state])
    assert str(caught.value) == f"cannot {move.replace('-', ' ')}: release r1 is {state}" + (
        f"; allowed are: {can}" if can else "; start another release"
    )


@pytest.mark.parametrize(("state", "move"), list(product(State, Move)))
def test_whatever_a_move_gives_is_a_valid_policy_in_which_weight_and_state_agree(
    state: State, move: Move
) -> None:
    if move not in MOVES[state]:
        return
    after = DO[move](IN_STATE[state])
    assert parse.policy(parse.document(after)) == after
    found = the_release(after)
    assert found.is_in_force == (found.ended_at is None)
    assert (after.version_with(VersionStatus.CANARY) is not None) == found.is_in_force
    if found.status in (ReleaseStatus.ROLLED_BACK, ReleaseStatus.ABANDONED):
        assert found.share == 0
    if not found.is_in_force:
        assert not found.halted


@pytest.mark.parametrize("move", Move)
def test_without_a_release_every_move_is_refused(move: Move) -> None:
    words = move.replace("-", " ")
    with pytest.raises(RefusedMove, match=f"cannot {words}: no release was started"):
        DO[move](Policy(service_key="shop"))


def test_a_refusal_is_one_of_the_engines_errors() -> None:
    assert issubclass(RefusedMove, CanaryError)


def test_setting_the_percentage_changes_nothing_else() -> None:
    after = release.set_percentage(RUNNING, 10_000, NOW)
    assert after == replace(RUNNING, release=replace(the_release(RUNNING), share=10_000))


@pytest.mark.parametrize("state", IN_FORCE)
def test_the_percentage_may_be_set_to_what_it_is_in_every_state(state: State) -> None:
    assert release.set_percentage(IN_STATE[state], 5_000, NOW) == IN_STATE[state]


def test_halting_keeps_the_percentage_and_resuming_gives_it_back() -> None:
    halted = release.halt(RUNNING, NOW)
    assert halted == replace(RUNNING, release=replace(the_release(RUNNING), halted=True))
    assert release.resume(halted, NOW) == RUNNING
    assert release.resume(release.halt(release.pause(RUNNING, NOW), NOW), NOW) == RUNNING


def test_a_release_that_was_stored_paused_and_halted_is_halted() -> None:
    stored = replace(
        RUNNING,
        release=replace(the_release(RUNNING), status=ReleaseStatus.PAUSED, halted=True),
    )
    assert release.state_of(the_release(stored)) is State.HALTED
    assert release.resume(stored, NOW) == RUNNING


def test_promoting_makes_the_version_stable_and_the_old_stable_deprecated() -> None:
    assert statuses(PROMOTED) == {
        "v1": VersionStatus.DEPRECATED,
        "v2": VersionStatus.STABLE,
        "v3": VersionStatus.REGISTERED,
    }
    assert PROMOTED.versions[0].release_date == BEFORE
    assert PROMOTED.versions[1].release_date == NOW
    assert PROMOTED.release == replace(
        the_release(RUNNING), status=ReleaseStatus.COMPLETED, ended_at=NOW, due_rollback=None
    )


def test_a_first_version_can_be_promoted_where_none_is_stable() -> None:
    after = release.promote(replace(RUNNING, versions=RUNNING.versions[1:]), NOW)
    assert statuses(after) == {"v2": VersionStatus.STABLE, "v3": VersionStatus.REGISTERED}


@pytest.mark.parametrize("state", IN_FORCE)
def test_rolling_back_takes_the_share_to_zero_and_withdraws_the_version_in_one_value(
    state: State,
) -> None:
    after = release.roll_back(IN_STATE[state], NOW)
    assert after.release == replace(
        the_release(RUNNING),
        status=ReleaseStatus.ROLLED_BACK,
        share=0,
        ended_at=NOW,
        due_rollback=None,
    )
    assert statuses(after) == {
        "v1": VersionStatus.STABLE,
        "v2": VersionStatus.REGISTERED,
        "v3": VersionStatus.REGISTERED,
    }
    assert after.versions[1].rollback_date == NOW


def test_abandoning_is_rolling_back_without_a_verdict_on_the_version() -> None:
    after = IN_STATE[State.ABANDONED]
    assert after.release == replace(the_release(ENDED), status=ReleaseStatus.ABANDONED)
    assert after.versions[1] == Version(version="v2")


def test_a_release_that_was_rolled_back_before_stays_so_until_it_is_promoted() -> None:
    again = start(ENDED, "v2")
    assert again.versions[1].rollback_date == NOW
    assert release.abandon(again, NOW).versions[1] == ENDED.versions[1]
    assert release.promote(again, NOW).versions[1].rollback_date is None


@pytest.mark.parametrize("move", [Move.PROMOTE, Move.ROLL_BACK, Move.ABANDON])
def test_a_release_never_ends_before_it_started_although_the_clock_went_back(move: Move) -> None:
    late = NOW + timedelta(days=1)
    before = replace(RUNNING, release=replace(the_release(RUNNING), started_at=late))
    assert the_release(DO[move](before)).ended_at == late


def test_starting_makes_the_version_canary_and_the_release_run_from_now() -> None:
    after = start(ENDED, "v3", salt="spring")
    assert after.release == Release(
        id="r2",
        version="v3",
        status=ReleaseStatus.IN_PROGRESS,
        share=1_000,
        strategy=Strategy.PERCENTAGE,
        salt="spring",
        started_at=NOW,
        weight_since=NOW,
        judged_since=NOW,
    )
    assert statuses(after)["v3"] is VersionStatus.CANARY


def test_a_release_without_a_salt_is_salted_with_its_id() -> None:
    assert the_release(start(ENDED, "v3")).salt == "r2"


@pytest.mark.parametrize("state", IN_FORCE)
def test_no_release_starts_while_another_is_in_force(state: State) -> None:
    with pytest.raises(RefusedMove) as caught:
        start(IN_STATE[state], "v3")
    assert str(caught.value) == (
        f"release r1 of v2 is {state}: promote it, roll it back or abandon it first"
    )


def test_no_release_starts_of_a_version_that_is_not_registered() -> None:
    with pytest.raises(RefusedMove, match="version 'v9' is not registered: register it first"):
        start(ENDED, "v9")


@pytest.mark.parametrize(("version", "status"), [("v1", "deprecated"), ("v2", "stable")])
def test_no_release_starts_of_a_stable_or_deprecated_version(version: str, status: str) -> None:
    with pytest.raises(RefusedMove) as caught:
        start(PROMOTED, version)
    assert str(caught.value) == f"version {version!r} is {status}: it cannot be released"


@pytest.mark.parametrize("policy", [start(ENDED, "v2"), start(PROMOTED, "v3")])
def test_what_a_start_gives_is_a_valid_policy(policy: Policy) -> None:
    assert parse.policy(parse.document(policy)) == policy


LATER = NOW + timedelta(minutes=5)
PLANNED = replace(
    RUNNING,
    plan=Plan(
        steps=(PlanStep(weight=5_000), PlanStep(weight=20_000)),
        checklist=(ChecklistItem(name="backup"),),
    ),
)


def test_another_percentage_is_watched_from_the_moment_it_is_set() -> None:
    raised = release.set_percentage(RUNNING, 10_000, LATER)
    assert the_release(raised).weight_since == LATER
    same = release.set_percentage(RUNNING, 5_000, LATER)
    assert the_release(same).weight_since == NOW


@pytest.mark.parametrize(
    ("share", "control"), [(5_000, 20_000), (20_000, 80_000), (30_000, 70_000), (0, 0)]
)
def test_control_is_four_times_the_canary_or_all_who_lost_the_draw(
    share: int, control: int
) -> None:
    assert PLANNED.plan is not None
    assert PLANNED.plan.control(share) == control
    after = release.set_percentage(release.set_percentage(PLANNED, 1, NOW), share, NOW)
    assert the_release(after).control == control


def test_a_release_without_a_plan_or_with_one_that_compares_nothing_has_no_control() -> None:
    assert the_release(release.set_percentage(RUNNING, 10_000, NOW)).control == 0
    assert Plan(comparison=Comparison(enabled=False)).control(5_000) == 0


def test_control_may_be_widened_without_touching_the_percentage() -> None:
    after = release.set_percentage(PLANNED, 5_000, LATER, control=100_000)
    assert the_release(after) == replace(the_release(PLANNED), control=95_000)


@pytest.mark.parametrize("state", [State.PAUSED, State.HALTED])
def test_a_release_that_is_resumed_is_watched_and_judged_anew(state: State) -> None:
    resumed = the_release(release.resume(IN_STATE[state], LATER))
    assert (resumed.weight_since, resumed.judged_since) == (LATER, LATER)


def test_keeping_a_release_calls_its_rollback_off_and_judges_anew() -> None:
    kept = release.keep(RUNNING, LATER)
    assert the_release(kept) == replace(the_release(RUNNING), due_rollback=None, judged_since=LATER)
    with pytest.raises(RefusedMove, match="cannot keep: no rollback of release r1 is due"):
        release.keep(kept, LATER)


@pytest.mark.parametrize("state", State)
def test_a_rollback_may_be_put_off_where_it_may_be_done_and_a_second_one_changes_nothing(
    state: State,
) -> None:
    before = IN_STATE[state]
    if Move.ROLL_BACK not in MOVES[state]:
        with pytest.raises(RefusedMove, match=f"cannot roll back: release r1 is {state}"):
            release.roll_back_later(before, "late", NOW, LATER)
        return
    assert release.roll_back_later(before, "late", NOW, LATER) == before
    kept = release.keep(before, NOW)
    after = release.roll_back_later(kept, "late", NOW, LATER)
    assert the_release(after).due_rollback == DueRollback(why="late", at=NOW, due=LATER)
    assert parse.policy(parse.document(after)) == after


def test_an_item_of_the_checklist_is_ticked_once_and_by_name() -> None:
    ticked = release.tick(PLANNED, "backup", "ada", NOW)
    assert the_release(ticked).ticks == (Tick(item="backup", by="ada", at=NOW),)
    assert release.tick(ticked, "backup", "kim", LATER) == ticked
    assert release.untick(ticked, "backup") == PLANNED
    assert parse.policy(parse.document(ticked)) == ticked


def test_what_is_not_on_the_checklist_cannot_be_ticked() -> None:
    with pytest.raises(RefusedMove, match="no item 'coffee'; there is: backup"):
        release.tick(PLANNED, "coffee", "ada", NOW)
    with pytest.raises(RefusedMove, match="no item 'backup'; there is: none"):
        release.tick(RUNNING, "backup", "ada", NOW)
    with pytest.raises(RefusedMove, match="cannot tick: no release is in force"):
        release.tick(ENDED, "backup", "ada", NOW)
