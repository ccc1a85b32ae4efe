"""Where reported metrics are kept for as long as anybody judges by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from canary_engine.reports import Series, Total

from decision_svc.store.protocol import StoreError

MINUTE_S = 60
KEPT_S = 14_400
"""How long they are kept."""
REPEATED_S = 3_600
"""For how long a report is known to be the same by its id."""
MAX_SERIES = 1_000
"""How many series of one service key a minute holds."""


class Sample(NamedTuple):
    """What one report says of a series, ``age_s`` ago."""

    series: Series
    age_s: float
    total: Total


class TooManySeries(StoreError):  # noqa: N818 - it says what is the matter
    """A minute has no room for another series."""

    def __init__(self, service_key: str) -> None:
        super().__init__(
            f"{service_key} has more than {MAX_SERIES:,} series in a minute: report fewer "
            "dimensions, or fewer values of them"
        )


class ReportedStore(Protocol):
    """Totals by series in minutes of Unix time, kept for KEPT_S."""

    async def add(self, service_key: str, report_id: str, samples: Sequence[Sample]) -> bool:
        """Add a report, whole. False, and nothing is added, if one of this id was added.

        ``report_id`` "" is no id. Raises TooManySeries; nothing is added then.
        StoreUnavailable leaves open whether it was: repeat it under the same id.
        """
        ...

    async def read(self, service_key: str, window_s: float) -> Mapping[Series, Total]:
        """What was observed in the minutes of which any moment lies in the last ``window_s``."""
        ...


def minute_of(now: float, age_s: float = 0.0) -> int:
    """The minute of what was observed ``age_s`` ago."""
    return int((now - age_s) // MINUTE_S)


def minutes(now: float, window_s: float) -> range:
    """The minutes that the last ``window_s`` seconds touch."""
    return range(minute_of(now, window_s), minute_of(now) + 1)
