"""Reported metrics in memory, gone when the service ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from canary_engine.reports import Series, Total, together

from decision_svc.reported.protocol import (
    KEPT_S,
    MAX_SERIES,
    Sample,
    TooManySeries,
    minute_of,
    minutes,
)

_REPORT_IDS = 10_000

_Minute = dict[Series, Total]


class MemoryReported:
    """See ReportedStore. ``clock`` gives Unix time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._minutes: dict[tuple[str, int], _Minute] = {}
        self._report_ids: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def add(self, service_key: str, report_id: str, samples: Sequence[Sample]) -> bool:
        """See ReportedStore."""
        self._forget_old()
        name = (service_key, report_id)
        if name in self._report_ids:
            return False
        now, changed = self._clock(), dict[tuple[str, int], _Minute]()
        for series, age_s, total in samples:
            key = (service_key, minute_of(now, age_s))
            minute = changed.setdefault(key, dict(self._minutes.get(key, {})))
            minute[series] = together(minute.get(series, Total()), total)
        if any(len(minute) > MAX_SERIES for minute in changed.values()):
            raise TooManySeries(service_key)
        self._minutes |= changed
        if report_id:
            self._report_ids[name] = None
            if len(self._report_ids) > _REPORT_IDS:
                self._report_ids.popitem(last=False)
        return True

    async def read(self, service_key: str, window_s: float) -> Mapping[Series, Total]:
        """See ReportedStore."""
        found: _Minute = {}
        for minute in minutes(self._clock(), window_s):
            for series, total in self._minutes.get((service_key, minute), {}).items():
                found[series] = together(found.get(series, Total()), total)
        return found

    def _forget_old(self) -> None:
        first = minute_of(self._clock(), KEPT_S)
        for key in [key for key in self._minutes if key[1] < first]:
            del self._minutes[key]
