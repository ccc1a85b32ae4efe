"""Whether the end of a watched release is verified, given what was measured after it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from canary_engine.model import Cohort, VersionStatus

from canary_controller.admin import Answered
from canary_controller.ending import QUIET_SLOTS, SETTLED, End, Ended, verification
from canary_controller.measuring import Found
from canary_controller.slots import newest_complete
from canary_controller.watched import Watched

NOBODY = Answered(0, 0)


def verified(w: Watched, found: Found, now: datetime) -> tuple[End, str]:
    """What became of the verification, and why in words; once verified it stays so."""
    if w.has_noted(End.VERIFIED):
        return End.VERIFIED, ""
    stable, newest = w.policy.version_with(VersionStatus.STABLE), newest_complete(now)
    name, answered = stable.version if stable is not None else "", _answered(w, found)
    ended = Ended(
        canary_requests=sum(
            w.slots.requests(cohort, newest - QUIET_SLOTS, newest)
            for cohort in (Cohort.DRAWN, Cohort.CHOSEN)
        ),
        stable=answered.get(name, NOBODY) if answered is not None else None,
    )
    return verification(w.release, w.record, ended, now)


def _answered(w: Watched, found: Found) -> Mapping[str, Answered] | None:
    """How versions were answered in a minute after the end; None: nobody has asked since."""
    at = w.release.ended_at
    is_after = at is None or (found.at is not None and found.at - at >= SETTLED)
    return found.answered if is_after else None
