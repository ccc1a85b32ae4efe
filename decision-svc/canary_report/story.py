"""What a report is made of, and the facts that follow from it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from canary_engine.model import Policy, Release, ReleaseStatus, Variant, VersionStatus
from canary_engine.plan import Plan
from canary_engine.record import Finding, ReleaseRecord

FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the policy: who made it, what it was, and why."""

    revision: int
    actor: str
    at: datetime
    reason: str = ""
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Everything that is known of one release.

    ``policy`` is as it was when the release ended, or is now; one that is about another release
    says nothing of this one. ``exposure`` is how many distinct users each variant has served.
    ``changes`` are of the service key, in any order, also those before and after the release.
    """

    record: ReleaseRecord
    policy: Policy
    exposure: Mapping[Variant, int] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    made_at: datetime

    @property
    def release(self) -> Release | None:
        """The release itself, if the policy is about it."""
        release = self.policy.release
        return release if release is not None and release.id == self.record.release_id else None

    @property
    def plan(self) -> Plan | None:
        """Its plan."""
        return self.policy.plan if self.release is not None else None

    @property
    def version(self) -> str:
        """The version that was released; the release's id if that is not known."""
        return self.release.version if self.release else f"release {self.record.release_id}"

    @property
    def stable_version(self) -> str:
        """What it is released over; "" if that is not known."""
        if self.record.stable_version or self.release is None or not self.release.is_in_force:
            return self.record.stable_version
        stable = self.policy.version_with(VersionStatus.STABLE)
        return stable.version if stable is not None else ""

    @property
    def status(self) -> ReleaseStatus | None:
        """How it ended, or stands; None if that is not known."""
        return self.release.status if self.release else None

    @property
    def began(self) -> datetime | None:
        """When it began."""
        if self.release is not None and self.release.started_at is not None:
            return self.release.started_at
        return min(self._moments, default=None)

    @property
    def ended(self) -> datetime | None:
        """When it ended; None if it goes on or that is not known."""
        return self.release.ended_at if self.release else None

    @property
    def until(self) -> datetime:
        """Until when something is known of it."""
        return max((*self._moments, *((self.ended,) if self.ended else ())), default=self.made_at)

    @property
    def highest_weight(self) -> int:
        """The largest share that it ever had, of BUCKETS."""
        shares = [point.weight for point in self.record.points]
        return max(shares + ([self.release.share] if self.release else []), default=0)

    @property
    def decisive(self) -> tuple[Finding, ...]:
        """What speaks against the canary, by the judge."""
        return tuple(found for found in self.record.findings if found.verdict == FAIL)

    @property
    def changes_within(self) -> tuple[Change, ...]:
        """The changes from the one that began the release to the one that ended it, in order.

        A change is dated when it is written, a moment after the time that it writes.
        """
        first, last = self.began, self.ended or (None if self.release else self.until)
        found: list[Change] = []
        for change in sorted(self.changes, key=lambda change: change.revision):
            if first is not None and change.at >= first:
                found.append(change)
                if last is not None and change.at >= last:
                    break
        return tuple(found)

    @property
    def last_change(self) -> Change | None:
        """The change that ended it."""
        return self.changes_within[-1] if self.ended and self.changes_within else None

    @property
    def _moments(self) -> list[datetime]:
        record = self.record
        return [
            *(point.at for point in record.points),
            *(event.at for event in record.events),
            *((record.written_at,) if record.written_at else ()),
        ]
