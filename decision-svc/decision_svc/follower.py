"""Keeps the snapshot at the store's state: by announcement at once, by revision every while.

It never takes policies away because the store is gone: the service goes on with what it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import structlog

from decision_svc.metrics import Metrics
from decision_svc.people import People
from decision_svc.snapshot import Snapshot
from decision_svc.store.protocol import (
    UNREACHABLE,
    UNREADABLE,
    PeopleStore,
    PolicyStore,
    StoreError,
    StoreUnavailable,
)

log = structlog.get_logger()

MAX_WHY = 1_000
_CANCEL_AGAIN_S = 0.1


class Follower:
    """Three loops: announced policies, announced profiles, and a comparison of revisions."""

    def __init__(
        self,
        policies: PolicyStore,
        profiles: PeopleStore,
        snapshot: Snapshot,
        people: People,
        metrics: Metrics,
        *,
        compare_every_s: float,
        on_store_state: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._policies, self._profiles = policies, profiles
        self._snapshot, self._people, self._metrics = snapshot, people, metrics
        self._compare_every_s = compare_every_s
        self._on_store_state = on_store_state
        self._is_up: bool | None = None
        self._refused: dict[str, str] = {}
        self._lost: set[str] = set()

    async def run(self) -> None:
        """Follow until cancelled."""
        loops = (
            self._compare_for_ever(),
            self._again(self._follow_policies),
            self._again(self._follow_profiles),
        )
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await cancel(*tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _compare_for_ever(self) -> None:
        while True:
            try:
                unreached = await self.compare()
                # Users are asked for where they can be, though it is not all of the store.
                self._people.is_store_up = True
                await self._store_is(not unreached, _told(unreached))
            except StoreError as error:
                self._people.is_store_up = False
                await self._store_is(False, str(error))
            except Exception as error:
                log.exception("comparing failed, trying again")
                self._people.is_store_up = False
                await self._store_is(False, str(error))
            await asyncio.sleep(self._compare_every_s)

    async def compare(self, *, anew: bool = False) -> Sequence[str]:
        """Bring every policy whose revision differs, or ``anew`` all.

        Returns the service keys whose server does not answer; raises StoreError if none does.
        """
        # A policy that comes while the store is asked is not in its answer, yet not lost.
        held = set(self._snapshot.policies())
        stored = await self._policies.revisions()
        unreached = [key for key, revision in stored.items() if revision == UNREACHABLE]
        for service_key, revision in stored.items():
            if revision == UNREACHABLE:
                continue
            if revision == UNREADABLE:
                self._refuse(service_key, "its revision in the store is not a number")
            elif anew or revision != self._snapshot.revision(service_key):
                await self._bring(service_key)
        self._look_for_lost(held - set(stored))
        if not unreached:
            self._snapshot.set_loaded()
        return unreached

    def _look_for_lost(self, lost: set[str]) -> None:
        """Nothing removes a policy, so one that is gone was lost with the store's data.

        The copy here goes on ruling: dropping it would change the variant of users who did
        nothing, because a server came back empty.
        """
        self._metrics.lost_policies.set(len(lost))
        for service_key in sorted(lost - self._lost):
            log.error(
                "policy is gone from the store, going on with the copy here",
                service_key=service_key,
            )
        self._lost = lost

    async def _bring(self, service_key: str) -> None:
        held = self._snapshot.get(service_key)
        try:
            document = await self._policies.load(service_key)
            if document is None:
                return
            policy = self._snapshot.documents.read(service_key, document).policy
        except StoreUnavailable:
            raise
        except StoreError as error:
            self._refuse(service_key, str(error))
            return
        self._refused.pop(service_key, None)
        # An answer that was overtaken by a newer revision is no sign of a store set back.
        is_overtaken = self._snapshot.get(service_key) is not held
        if not self._snapshot.put(policy) and not is_overtaken and policy != held:
            log.warning("store was set back", service_key=service_key, revision=policy.revision)
            self._snapshot.replace(policy)
            self._people.outdate_all()
            self._snapshot.profile_changed()
        self._metrics.revision.labels(service_key).set(self._snapshot.revision(service_key))

    def _refuse(self, service_key: str, why: str) -> None:
        """Keep the last good policy: something else than this service wrote that one."""
        if self._refused.get(service_key) != why:
            self._refused[service_key] = why
            self._metrics.bad_policies.inc()
            log.error("stored policy is invalid", service_key=service_key, error=why[:MAX_WHY])

    async def _follow_policies(self) -> None:
        async with aclosing(self._policies.watch()) as changes:
            async for service_key in changes:
                if service_key:
                    await self._bring(service_key)
                else:
                    # The subscription stands; what came before it may be missing. After a
                    # break even an equal revision may be another one, from a backup.
                    await self.compare(anew=self._snapshot.is_loaded)

    async def _follow_profiles(self) -> None:
        async with aclosing(self._profiles.watch_profiles()) as users:
            async for user in users:
                if user:
                    self._people.outdate(user)
                else:
                    self._people.outdate_all()
                self._snapshot.profile_changed(user)

    async def _again(self, follow: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await follow()
            except StoreError:
                pass  # The comparison reports the store's state; here only the pause matters.
            except Exception:
                log.exception("following failed, trying again")
            await asyncio.sleep(self._compare_every_s)

    async def _store_is(self, up: bool, error: str) -> None:
        self._metrics.store_up.set(up)
        if up is self._is_up:
            return
        self._is_up = up
        await self._on_store_state(up)
        if up:
            log.info("store reached", services=len(self._snapshot.policies()))
        else:
            log.error("store lost, going on from memory", error=error)


def _told(unreached: Sequence[str]) -> str:
    """Whose server is gone, in words."""
    return f"no answer about {len(unreached)} service keys: {', '.join(unreached)}"[:MAX_WHY]


async def cancel(*tasks: asyncio.Task[None]) -> None:
    """Cancel until they are done, for a cancellation can be lost.

    In Python 3.11 ``asyncio.wait_for``, which the Redis client uses, swallows one that comes
    at the moment of its answer; a loop would then go on for ever. Whoever waits here may be
    cancelled too, even twice: that is heard when they are done.
    """
    heard: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)
        except asyncio.CancelledError as cancelled:
            heard = cancelled
    await asyncio.gather(*tasks, return_exceptions=True)
    if heard is not None:
        raise heard
