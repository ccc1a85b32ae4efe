"""The life of a release: every state against every move, and what each move changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import pytest
from canary_engine import parse, release
from canary_engine.errors import CanaryError, RefusedMove
from canary_engine.model import (
    Policy,
    Release,
    ReleaseStatus,
    Strategy,
    Version,
    VersionStatus,
)
from canary_engine.release import MOVES, Move

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
    ),
)
ENDED = release.roll_back(RUNNING, NOW)
DO = {
    Move.SET_PERCENTAGE: lambda policy: release.set_percentage(policy, 10_000),
    Move.COMPLETE: lambda policy: release.complete(policy, NOW),
    Move.ROLL_BACK: lambda policy: release.roll_back(policy, NOW),
}


def in_state(status: ReleaseStatus) -> Policy:
    assert RUNNING.release is not None
    return replace(RUNNING, release=replace(RUNNING.release, status=status))


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


@pytest.mark.parametrize(("status", "move"), list(product(ReleaseStatus, Move)))
def test_a_release_takes_the_moves_of_the_table_and_refuses_all_others(
    status: ReleaseStatus, move: Move
) -> None:
    before = in_state(status)
    if (status, move) in MOVES:
        after = DO[move](before).release
        assert after is not None
        assert after.status is MOVES[status, move]
        return
    with pytest.raises(RefusedMove) as caught:
        DO[move](before)
    can = sorted(m for s, m in MOVES if s is status)
    assert str(caught.value) == f"cannot {move}: release r1 is {status}" + (
        f"; it can: {', '.join(can)}" if can else "; start another release"
    )


def test_the_table_is_the_one_of_the_specification() -> None:
    running, paused = ReleaseStatus.IN_PROGRESS, ReleaseStatus.PAUSED
    assert {
        (running, Move.SET_PERCENTAGE): running,
        (running, Move.COMPLETE): ReleaseStatus.COMPLETED,
        (running, Move.ROLL_BACK): ReleaseStatus.ROLLED_BACK,
        (paused, Move.ROLL_BACK): ReleaseStatus.ROLLED_BACK,
    }.items() <= MOVES.items()
    ended = {ReleaseStatus.COMPLETED, ReleaseStatus.ROLLED_BACK}
    assert not [status for status, _ in MOVES if status in ended]


@pytest.mark.parametrize("move", Move)
def test_without_a_release_every_move_is_refused(move: Move) -> None:
    with pytest.raises(RefusedMove, match=f"cannot {move}: no release was started"):
        DO[move](Policy(service_key="shop"))


def test_a_refusal_is_one_of_the_engines_errors() -> None:
    assert issubclass(RefusedMove, CanaryError)


def test_setting_the_percentage_changes_nothing_else() -> None:
    after = release.set_percentage(RUNNING, 10_000)
    assert RUNNING.release is not None
    assert after == replace(RUNNING, release=replace(RUNNING.release, share=10_000))


def test_completing_makes_the_version_stable_and_the_old_stable_deprecated() -> None:
    after = release.complete(RUNNING, NOW)
    assert RUNNING.release is not None
    assert statuses(after) == {
        "v1": VersionStatus.DEPRECATED,
        "v2": VersionStatus.STABLE,
        "v3": VersionStatus.REGISTERED,
    }
    assert after.versions[0].release_date == BEFORE
    assert after.versions[1].release_date == NOW
    assert after.release == replace(RUNNING.release, status=ReleaseStatus.COMPLETED, ended_at=NOW)


def test_a_first_version_can_be_completed_where_none_is_stable() -> None:
    after = release.complete(replace(RUNNING, versions=RUNNING.versions[1:]), NOW)
    assert statuses(after) == {"v2": VersionStatus.STABLE, "v3": VersionStatus.REGISTERED}


@pytest.mark.parametrize("status", [ReleaseStatus.IN_PROGRESS, ReleaseStatus.PAUSED])
def test_rolling_back_takes_the_share_to_zero_and_withdraws_the_version_in_one_value(
    status: ReleaseStatus,
) -> None:
    before = in_state(status)
    after = release.roll_back(before, NOW)
    assert before.release is not None
    assert after.release == replace(
        before.release, status=ReleaseStatus.ROLLED_BACK, share=0, ended_at=NOW
    )
    assert statuses(after) == {
        "v1": VersionStatus.STABLE,
        "v2": VersionStatus.REGISTERED,
        "v3": VersionStatus.REGISTERED,
    }
    assert after.versions[1].rollback_date == NOW


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
    )
    assert statuses(after)["v3"] is VersionStatus.CANARY


def test_a_release_without_a_salt_is_salted_with_its_id() -> None:
    started = start(ENDED, "v3").release
    assert started is not None
    assert started.salt == "r2"


def test_a_version_that_was_rolled_back_may_be_released_again() -> None:
    after = start(ENDED, "v2")
    assert after.versions[1] == Version(version="v2", status=VersionStatus.CANARY)


@pytest.mark.parametrize("status", [ReleaseStatus.IN_PROGRESS, ReleaseStatus.PAUSED])
def test_no_release_starts_while_another_is_in_force(status: ReleaseStatus) -> None:
    with pytest.raises(RefusedMove) as caught:
        start(in_state(status), "v3")
    assert str(caught.value) == (f"release r1 of v2 is {status}: complete it or roll it back first")


def test_no_release_starts_of_a_version_that_is_not_registered() -> None:
    with pytest.raises(RefusedMove, match="version 'v9' is not registered: register it first"):
        start(ENDED, "v9")


@pytest.mark.parametrize(("version", "status"), [("v1", "deprecated"), ("v2", "stable")])
def test_no_release_starts_of_a_stable_or_deprecated_version(version: str, status: str) -> None:
    with pytest.raises(RefusedMove) as caught:
        start(release.complete(RUNNING, NOW), version)
    assert str(caught.value) == f"version {version!r} is {status}: it cannot be released"


@pytest.mark.parametrize(
    "policy",
    [
        RUNNING,
        ENDED,
        release.complete(RUNNING, NOW),
        release.set_percentage(RUNNING, 0),
        start(ENDED, "v2"),
        start(release.complete(RUNNING, NOW), "v3"),
    ],
)
def test_what_a_move_gives_is_a_valid_policy(policy: Policy) -> None:
    assert parse.policy(parse.document(policy)) == policy
