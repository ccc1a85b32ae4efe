"""What stands between a person and a move: freezes and the consent of a second person.

Guards look at what a change does to a policy, not at which call makes it (decision 9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

from canary_engine.errors import RefusedMove
from canary_engine.model import (
    BUCKETS,
    Approval,
    ApprovedMove,
    Freeze,
    Policy,
    Release,
    ReleaseStatus,
    VersionStatus,
)


class Effect(StrEnum):
    """What a change does to the traffic of the canary."""

    START = "start"
    RAISE = "raise"
    PROMOTE = "promote"
    LOWER = "lower"
    END = "end"


GIVES = frozenset({Effect.START, Effect.RAISE, Effect.PROMOTE})
"""The effects that give more people the new version."""


def effect(before: Policy, after: Policy) -> Effect | None:
    """What the change does; None if it leaves the release's traffic as it is."""
    if _is_promoted(before, after):
        return Effect.PROMOTE
    old, new = _in_force(before), _in_force(after)
    if new is None:
        return Effect.END if old is not None else None
    if old is None or (old.id, old.version) != (new.id, new.version):
        return Effect.START
    if _traffic(new) != _traffic(old):
        return Effect.RAISE if _traffic(new) > _traffic(old) else Effect.LOWER
    return None


def passed(before: Policy, after: Policy, *, actor: str, now: datetime) -> Policy:
    """``after`` with the approvals that it needed used up.

    The guards are those of ``before``, so that no change can take away its own. Raises
    RefusedMove, naming the freeze or the approval that is missing and how to get it.
    """
    does = effect(before, after)
    if does not in GIVES:
        return after
    for freeze in before.guards.freezes:
        if is_frozen(freeze, now):
            raise RefusedMove(
                f"cannot {does}: frozen by {freeze.name!r} until {freeze.end} "
                f"{freeze.time_zone} ({freeze.reason or 'no reason given'}); rolling back, "
                "halting and lowering stay possible"
            )
    used = {_approval(before, after, move, actor, now).id for move in _wanted(before, after, does)}
    kept = tuple(a for a in after.approvals if a.id not in used and a.expires_at > now)
    return replace(after, approvals=kept)


def is_frozen(freeze: Freeze, now: datetime) -> bool:
    """Whether ``now`` lies in the freeze."""
    zone = ZoneInfo(freeze.time_zone)
    start, end = (datetime.fromisoformat(t).replace(tzinfo=zone) for t in (freeze.start, freeze.end))
    return start <= now < end


def _wanted(before: Policy, after: Policy, does: Effect) -> Iterator[ApprovedMove]:
    """The moves that need consent."""
    rules = before.guards.approvals
    if does is Effect.PROMOTE:
        if rules.promote:
            yield ApprovedMove.PROMOTE
        return
    new = _in_force(after)
    is_above = rules.above is not None and new is not None and new.share > rules.above
    if does is Effect.START and rules.start:
        yield ApprovedMove.START
    elif is_above:
        yield ApprovedMove.RAISE


def _approval(
    before: Policy, after: Policy, move: ApprovedMove, actor: str, now: datetime
) -> Approval:
    version, share = _version(after), _share(after, move)
    for approval in before.approvals:
        fits = approval.move is move and approval.version == version and approval.share >= share
        if fits and approval.by != actor and approval.expires_at > now:
            return approval
    limit = "" if move is ApprovedMove.PROMOTE else f" --percentage {share * 100 / BUCKETS:g}"
    raise RefusedMove(
        f"cannot {move} {version}: it needs the consent of somebody other than {actor}: "
        f"canaryctl approve {after.service_key} {move} {version}{limit}"
    )


def _version(after: Policy) -> str:
    new = _in_force(after)
    if new is not None:
        return new.version
    stable = after.version_with(VersionStatus.STABLE)
    return stable.version if stable is not None else ""


def _share(after: Policy, move: ApprovedMove) -> int:
    new = _in_force(after)
    return 0 if move is ApprovedMove.PROMOTE or new is None else new.share


def _is_promoted(before: Policy, after: Policy) -> bool:
    """Whether everybody gets another version than before."""
    old, new = (p.version_with(VersionStatus.STABLE) for p in (before, after))
    if old is not None and new is not None and old.version != new.version:
        return True
    release = after.release
    return (
        release is not None
        and release.status is ReleaseStatus.COMPLETED
        and _in_force(before) is not None
    )


def _in_force(policy: Policy) -> Release | None:
    release = policy.release
    return release if release is not None and release.is_in_force else None


def _traffic(release: Release) -> int:
    return 0 if release.halted else release.share
