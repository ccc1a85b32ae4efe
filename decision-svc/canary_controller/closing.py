"""Whether the end of a watched release is verified, given what was measured after it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from canary_engine.baseline import BASELINE_ID
from canary_engine.model import Cohort, Release, Variant, VersionStatus

from canary_controller.admin import Answered, Counted
from canary_controller.ending import LONG, QUIET_SLOTS, SETTLED, End, Ended, verification
from canary_controller.measuring import Found
from canary_controller.slots import newest_complete
from canary_controller.watched import Watched


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
