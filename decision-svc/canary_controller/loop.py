"""Ticks: keeps the lease, has everything reconciled, and never ends because of a trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from canary_controller.errors import AdminError
from canary_controller.lease import Lease
from canary_controller.metrics import Metrics

log = structlog.get_logger()


class Work(Protocol):
    """What is done in a tick by whoever holds the lease."""

    async def tick(self, token: int, may_act: Callable[[], bool]) -> None:
        """Do it once. ``token`` goes with every write; after ``may_act`` says no, none is made.

        Raises AdminError.
        """
        ...

    def lost_lease(self, other: str) -> None:
        """Another may act now: nothing that is in memory is to be believed any more."""
        ...


class Controller:
    """One of several, of which one acts. ``monotonic`` gives seconds."""

    def __init__(
        self,
        lease: Lease,
        work: Work,
        metrics: Metrics,
        *,
        look_every_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._lease, self._work, self._metrics = lease, work, metrics
        self._look_every_s, self._monotonic = look_every_s, monotonic
        self._had_lease = False
        self._trouble = ""

    @property
    def is_well(self) -> bool:
        """Whether the newest tick went well; holding no lease is well."""
        return not self._trouble

    async def run(self, stop: asyncio.Event, after_tick: Callable[[], Awaitable[None]]) -> None:
        """Tick until ``stop`` is set, then let another have the lease."""
        while not stop.is_set():
            began = self._monotonic()
            await self.tick()
            await after_tick()
            left_s = began + self._look_every_s - self._monotonic()
            self._metrics.late(max(0.0, -left_s))
            try:
                async with asyncio.timeout(max(left_s, 0)):
                    await stop.wait()
            except TimeoutError:
                continue
        await self.drop()

    async def tick(self) -> None:
        """Act once if this controller may."""
        began, trouble = self._monotonic(), ""
        try:
            if await self._holds():
                await self._work.tick(self._lease.token, lambda: self._lease.is_held)
        except AdminError as error:
            trouble = f"{type(error).__name__}: {error}"
        except Exception as error:
            log.exception("a tick failed")
            trouble = repr(error)
        self._tell(trouble)
        self._metrics.ticked(self._monotonic() - began, is_well=not trouble)

    async def drop(self) -> None:
        """Give the lease up."""
        self._metrics.lease(is_held=False, token=self._lease.token)
        try:
            await self._lease.drop()
        except AdminError as error:
            log.warning("the lease was not given up; it will run out", error=str(error))

    async def _holds(self) -> bool:
        """Whether it may act; tells when that changes."""
        try:
            return await self._lease.hold()
        finally:
            is_held = self._lease.is_held
            self._metrics.lease(is_held=is_held, token=self._lease.token)
            if is_held and not self._had_lease:
                log.info("holds the lease", token=self._lease.token)
            if self._had_lease and not is_held:
                log.warning("lost the lease", to=self._lease.other)
                self._work.lost_lease(self._lease.other)
            self._had_lease = is_held

    def _tell(self, trouble: str) -> None:
        """Log a trouble once, and that it is over."""
        if trouble and trouble != self._trouble:
            log.error("releases are not seen to", error=trouble)
        elif self._trouble and not trouble:
            log.info("releases are seen to again")
        self._trouble = trouble
