"""Who may act: the lease as one controller sees it, by its own clock.

A lease is counted from before it was asked for, so it ends here before it ends at the service. It
only saves work and races: what keeps an old controller from acting is the token, which goes with
every write and which the service compares.
"""

from __future__ import annotations

from collections.abc import Callable

from canary_controller.admin import Leases
from canary_controller.errors import AdminError

RENEW_AFTER = 1 / 3
"""The part of its time after which a lease is asked for again."""


class Lease:
    """Asked for before every tick; ``monotonic`` gives seconds."""

    def __init__(
        self, leases: Leases, holder: str, valid_s: int, monotonic: Callable[[], float]
    ) -> None:
        self._leases, self.holder, self._valid_s = leases, holder, valid_s
        self._monotonic = monotonic
        self._until = self._asked_at = float("-inf")
        self.token = 0
        self.other = ""

    @property
    def is_held(self) -> bool:
        """Whether this controller may act now."""
        return self._monotonic() < self._until

    async def hold(self) -> bool:
        """Take or keep it; whether it is held. Raises AdminError if nobody can say and it ended."""
        now = self._monotonic()
        if now < self._until and now < self._asked_at + self._valid_s * RENEW_AFTER:
            return True
        try:
            answer = await self._leases.hold_lease(self.holder, self._valid_s)
        except AdminError:
            if self.is_held:
                return True
            raise
        self.other = "" if answer.is_held else answer.holder
        self._until = now + answer.left_s if answer.is_held else float("-inf")
        self._asked_at = now
        if answer.is_held:
            self.token = answer.token
        return self.is_held

    async def drop(self) -> None:
        """Let another have it at once. Raises AdminError."""
        if self.is_held:
            self._until = float("-inf")
            await self._leases.drop_lease(self.holder)
