"""The end of a watched release: verified by what was measured after it, reported on, closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from canary_engine.baseline import BASELINE_ID
from canary_engine.model import Cohort, Policy, Release, Variant, VersionStatus
from canary_engine.record import Event, ReleaseRecord

from canary_controller import telling
from canary_controller.admin import Answered, Counted
from canary_controller.ending import AT_MOST, LONG, QUIET_SLOTS, SETTLED, End, Ended, verification
from canary_controller.measuring import Found
from canary_controller.slots import newest_complete
from canary_controller.watched import Watched


class Reports(Protocol):
    """Keeps what is left of a release when it is over."""

    async def write(self, policy: Policy, record: ReleaseRecord) -> None:
        """Write its report; a trouble is logged and keeps nothing from going on."""
        ...


async def see_off(w: Watched, found: Found, reports: Reports, now: datetime) -> None:
    """Verify the end, leave a report, and close the record once everybody has heard."""
    end, why = verified(w, found, now)
    before = w.newest_noted(End)
    if end is not End.PENDING and (before is None or before.what != end):
        w.note(Event(at=now, what=end, why=why))
        w.told_at = None
        if end is End.UNHEARD:  # nobody is kept waiting for what may never be heard
            await reports.write(w.policy, w.record)
        return
    is_done = is_over(w, end, now) and not w.mesh.held and telling.is_all_told(w)
    if is_done or now - (w.release.ended_at or now) > AT_MOST:
        await reports.write(w.policy, w.record)
        w.record = replace(w.record, is_closed=True, waits_for="")


async def leave(w: Watched, reports: Reports, now: datetime) -> None:
    """Report on a release that another has succeeded: nobody can verify its end any more."""
    w.note(Event(at=now, what="succeeded", why="another was started"))
    w.record = replace(w.record, is_closed=True, waits_for="")
    await reports.write(w.policy, w.record)


def hand_over(w: Watched, now: datetime) -> None:
    """Note that its plan was removed; it waits for nothing, and goes on if it gets one again."""
    w.note(Event(at=now, what="plan-removed", why="people alone move it from here on"))
    w.record = replace(w.record, gates=(), waits_for="")


def verified(w: Watched, found: Found, now: datetime) -> tuple[End, str]:
    """What became of the verification, and why in words; once verified it stays so."""
    if w.has_noted(End.VERIFIED):
        return End.VERIFIED, ""
    stable, newest = w.policy.version_with(VersionStatus.STABLE), newest_complete(now)
    name, counted = stable.version if stable is not None else "", _counted(w, found)
    ended = Ended(
        canary_requests=sum(
            w.slots.requests(cohort, newest - QUIET_SLOTS, newest)
            for cohort in (Cohort.DRAWN, Cohort.CHOSEN)
        )
        + _by_others(counted or (), w.release),
        stable=_answered(counted, name) if counted is not None else None,
        baseline_requests=_by_baselines(counted or ()),
    )
    end, why = verification(w.release, w.record, ended, now)
    if end is End.UNHEARD and _is_lately_unverified(w, now):
        return End.PENDING, why
    return end, why


def is_over(w: Watched, end: End, now: datetime) -> bool:
    """Whether nothing more is to be found out about the end."""
    is_late = now - (w.release.ended_at or now) > LONG
    return w.has_noted(End.VERIFIED) or (end is End.UNHEARD and is_late)


def _counted(w: Watched, found: Found) -> Sequence[Counted] | None:
    """How requests were answered in a minute after the end; None: nobody has asked since."""
    at = w.release.ended_at
    is_after = at is None or (found.at is not None and found.at - at >= SETTLED)
    return found.counted if is_after else None


def _answered(counted: Sequence[Counted], version: str) -> Answered:
    ours = [one for one in counted if one.version == version and not _is_by_baseline(one)]
    return Answered(sum(one.requests for one in ours), sum(one.errors for one in ours))


def _by_baselines(counted: Sequence[Counted]) -> int:
    return sum(one.requests for one in counted if _is_by_baseline(one))


def _by_others(counted: Sequence[Counted], release: Release) -> int:
    """Requests of the version under another release: a gateway goes by an old policy."""
    return sum(
        one.requests
        for one in counted
        if one.version == release.version
        and one.release_id not in ("", release.id)
        and not _is_by_baseline(one)
    )


def _is_by_baseline(one: Counted) -> bool:
    return one.variant is Variant.CANARY and one.release_id == BASELINE_ID


def _is_lately_unverified(w: Watched, now: datetime) -> bool:
    """Whether something spoke against it lately: some quiet does not undo that."""
    newest = w.newest_noted(End)
    return newest is not None and newest.what == End.UNVERIFIED and now - newest.at < LONG
