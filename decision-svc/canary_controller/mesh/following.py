"""Keeps meshes in step with their releases, in the background: a slow cluster makes nobody wait.

A mesh is looked at when its policy has changed, and every LOOK_EVERY however long nothing has. The
policy is read from the store for each look, so a mesh is raised only to what is stored by then. Who
has lost the lease, or has heard of a newer policy meanwhile, writes nothing any more. Right before
a release rises its mesh is looked at once more: a cluster that went away a moment ago holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from canary_engine.mesh import NO_MESH, MeshSight
from canary_engine.model import Policy
from canary_istio.cluster import Cluster, Object
from canary_istio.errors import Raced
from canary_istio.keeping import Kept, Standing, keep
from canary_istio.routes import share_of, taking_traffic

from canary_controller.admin import Policies
from canary_controller.errors import AdminError, Refused, Unknown
from canary_controller.mesh.settings import Entry

log = structlog.get_logger()

LOOK_EVERY = timedelta(seconds=10)
AGAIN = timedelta(seconds=2)
"""So soon a mesh that is not in step is tried again."""
FRESH = timedelta(minutes=3)
"""What was seen longer ago than this lets no release rise; a controller may tick once a minute."""
DRIFT_SHOWN = timedelta(minutes=2)
MOST_AT_ONCE = 32
WITHIN_S = 20.0
"""The longest that one look may take; each of its calls has a deadline of its own."""
NO_POLICY = "the decision service has no policy of this service key: is it spelled right?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How a mesh stood at its newest look. Shares are of BUCKETS.

    ``wanted`` is what the release gives, ``share`` what the mesh gave when that was last known;
    None: never. ``drift`` is what somebody else changed last, found at ``drift_at``.
    """

    at: datetime
    revision: int
    kept: Kept
    wanted: int
    share: int | None
    drift: tuple[str, ...] = ()
    drift_at: datetime | None = None


class Counts(Protocol):
    """Counts looks at meshes."""

    def mesh_looked(self, service_key: str, seen: Seen) -> None:
        """A mesh was looked at."""
        ...

    def meshes_forgotten(self) -> None:
        """This controller sees to meshes no more."""
        ...


