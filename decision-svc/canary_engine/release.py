"""The life of a release as a table: a missing entry is the refusal."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from enum import StrEnum

from canary_engine.errors import RefusedMove
from canary_engine.model import (
    Policy,
    Release,
    ReleaseStatus,
    Strategy,
    Version,
    VersionStatus,
)


class Move(StrEnum):
    """What can be done to a release."""

    SET_PERCENTAGE = "set percentage"
    COMPLETE = "complete"
    ROLL_BACK = "roll back"


MOVES: dict[tuple[ReleaseStatus, Move], ReleaseStatus] = {
    (ReleaseStatus.IN_PROGRESS, Move.SET_PERCENTAGE): ReleaseStatus.IN_PROGRESS,
    (ReleaseStatus.IN_PROGRESS, Move.COMPLETE): ReleaseStatus.COMPLETED,
    (ReleaseStatus.IN_PROGRESS, Move.ROLL_BACK): ReleaseStatus.ROLLED_BACK,
    (ReleaseStatus.PAUSED, Move.ROLL_BACK): ReleaseStatus.ROLLED_BACK,
}


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

    Raises RefusedMove while another release is in force, or if the version cannot be released.
    """
    if policy.release is not None and policy.release.is_in_force:
        raise RefusedMove(
            f"release {policy.release.id} of {policy.release.version} is "
            f"{policy.release.status}: complete it or roll it back first"
        )
    found = policy.version_named(version)
    if found is None:
        raise RefusedMove(f"version {version!r} is not registered: register it first")
    if found.status in (VersionStatus.STABLE, VersionStatus.DEPRECATED):
        raise RefusedMove(f"version {version!r} is {found.status}: it cannot be released")
    release = Release(
        id=id,
        version=version,
        status=ReleaseStatus.IN_PROGRESS,
        share=share,
        strategy=strategy,
        salt=salt or id,
        started_at=now,
    )
    versions = _replaced(policy, replace(found, status=VersionStatus.CANARY, rollback_date=None))
    return replace(policy, versions=versions, release=release)


def set_percentage(policy: Policy, share: int) -> Policy:
    """The policy with its release at ``share``. Raises RefusedMove."""
    release = _moved(policy, Move.SET_PERCENTAGE)
    return replace(policy, release=replace(release, share=share))


def complete(policy: Policy, now: datetime) -> Policy:
    """The canary version becomes stable, the old stable deprecated, the release ends."""
    release = replace(_moved(policy, Move.COMPLETE), ended_at=now)
    promoted = policy.version_named(release.version)
    assert promoted is not None, "a policy is checked before it is kept"
    old = policy.version_with(VersionStatus.STABLE)
    changed = [replace(promoted, status=VersionStatus.STABLE, release_date=now)]
    if old is not None:
        changed.append(replace(old, status=VersionStatus.DEPRECATED))
    return replace(policy, versions=_replaced(policy, *changed), release=release)


def roll_back(policy: Policy, now: datetime) -> Policy:
    """The share goes to zero and the release ends, in one value."""
    release = replace(_moved(policy, Move.ROLL_BACK), ended_at=now, share=0)
    withdrawn = policy.version_named(release.version)
    assert withdrawn is not None, "a policy is checked before it is kept"
    changed = replace(withdrawn, status=VersionStatus.REGISTERED, rollback_date=now)
    return replace(policy, versions=_replaced(policy, changed), release=release)


def _moved(policy: Policy, move: Move) -> Release:
    release = policy.release
    if release is None:
        raise RefusedMove(f"cannot {move}: no release was started; start one first")
    status = MOVES.get((release.status, move))
    if status is None:
        allowed = sorted(str(m) for s, m in MOVES if s is release.status)
        can = f"; it can: {', '.join(allowed)}" if allowed else "; start another release"
        raise RefusedMove(f"cannot {move}: release {release.id} is {release.status}{can}")
    return replace(release, status=status)


def _replaced(policy: Policy, *changed: Version) -> tuple[Version, ...]:
    by_name = {version.version: version for version in changed}
    return tuple(by_name.get(version.version, version) for version in policy.versions)
