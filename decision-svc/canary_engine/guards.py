"""What stands between a person and a move: freezes, a second person's consent, what is known.

Guards look at what a change does to a policy, not at which call makes it (decision 9): a release
may be started by a call of its own, by a file, or by going back to an earlier revision.

Each version has a reach: everybody is with stable, and the release's draw takes its share from
it. A change that gives a version more reach starts, raises or promotes, and is guarded. One that
only takes reach away never is, so that the way back is always open; that includes giving stable
back to the version that had it before.

A version is what its backend serves: another backend of one that people have is as much as another
version, and is guarded alike. What besides the draw gives the canary (``widening``) has a reach
that nobody can tell, so a freeze refuses any more of it, and consent to it is to no share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

from canary_engine.errors import RefusedMove
from canary_engine.model import (
    BUCKETS,
    Approval,
    ApprovedMove,
    Backend,
    Policy,
    Release,
    VersionStatus,
)
from canary_engine.plan import Freeze
from canary_engine.widening import widening


class Effect(StrEnum):
    """What a change does to the traffic of the canary."""

    START = "start"
    RAISE = "raise"
    PROMOTE = "promote"
    LOWER = "lower"
    END = "end"
    REPOINT = "repoint"
    """Another backend for a version that people have."""
    WIDEN = "widen"
    """Rules, lists and the like that may give the canary to more people."""


class Despite(StrEnum):
    """What speaks against a start, and a person has said why it starts all the same."""

    INCOMPATIBLE = "incompatible"
    ROLLBACK = "rollback"


GIVES = frozenset({Effect.START, Effect.RAISE, Effect.PROMOTE})
"""The effects on the draw, and on what is stable, that give more people the new version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The listed segments to which a change adds members, and from which it takes some."""

    joined: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()


NO_MEMBERS = Members()


def effect(before: Policy, after: Policy) -> Effect | None:
    """What the change does to the draw, or to what is stable; None if it leaves both alone."""
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
    members: Members = NO_MEMBERS,
) -> Policy:
    """``after`` without the approvals that it needed, and without those that have expired or
    were given before a version's backend changed.

    The guards are those of ``before``, so that no change can take away its own. Raises
    RefusedMove, naming what stands in the way and how to get past it.
    """
    frozen = next((f for f in before.guards.freezes if is_frozen(f, now)), None)
    changed = _with_another_backend(before, after)
    used: set[str] = set()
    for given in _given(before, after, changed, members):
        if frozen is not None:
            raise _frozen(frozen, given.words)
        if given.does is Effect.START:
            _check_version(before, after, despite)
        wanted = list(_wanted(before, after, given))
        if wanted and given.does is Effect.START and given.version in changed:
            raise RefusedMove(
                f"cannot start {given.version}: it needs consent, and nobody can have consented "
                "to the backend that it gets in the same change: change that first"
            )
        used |= {_approval(before, given, move, actor, now).id for move in wanted}
    kept = tuple(
        approval
        for approval in after.approvals
        if approval.id not in used and approval.expires_at > now and approval.version not in changed
    )
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What gives more: to which version, how much of the draw, and in words."""

    does: Effect
    version: str
    share: int = 0
    words: str


def _given(
    before: Policy, after: Policy, changed: frozenset[str], members: Members
) -> Iterator[_Given]:
    """What the change gives; going back may promote one version and start another."""
    if _is_promoted(before, after):
        yield _Given(does=Effect.PROMOTE, version=_stable(after), words=Effect.PROMOTE)
    does, new = _effect_on_draw(before, after), _in_force(after)
    if does in GIVES and new is not None:
        share = max(_traffic(new), 0)
        yield _Given(does=does, version=new.version, share=share, words=does)
    yield from _repointed(before, after, changed)
    if new is not None and (parts := _widened(before, after, members)):
        words = f"change {', '.join(parts)}, which may give more people the canary"
        yield _Given(does=Effect.WIDEN, version=new.version, words=words)


