"""What is new of every release that a controller has to see to.

Policies come from memory; what Redis is asked for is asked for all releases together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from canary_engine.model import Policy, Release

from decision_svc.outcomes.protocol import Found, Outcomes, Wanted
from decision_svc.outcomes.slots import slot_of
from decision_svc.records.protocol import RecordKey, RecordState, RecordStore
from decision_svc.snapshot import Snapshot

FOLLOWED_FOR = timedelta(days=30)
"""How long after its end a release may be without a closed record. Records are kept longer, so
that none that was closed is ever taken for one that was not."""
SETTLED_AFTER = timedelta(minutes=10)
"""A release without a plan that has no record so long after its end will have none."""
AT_ONCE = 200


class Known(NamedTuple):
    """What the caller knows of a service key; zeros for nothing.

    ``requests`` are those it has heard of in each of the slots after ``slot``.
    """

    revision: int = 0
    slot: int = 0
    requests: Sequence[int] = ()


class Followed(NamedTuple):
    """A release in force, or one that has ended and whose record is not closed."""

    policy: Policy
    is_new: bool
    """Whether the caller has another revision of the policy, or none."""
    found: Found


class Following:
    """Follows releases. ``clock`` gives UTC."""

    def __init__(
        self,
        snapshot: Snapshot,
        outcomes: Outcomes,
        records: RecordStore,
        clock: Callable[[], datetime],
    ) -> None:
        self._snapshot, self._outcomes, self._records = snapshot, outcomes, records
        self._clock = clock
        # Service key to its latest release, once nothing follows of it any more.
        self._settled: dict[str, str] = {}

    def now(self) -> datetime:
        """The time here."""
        return self._clock()

    async def follow(self, known: Mapping[str, Known]) -> AsyncIterator[Followed]:
        """Every release there is to see to, by service key. Raises StoreError."""
        now = self._clock()
        chosen = await self._chosen(now)
        for start in range(0, len(chosen), AT_ONCE):
            some = chosen[start : start + AT_ONCE]
            wanted = [_wanted(p, release, known) for p, release in some]
            looked = await self._outcomes.look(wanted)
            for (policy, _), found in zip(some, looked, strict=True):
                has = known.get(policy.service_key, Known())
                yield Followed(policy, has.revision != policy.revision, found)

    async def _chosen(self, now: datetime) -> Sequence[tuple[Policy, Release]]:
        in_force, ended = [], []
        for service_key, policy in sorted(self._snapshot.policies().items()):
            release = policy.release
            if release is None:
                continue
            if release.is_in_force:
                # One that had ended may be brought back by going back to an earlier revision.
                self._settled.pop(service_key, None)
                in_force.append((policy, release))
            elif self._settled.get(service_key) != release.id and _is_recent(release, now):
                ended.append((policy, release))
        return in_force + await self._open(ended, now)

    async def _open(
        self, ended: Sequence[tuple[Policy, Release]], now: datetime
    ) -> list[tuple[Policy, Release]]:
        """Those of which something may follow still."""
        keys = [RecordKey(policy.service_key, release.id) for policy, release in ended]
        states = await self._records.states(keys) if keys else {}
        found = []
        for key, (policy, release) in zip(keys, ended, strict=True):
            state = states[key]
            if state is RecordState.OPEN or (state is RecordState.NONE and policy.plan):
                found.append((policy, release))
            elif state is RecordState.CLOSED or _has_settled(release, now):
                self._settled[key.service_key] = release.id
        return found


def _is_recent(release: Release, now: datetime) -> bool:
    return release.ended_at is not None and now - release.ended_at < FOLLOWED_FOR


def _has_settled(release: Release, now: datetime) -> bool:
    return release.ended_at is not None and now - release.ended_at > SETTLED_AFTER


def _wanted(policy: Policy, release: Release, known: Mapping[str, Known]) -> Wanted:
    """Outcomes after what the caller knows, but none from before the release."""
    began = slot_of(release.started_at.timestamp()) if release.started_at else 0
    has = known.get(policy.service_key, Known())
    # Gateways tell ages to within five seconds, so the first may be in the slot before.
    heard = dict(enumerate(has.requests, has.slot + 1))
    return Wanted(policy.service_key, release.id, max(has.slot, began - 2), heard)
