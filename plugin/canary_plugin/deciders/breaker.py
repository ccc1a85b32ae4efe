"""Stops paying for somebody who does not answer, and finds out when they do again."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

MAX_FAILURES = 16
PROBE_EVERY_S = 0.1


class Breaker:
    """Open after ``MAX_FAILURES`` in a row; then one may ask every ``PROBE_EVERY_S``."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._probed = clock()

    @property
    def is_open(self) -> bool:
        """Whether asking is for probes only."""
        return self._failures >= MAX_FAILURES

    def may_ask(self) -> bool:
        """Whether to ask. While it is open, who is told yes is the probe and must ask."""
        if not self.is_open:
            return True
        now = self._clock()
        if now - self._probed < PROBE_EVERY_S:
            return False
        self._probed = now
        return True

    def failed(self) -> None:
        """There was no answer in time."""
        self._failures += 1
        if self._failures == MAX_FAILURES:
            self._probed = self._clock()

    def answered(self) -> None:
        """There was one."""
        self._failures = 0