def _repointed(before: Policy, after: Policy, changed: frozenset[str]) -> Iterator[_Given]:
    """The versions that people have and go on having, and that become something else."""
    stable = _stable(after)
    if stable in changed and stable == _stable(before):
        words = f"change the backend of {stable}, which is stable"
        yield _Given(does=Effect.REPOINT, version=stable, words=words)
    old, new = _in_force(before), _in_force(after)
    if old is None or new is None or old.version != new.version or new.version not in changed:
        return
    # Whoever gets what everybody else had gets nothing new. A halted release may be resumed.
    if _backend(after, new.version) != _backend(before, _stable(before)):
        words = f"change the backend of {new.version}, which is being released"
        share = max(_traffic(new), 0)
        yield _Given(does=Effect.REPOINT, version=new.version, share=share, words=words)


def _with_another_backend(before: Policy, after: Policy) -> frozenset[str]:
    """The versions that there were, and that are something else now."""
    if before.versions == after.versions:
        return frozenset()
    old = {version.version: version.backend for version in before.versions}
    return frozenset(
        v.version for v in after.versions if v.version in old and old[v.version] != v.backend
    )


def _backend(policy: Policy, version: str) -> Backend | None:
    found = policy.version_named(version)
    return found.backend if found is not None else None


def _widened(before: Policy, after: Policy, members: Members) -> tuple[str, ...]:
    """The parts that may give the canary to more people while a release takes traffic.

    None where a promotion is taken back: everybody had it.
    """
    guards, release = before.guards, _in_force(after)
    if release is None or release.halted or release.version == _stable(before):
        return ()
    if not guards.freezes and not guards.approvals.widen:
        return ()  # nobody asks
    return widening(before, after, joined=members.joined, left=members.left)


def _frozen(freeze: Freeze, words: str) -> RefusedMove:
    why = f" ({freeze.reason})" if freeze.reason else ""
    return RefusedMove(
        f"cannot {words}: frozen by {freeze.name!r} until {freeze.end} "
        f"{freeze.time_zone}{why}; lowering, halting and rolling back stay possible"
    )


def _check_version(before: Policy, after: Policy, despite: frozenset[Despite]) -> None:
    """Refuse to start what is known to be bad, unless somebody has said why."""
    release = _in_force(after)
    name = release.version if release is not None else ""
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


def _wanted(before: Policy, after: Policy, given: _Given) -> Iterator[ApprovedMove]:
    """The moves that need consent."""
    rules = before.guards.approvals
    if given.does is Effect.WIDEN:
        if rules.widen:
            yield ApprovedMove.WIDEN
    elif given.does is Effect.PROMOTE or given.version == _stable(after):
        if rules.promote:
            yield ApprovedMove.PROMOTE
    elif given.does is not Effect.RAISE and rules.start:
        yield ApprovedMove.START
    elif rules.above is not None and given.share > rules.above:
        yield ApprovedMove.RAISE


def _approval(
    before: Policy, given: _Given, move: ApprovedMove, actor: str, now: datetime
) -> Approval:
    """The approval to be used up: of those that fit the one that allows least, the oldest."""
    version, share = given.version, given.share
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
    limit = f" --percentage {share * 100 / BUCKETS:g}" if move.has_share else ""
    words = f"{given.words} {version}" if given.does in GIVES else given.words
    raise RefusedMove(
        f"cannot {words}: it needs the consent of somebody other than {actor}: "
        f"canaryctl approve {before.service_key} {move} {version}{limit}"
    )


def _is_same(one: str, other: str) -> bool:
    """Whether two names are one person's, however they are written."""
    return one.strip().casefold() == other.strip().casefold()


def _is_promoted(before: Policy, after: Policy) -> bool:
    """Whether everybody gets a version that they have not had before."""
    old, new = _stable(before), _stable(after)
    found = before.version_named(new)
    if new in ("", old):
        return False
    if not old and (found is None or found.status is VersionStatus.REGISTERED):
        # What a team had before, registered as stable; unless it says where it is, for then all
        # who had what Kong's service names get that.
        return any(v.version == new and v.backend is not None for v in after.versions)
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
