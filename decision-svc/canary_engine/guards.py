"""What stands between a person and a move: freezes, a second person's consent, what is known.

Guards look at what a change does to a policy, not at which call makes it (decision 9): a release
may be started by a call of its own, by a file, or by going back to an earlier revision.

Each version has a reach: everybody is with stable, and the release's draw takes its share from
it. A change that gives a version more reach starts, raises or promotes, and is guarded. One that
only takes reach away never is, so that the way back is always open; that includes giving stable
back to the version that had it before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

from canary_engine.errors import RefusedMove
from canary_engine.model import (
    BUCKETS,
    Approval,
    ApprovedMove,
    Policy,
    Release,
    VersionStatus,
)
from canary_engine.plan import Freeze


class Effect(StrEnum):
    """What a change does to the traffic of the canary."""

    START = "start"
    RAISE = "raise"
    PROMOTE = "promote"
    LOWER = "lower"
    END = "end"


class Despite(StrEnum):
    """What speaks against a start, and a person has said why it starts all the same."""

    INCOMPATIBLE = "incompatible"
    ROLLBACK = "rollback"


GIVES = frozenset({Effect.START, Effect.RAISE, Effect.PROMOTE})
"""The effects that give more people the new version."""


def effect(before: Policy, after: Policy) -> Effect | None:
    """What the change does; None if it leaves the release's traffic as it is."""
    return Effect.PROMOTE if _is_promoted(before, after) else _effect_on_draw(before, after)


def _effect_on_draw(before: Policy, after: Policy) -> Effect | None:
    """The same without a look at what becomes stable."""
    old, new = _in_force(before), _in_force(after)
    if new is None:
        return Effect.END if old is not None else None
    if new.version == _stable(before):
        return Effect.LOWER  # a promotion is taken back: all of them, then some
    if old is None or (old.id, old.version) != (new.id, new.version):
        return Effect.START
    if _traffic(new) != _traffic(old):
        return Effect.RAISE if _traffic(new) > _traffic(old) else Effect.LOWER
    return None


def passed(
    before: Policy,
    after: Policy,
    *,
    actor: str,
    now: datetime,
    despite: frozenset[Despite] = frozenset(),
) -> Policy:
    """``after`` without the approvals that it needed, and without those that have expired.

    The guards are those of ``before``, so that no change can take away its own. Raises
    RefusedMove, naming what stands in the way and how to get past it.
    """
    used: set[str] = set()
    for does in _given(before, after):
        _check_freezes(before, does, now)
        if does is Effect.START:
            _check_version(before, after, despite)
        wanted = _wanted(before, after, does)
        used |= {_approval(before, after, does, move, actor, now).id for move in wanted}
    kept = tuple(a for a in after.approvals if a.id not in used and a.expires_at > now)
    return replace(after, approvals=kept)


def is_frozen(freeze: Freeze, now: datetime) -> bool:
    """Whether ``now`` lies in the freeze.

    Where clocks are put forward or back, a local time may come twice or not at all; then the
    freeze is as long as it can be.
    """
    zone = ZoneInfo(freeze.time_zone)
    return min(_moments(freeze.start, zone)) <= now < max(_moments(freeze.end, zone))


def _moments(local: str, zone: ZoneInfo) -> list[datetime]:
    """What a local time may mean, in UTC."""
    at = datetime.fromisoformat(local)
    return [_in_utc(at.replace(tzinfo=zone, fold=fold)) for fold in (0, 1)]


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:  # the first day of the calendar, or the last
        return at.replace(tzinfo=UTC)


def _given(before: Policy, after: Policy) -> Iterator[Effect]:
    """What the change gives; going back may promote one version and start another."""
    if _is_promoted(before, after):
        yield Effect.PROMOTE
    does = _effect_on_draw(before, after)
    if does in GIVES:
        yield does


