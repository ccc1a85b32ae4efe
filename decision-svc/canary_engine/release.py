"""The life of a release as a table: a missing entry is the refusal.

Halted is a state of its own although it is stored as a flag: what may be done to a halted release
is not what may be done to one in progress.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum

from canary_engine.errors import RefusedMove
from canary_engine.model import (
    BUCKETS,
    DueRollback,
    Policy,
    Release,
    ReleaseStatus,
    Strategy,
    Tick,
    Version,
    VersionStatus,
)


class State(StrEnum):
    """Where a release is in its life."""

    IN_PROGRESS = "in-progress"
    PAUSED = "paused"
    HALTED = "halted"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled-back"
    ABANDONED = "abandoned"


class Move(StrEnum):
    """What can be done to a release."""

    RAISE = "raise"
    LOWER = "lower"
    PAUSE = "pause"
    RESUME = "resume"
    HALT = "halt"
    PROMOTE = "promote"
    ROLL_BACK = "roll-back"
    ABANDON = "abandon"
    KEEP = "keep"


_END: Mapping[Move, State] = {
    Move.ROLL_BACK: State.ROLLED_BACK,
    Move.ABANDON: State.ABANDONED,
}
MOVES: Mapping[State, Mapping[Move, State]] = {
    State.IN_PROGRESS: {
        Move.RAISE: State.IN_PROGRESS,
        Move.LOWER: State.IN_PROGRESS,
        Move.KEEP: State.IN_PROGRESS,
        Move.PAUSE: State.PAUSED,
        Move.HALT: State.HALTED,
        Move.PROMOTE: State.COMPLETED,
        **_END,
    },
    State.PAUSED: {
        Move.LOWER: State.PAUSED,
        Move.KEEP: State.PAUSED,
        Move.RESUME: State.IN_PROGRESS,
        Move.HALT: State.HALTED,
        **_END,
    },
    State.HALTED: {
        Move.LOWER: State.HALTED,
        Move.KEEP: State.HALTED,
        Move.RESUME: State.IN_PROGRESS,
        **_END,
    },
    State.COMPLETED: {},
    State.ROLLED_BACK: {},
    State.ABANDONED: {},
}


def state_of(release: Release) -> State:
    """The release's state."""
    if release.halted and release.is_in_force:
        return State.HALTED
    return State(release.status)


def start(
    policy: Policy,
    *,
    id: str,  # noqa: A002 - the spec's word
    version: str,
    share: int,
    strategy: Strategy,
    salt: str,
    now: datetime,
) -> Policy:
    """The policy with a release of ``version`` started; an empty ``salt`` is the release's id.

    Raises RefusedMove while another release is in force, or if the version cannot be released:
    it is not registered, is what everybody has, or is deprecated. What else speaks against it
    is for the guards to say (``canary_engine.guards``).
    """
    if policy.release is not None and policy.release.is_in_force:
        raise RefusedMove(
            f"release {policy.release.id} of {policy.release.version} is "
            f"{state_of(policy.release)}: promote it, roll it back or abandon it first"
        )
    found = _releasable(policy, version)
    release = Release(
        id=id,
        version=version,
        status=ReleaseStatus.IN_PROGRESS,
        share=share,
        strategy=strategy,
        salt=salt or id,
        started_at=now,
        control=policy.plan.control(share) if policy.plan is not None else 0,
        weight_since=now,
        judged_since=now,
    )
    versions = _replaced(policy, replace(found, status=VersionStatus.CANARY))
    return replace(policy, versions=versions, release=release)


def set_percentage(policy: Policy, share: int, now: datetime, control: int | None = None) -> Policy:
    """The policy with its release at ``share``; the same share is no raise. Raises RefusedMove.

    ``control`` stands for stable; None: as much as the plan says, if the share is another one.
    """
    old = policy.release.share if policy.release is not None else 0
    release = _moved(policy, Move.RAISE if share > old else Move.LOWER)
    if share != old:
        planned = policy.plan.control(share) if policy.plan is not None else 0
        release = replace(release, share=share, control=planned, weight_since=now)
    if control is not None:
        release = replace(release, control=min(control, BUCKETS - share))
    return replace(policy, release=release)


def pause(policy: Policy, now: datetime) -> Policy:
    """It keeps its traffic, and nobody raises it."""
    return replace(policy, release=_moved(policy, Move.PAUSE))


def resume(policy: Policy, now: datetime) -> Policy:
    """It goes on, with the traffic it had; it is watched and judged anew.

    Whoever resumes it has looked at what it was stopped for: that must not stop it once more.
    """
    release = _moved(policy, Move.RESUME)
    return replace(policy, release=replace(release, weight_since=now, judged_since=now))


def halt(policy: Policy, now: datetime) -> Policy:
    """Nobody gets the canary until it is resumed; the percentage stays as it was."""
    return replace(policy, release=replace(_moved(policy, Move.HALT), weight_since=now))


def keep(policy: Policy, now: datetime) -> Policy:
    """The rollback that is due is called off; what is heard from now on is judged."""
    release = _moved(policy, Move.KEEP)
    if release.due_rollback is None:
        raise RefusedMove(f"cannot keep: no rollback of release {release.id} is due")
    return replace(policy, release=replace(release, due_rollback=None, judged_since=now))


