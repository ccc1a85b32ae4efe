"""Whether a release ended as it should: nobody on the canary, stable as before; pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from canary_engine.model import Release, ReleaseStatus
from canary_engine.record import ReleaseRecord

from canary_controller.admin import Answered

WINDOW_S = 60
SETTLED = timedelta(seconds=WINDOW_S + 2)
"""In two seconds every gateway has heard of the end; then the minute begins that is looked at."""
QUIET_SLOTS = 2
"""So many complete slots without a request of the canary are enough; they lie in that minute."""
LONG = timedelta(minutes=10)
"""After this people are told that it could not be verified; it is tried on. Where nothing was heard
for so long, nothing more is waited for."""
AT_MOST = timedelta(days=1)
"""After this nobody looks any more."""
LEAST_REQUESTS = 20
_TIMES, _POINTS = 2.0, 1.0


class End(StrEnum):
    """What became of the verification."""

    PENDING = "pending"
    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    UNHEARD = "unheard"
    """No request was heard of at all: nothing speaks against the end, and nothing for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What is seen after the end.

    ``canary_requests`` are those of the newest QUIET_SLOTS complete slots, ``baseline_requests``
    those of the last minute that gateways gave a canary by their own files, ``stable`` how the
    version that everybody has now was answered in that minute; None: nobody knows.
    """

    canary_requests: int
    stable: Answered | None
    baseline_requests: int = 0


def verification(
    release: Release, record: ReleaseRecord, ended: Ended, now: datetime
) -> tuple[End, str]:
    """Whether the end is verified, and why, in words."""
    at = release.ended_at or now
    late = End.UNVERIFIED if now - at > LONG else End.PENDING
    if now - at < SETTLED:
        return End.PENDING, "gateways are still to be heard from"
    if ended.canary_requests and release.status is not ReleaseStatus.COMPLETED:
        return late, f"{ended.canary_requests} requests still went to {release.version}"
    if ended.baseline_requests and release.status is ReleaseStatus.ROLLED_BACK:
        # It will not end by itself, so nobody is made to wait for it.
        return End.UNVERIFIED, _by_baseline(record.service_key, ended)
    if ended.stable is None:
        return late, "the service does not say how stable answers"
    before = rate_before(release, record)
    if before is not None and _is_worse(ended.stable, before):
        rate = 100 * ended.stable.errors / ended.stable.requests
        return late, f"{rate:.3g} % of stable's requests fail; it was {before:.3g} % before"
    if not ended.stable.requests and release.status is ReleaseStatus.ROLLED_BACK:
        return End.UNHEARD, _nothing(release, record.service_key)
    return End.VERIFIED, _well(release, ended)


def rate_before(release: Release, record: ReleaseRecord) -> float | None:
    """The error rate, in percent, of the version that everybody has now; None: not known.

    After a promotion it is the canary's, else control's: the mean over the points there are.
    """
    is_promoted = release.status is ReleaseStatus.COMPLETED
    sides = [point.canary if is_promoted else point.control for point in record.points]
    rates = [side.errors.rate for side in sides if side.errors.rate is not None]
    return sum(rates) / len(rates) if rates else None


def _is_worse(stable: Answered, before: float) -> bool:
    """Whether stable fails clearly more often than it did; a few requests say nothing."""
    if stable.requests < LEAST_REQUESTS:
        return False
    return 100 * stable.errors / stable.requests > max(_TIMES * before, before + _POINTS)


def _well(release: Release, ended: Ended) -> str:
    said = [f"no request goes to {release.version} any more", f"of stable's {_fails(ended.stable)}"]
    if release.status is ReleaseStatus.COMPLETED:
        said = [f"everybody gets {release.version}", f"of its {_fails(ended.stable)}"]
    elif ended.baseline_requests:
        said[0] = f"no request goes to {release.version} by this release"
        said.append(f"{ended.baseline_requests} went to a canary by the gateways' own files")
    return "; ".join(said)


def _fails(stable: Answered | None) -> str:
    if stable is None or not stable.requests:
        return "none was heard of in the last minute"
    return f"{stable.errors} of the {stable.requests} requests of the last minute failed"


def _by_baseline(service_key: str, ended: Ended) -> str:
    return (
        f"{ended.baseline_requests} requests of the last minute went to a canary by the gateways' "
        "own files, which rule again since the release is over: canaryctl baselines "
        f"{service_key} names the gateways; set percentage to 0 there, take the whitelists out, "
        "and reload"
    )


def _nothing(release: Release, service_key: str) -> str:
    return (
        f"nothing was heard in the last minute: no request of {release.version}, and none of "
        "stable, which gateways tell of only with label_stable. That nobody gets "
        f"{release.version} any more is likely and not shown: canaryctl baselines {service_key} "
        "tells whom gateways give a canary"
    )