def _check_freezes(before: Policy, does: Effect, now: datetime) -> None:
    for freeze in before.guards.freezes:
        if is_frozen(freeze, now):
            why = f" ({freeze.reason})" if freeze.reason else ""
            raise RefusedMove(
                f"cannot {does}: frozen by {freeze.name!r} until {freeze.end} "
                f"{freeze.time_zone}{why}; lowering, halting and rolling back stay possible"
            )


def _check_version(before: Policy, after: Policy, despite: frozenset[Despite]) -> None:
    """Refuse to start what is known to be bad, unless somebody has said why."""
    name = _version(after, Effect.START)
    known = before.version_named(name)
    if known is not None and known.rollback_date and Despite.ROLLBACK not in despite:
        raise RefusedMove(
            f"version {name!r} was rolled back on {known.rollback_date:%Y-%m-%d}: "
            "say why it may be released again (despite_rollback)"
        )
    broken = [r for r in after.compatibility.rules if r.to == name and not r.compatible]
    if broken and Despite.INCOMPATIBLE not in despite:
        rules = "; ".join(
            f"{r.source} -> {r.to}{f' ({r.notes})' if r.notes else ''}" for r in broken
        )
        raise RefusedMove(
            f"version {name!r} breaks the compatibility rule {rules}: "
            "say why it is released all the same (despite_incompatible)"
        )


def _wanted(before: Policy, after: Policy, does: Effect) -> Iterator[ApprovedMove]:
    """The moves that need consent."""
    rules = before.guards.approvals
    new = _in_force(after)
    if does is Effect.PROMOTE:
        if rules.promote:
            yield ApprovedMove.PROMOTE
    elif does is Effect.START and rules.start:
        yield ApprovedMove.START
    elif rules.above is not None and new is not None and _traffic(new) > rules.above:
        yield ApprovedMove.RAISE


def _approval(
    before: Policy, after: Policy, does: Effect, move: ApprovedMove, actor: str, now: datetime
) -> Approval:
    """The approval to be used up: of those that fit the one that allows least, the oldest."""
    version, share = _version(after, does), _share(after, move)
    fitting = [
        approval
        for approval in before.approvals
        if (approval.move, approval.version) == (move, version)
        and approval.share >= share
        and approval.expires_at > now
        and not _is_same(approval.by, actor)
    ]
    if fitting:
        return min(fitting, key=lambda approval: (approval.share, approval.expires_at))
    limit = "" if move is ApprovedMove.PROMOTE else f" --percentage {share * 100 / BUCKETS:g}"
    raise RefusedMove(
        f"cannot {does} {version}: it needs the consent of somebody other than {actor}: "
        f"canaryctl approve {after.service_key} {move} {version}{limit}"
    )


def _is_same(one: str, other: str) -> bool:
    """Whether two names are one person's, however they are written."""
    return one.strip().casefold() == other.strip().casefold()


def _version(after: Policy, does: Effect) -> str:
    """The version that gets more."""
    new = _in_force(after)
    return _stable(after) if does is Effect.PROMOTE or new is None else new.version


def _share(after: Policy, move: ApprovedMove) -> int:
    new = _in_force(after)
    return 0 if move is ApprovedMove.PROMOTE or new is None else max(_traffic(new), 0)


def _is_promoted(before: Policy, after: Policy) -> bool:
    """Whether everybody gets a version that they have not had before."""
    old, new = _stable(before), _stable(after)
    found = before.version_named(new)
    if new in ("", old) or (not old and found is None):
        return False  # nothing changes, or the first version there is was registered as stable
    # Only what was stable can be both deprecated and stable again: nothing else leads there.
    return found is None or found.status is not VersionStatus.DEPRECATED


def _stable(policy: Policy) -> str:
    """The version that everybody has; "" if there is none."""
    found = policy.version_with(VersionStatus.STABLE)
    return found.version if found is not None else ""


def _in_force(policy: Policy) -> Release | None:
    release = policy.release
    return release if release is not None and release.is_in_force else None


def _traffic(release: Release) -> int:
    """The share of the draw; a halted release is below one at 0 %, for rules still reach that."""
    return -1 if release.halted else release.share
