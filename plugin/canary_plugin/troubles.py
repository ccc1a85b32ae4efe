"""What went wrong, counted by cause and told once an interval, never once a request."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

log = logging.getLogger("canary_plugin")

INTERVAL_S = 10.0
"""How often a cause is told at most."""


class Troubles:
    """Counts by cause. The clock gives seconds and only grows."""

    def __init__(self, clock: Callable[[], float], interval_s: float = INTERVAL_S) -> None:
        self._clock, self._interval_s = clock, interval_s
        self.counts: Counter[str] = Counter()
        self._told: dict[str, tuple[float, int]] = {}

    def count(self, cause: str, detail: str) -> None:
        """Count a trouble; tell it if its cause was not told for an interval.

        ``detail`` must not hold what a client sent.
        """
        self.counts[cause] += 1
        now = self._clock()
        when, told = self._told.get(cause, (-self._interval_s, 0))
        if now - when >= self._interval_s:
            self._told[cause] = (now, self.counts[cause])
            log.warning(
                "%s (%d since last told, %d in all): %s",
                cause, self.counts[cause] - told, self.counts[cause], detail[:500],
            )  # fmt: skip