class FollowingMeshes:
    """See Meshes. ``entries`` are by service key; all that is in memory can be seen again."""

    def __init__(
        self, entries: Mapping[str, Entry], policies: Policies, cluster: Cluster, counts: Counts
    ) -> None:
        self._entries, self._policies = entries, policies
        self._cluster, self._counts = cluster, counts
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._newest: Mapping[str, int] = {}
        self._seen: dict[str, Seen] = {}
        self._asked: dict[str, datetime] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def see(self, revisions: Mapping[str, int], now: datetime, may_act: Callable[[], bool]) -> None:
        """See Meshes; returns at once."""
        self._newest = dict(revisions)
        for key, entry in self._entries.items():
            if key not in self._tasks and self._is_due(key, now):
                task = asyncio.get_running_loop().create_task(self._look(key, entry, now, may_act))
                self._tasks[key] = task
                self._ending.add(task)
                task.add_done_callback(self._ended)

    def sight(self, policy: Policy, now: datetime) -> MeshSight:
        """See Meshes."""
        key = policy.service_key
        if key not in self._entries:
            return NO_MESH
        seen = self._seen.get(key)
        if seen is None:
            return MeshSight(held="its mesh has not been looked at yet")
        trouble, wanted = _trouble(seen, now), share_of(taking_traffic(policy))
        is_behind = seen.revision != policy.revision
        held = f"its mesh is brought to revision {policy.revision}" if is_behind else ""
        # That somebody gave the canary less is told of as drift.
        is_told = bool(seen.drift) and seen.kept.standing is Standing.LEFT_LOWER
        return MeshSight(
            held=trouble or held,
            trouble="" if is_told else trouble,
            exceeds=seen.share > wanted if seen.share is not None else not wanted,
            drift=_drift(seen, now),
        )

    def hold(self, policy: Policy, now: datetime) -> str:
        """See Meshes."""
        key = policy.service_key
        if key not in self._entries:
            return ""
        asked, seen = self._asked.get(key), self._seen.get(key)
        if asked is None or asked > now:  # the service's clock may have been set back
            self._asked[key] = asked = now
        if seen is None or not asked <= seen.at < now:
            return "its mesh is looked at before it rises"
        del self._asked[key]
        return ""

    def forget(self) -> None:
        """See Meshes."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self._seen.clear()
        self._asked.clear()
        self._newest = {}
        self._counts.meshes_forgotten()

    async def close(self) -> None:
        """End what is in progress."""
        self.forget()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        for key in [key for key, other in self._tasks.items() if other is task]:
            del self._tasks[key]

    def _is_due(self, key: str, now: datetime) -> bool:
        seen = self._seen.get(key)
        if seen is None or seen.revision != self._newest.get(key, seen.revision):
            return True
        if seen.at < self._asked.get(key, seen.at):
            return True
        every = LOOK_EVERY if seen.kept.may_rise else AGAIN
        return not timedelta(0) <= now - seen.at < every

    async def _look(
        self, key: str, entry: Entry, now: datetime, may_act: Callable[[], bool]
    ) -> None:
        async with self._places:
            try:
                policy = await self._policies.policy(key)
            except (Unknown, Refused) as error:
                why = NO_POLICY if isinstance(error, Unknown) else f"of the policy: {error}"
                self._take(key, 0, 0, Kept(standing=Standing.DENIED, why=why), now)
                return
            except AdminError:
                return  # whoever ticks finds that out, too, and says so
            kept = await self._kept(policy, entry, may_act)
            self._take(key, policy.revision, share_of(taking_traffic(policy)), kept, now)

    async def _kept(self, policy: Policy, entry: Entry, may_act: Callable[[], bool]) -> Kept:
        """What came of the look; a mistake of ours holds the release like a dead cluster."""

        def refusal() -> str:
            if not may_act():
                return "this controller has lost its lease"
            newest = self._newest.get(policy.service_key, 0)
            return f"revision {newest} is newer" if newest > policy.revision else ""

        try:
            async with asyncio.timeout(WITHIN_S):
                guarded = _Guarded(self._cluster, refusal)
                return await keep(policy, entry.mesh, guarded, leave_out=entry.leave_out)
        except TimeoutError:
            return Kept(standing=Standing.HELD, why=f"the API server took more than {WITHIN_S:g} s")
        except Exception as error:
            log.exception("a mesh is not seen to", service_key=policy.service_key)
            return Kept(standing=Standing.HELD, why=f"its routes cannot be read: {error!r}")

    def _take(self, key: str, revision: int, wanted: int, kept: Kept, now: datetime) -> None:
        before = self._seen.get(key)
        seen = Seen(
            at=now,
            revision=revision,
            kept=kept,
            wanted=wanted,
            share=kept.share if kept.share is not None or before is None else before.share,
        )
        if kept.drift:
            seen = replace(seen, drift=kept.drift, drift_at=now)
        elif before is not None:
            seen = replace(seen, drift=before.drift, drift_at=before.drift_at)
        self._seen[key] = seen
        self._counts.mesh_looked(key, seen)
        _tell(key, before, seen)


class _Guarded:
    """A cluster to which nothing is written once there is a ``refusal``."""

    def __init__(self, cluster: Cluster, refusal: Callable[[], str]) -> None:
        self._cluster, self._refusal = cluster, refusal

    async def read(self, kind: str, namespace: str, name: str) -> Object | None:
        """See Cluster."""
        return await self._cluster.read(kind, namespace, name)

    async def apply(self, wanted: Object, *, force: bool) -> None:
        """See Cluster."""
        if why := self._refusal():
            raise Raced(why)
        await self._cluster.apply(wanted, force=force)


def _trouble(seen: Seen, now: datetime) -> str:
    if not timedelta(0) <= now - seen.at < FRESH:
        return f"its mesh has not been looked at since {seen.at:%H:%M:%S} UTC"
    if seen.kept.may_rise:
        return ""
    return f"its mesh is not in step ({seen.kept.standing}): {seen.kept.why}"


def _drift(seen: Seen, now: datetime) -> str:
    if seen.drift_at is None or now - seen.drift_at >= DRIFT_SHOWN:
        return ""
    told = "; ".join(seen.drift)
    if seen.kept.standing is Standing.LEFT_LOWER:
        return f"{told}. It gives the canary less, so it stays, and the release is not raised"
    return f"{told}. It was undone" if seen.kept.may_rise else told


def _tell(key: str, before: Seen | None, seen: Seen) -> None:
    """Log what is new."""
    kept = seen.kept
    is_same = before is not None and (before.kept.standing, before.kept.why) == (
        kept.standing,
        kept.why,
    )
    if is_same and kept.standing is not Standing.APPLIED:
        return
    tell = log.warning if kept.is_alarming else log.info
    tell(
        "a mesh was looked at",
        service_key=key,
        standing=str(kept.standing),
        revision=seen.revision,
        share=seen.share,
        why=kept.why,
        drift=list(kept.drift),
    )