def roll_back_later(policy: Policy, why: str, now: datetime, due: datetime) -> Policy:
    """It is rolled back when it is due, unless a person keeps it; one that is due stays so."""
    _moved(policy, Move.ROLL_BACK)
    release = policy.release
    if release is None or release.due_rollback is not None:
        return policy
    waiting = DueRollback(why=why, at=now, due=due)
    return replace(policy, release=replace(release, due_rollback=waiting))


def tick(policy: Policy, item: str, by: str, now: datetime) -> Policy:
    """The item of the plan's checklist is ticked off; a second time changes nothing."""
    release = _checked(policy, item)
    if any(ticked.item == item for ticked in release.ticks):
        return policy
    return replace(
        policy, release=replace(release, ticks=(*release.ticks, Tick(item=item, by=by, at=now)))
    )


def untick(policy: Policy, item: str) -> Policy:
    """It is not."""
    release = _checked(policy, item)
    kept = tuple(ticked for ticked in release.ticks if ticked.item != item)
    return replace(policy, release=replace(release, ticks=kept))


def promote(policy: Policy, now: datetime) -> Policy:
    """The canary version becomes stable, the old stable deprecated, the release ends."""
    release = _ended(_moved(policy, Move.PROMOTE), now)
    promoted = _version_of(policy, release)
    old = policy.version_with(VersionStatus.STABLE)
    now_stable = replace(
        promoted, status=VersionStatus.STABLE, release_date=now, rollback_date=None
    )
    changed = [now_stable]
    if old is not None:
        changed.append(replace(old, status=VersionStatus.DEPRECATED))
    return replace(policy, versions=_replaced(policy, *changed), release=release)


def roll_back(policy: Policy, now: datetime) -> Policy:
    """The share goes to zero and the release ends, in one value."""
    release = replace(_ended(_moved(policy, Move.ROLL_BACK), now), share=0)
    withdrawn = _version_of(policy, release)
    changed = replace(withdrawn, status=VersionStatus.REGISTERED, rollback_date=now)
    return replace(policy, versions=_replaced(policy, changed), release=release)


def abandon(policy: Policy, now: datetime) -> Policy:
    """As roll_back, but nothing new is held against the version."""
    release = replace(_ended(_moved(policy, Move.ABANDON), now), share=0)
    changed = replace(_version_of(policy, release), status=VersionStatus.REGISTERED)
    return replace(policy, versions=_replaced(policy, changed), release=release)


BY_MOVE: Mapping[Move, Callable[[Policy, datetime], Policy]] = {
    Move.PAUSE: pause,
    Move.RESUME: resume,
    Move.HALT: halt,
    Move.KEEP: keep,
    Move.PROMOTE: promote,
    Move.ROLL_BACK: roll_back,
    Move.ABANDON: abandon,
}
"""The moves that need nothing else to be said."""


def _moved(policy: Policy, move: Move) -> Release:
    """The release in the state that the move leads to. Raises RefusedMove."""
    release = policy.release
    if release is None:
        raise RefusedMove(f"cannot {_words(move)}: no release was started; start one first")
    state = state_of(release)
    reached = MOVES[state].get(move)
    if reached is None:
        is_due = release.due_rollback is not None
        moves = [other for other in MOVES[state] if other is not Move.KEEP or is_due]
        allowed = ", ".join(map(_words, moves))
        can = f"; allowed are: {allowed}" if allowed else "; start another release"
        raise RefusedMove(f"cannot {_words(move)}: release {release.id} is {state}{can}")
    if reached is State.HALTED:
        return replace(release, status=ReleaseStatus.IN_PROGRESS, halted=True)
    return replace(release, status=ReleaseStatus(reached), halted=False)


def _ended(release: Release, now: datetime) -> Release:
    """The release with its end, which is never before its start, whatever the clock says."""
    started_at = release.started_at
    ended_at = now if started_at is None else max(now, started_at)
    return replace(release, ended_at=ended_at, control=0, due_rollback=None)


def _checked(policy: Policy, item: str) -> Release:
    """The release that is in force, if the plan's checklist has the item. Raises RefusedMove."""
    release = policy.release
    if release is None or not release.is_in_force:
        raise RefusedMove("cannot tick: no release is in force; start one first")
    items = [found.name for found in policy.plan.checklist] if policy.plan is not None else []
    if item not in items:
        there_is = ", ".join(items) or "none"
        raise RefusedMove(f"the plan's checklist has no item {item!r}; there is: {there_is}")
    return release


def _words(move: Move) -> str:
    return move.replace("-", " ")


def _releasable(policy: Policy, version: str) -> Version:
    found = policy.version_named(version)
    if found is None:
        raise RefusedMove(f"version {version!r} is not registered: register it first")
    if found.status in (VersionStatus.STABLE, VersionStatus.DEPRECATED):
        raise RefusedMove(f"version {version!r} is {found.status}: it cannot be released")
    return found


def _version_of(policy: Policy, release: Release) -> Version:
    found = policy.version_named(release.version)
    assert found is not None, "a policy is checked before it is kept"
    return found


def _replaced(policy: Policy, *changed: Version) -> tuple[Version, ...]:
    by_name = {version.version: version for version in changed}
    return tuple(by_name.get(version.version, version) for version in policy.versions)
