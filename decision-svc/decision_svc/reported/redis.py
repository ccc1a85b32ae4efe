"""Reported metrics in Redis: every replica adds to the same minutes.

Keys, all in the slot of their service key::

    canary:{<slot>}:reported:<n>      hash    s<series> -> sum, c<series> -> count, of the n-th
                                              minute of Unix time; a series is MessagePack
    canary:{<slot>}:report:<id>       string  that a report of this id was added
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack
from canary_engine.plan import Metric
from canary_engine.reports import Series, Total, together

from decision_svc.reported.protocol import (
    KEPT_S,
    MAX_SERIES,
    MINUTE_S,
    REPEATED_S,
    Sample,
    TooManySeries,
    minute_of,
    minutes,
)
from decision_svc.store.connection import Connection, as_bytes, slot_key
from decision_svc.store.protocol import StoreError
from decision_svc.store.servers import Script, whole_hash

_REPEATED, _FULL = 0, -1


class RedisReported:
    """See ReportedStore. ``clock`` gives Unix time."""

    def __init__(self, connection: Connection, clock: Callable[[], float]) -> None:
        self._connection, self._clock = connection, clock
        self._add = Script("add_reported.lua")

    async def add(self, service_key: str, report_id: str, samples: Sequence[Sample]) -> bool:
        """See ReportedStore."""
        now = self._clock()
        keys = [slot_key(service_key, "report", report_id)]
        args: list[Any] = [REPEATED_S if report_id else 0, MAX_SERIES]
        indices: dict[int, int] = {}
        for series, age_s, total in samples:
            minute = minute_of(now, age_s)
            if minute not in indices:
                keys.append(_minute_key(service_key, minute))
                indices[minute] = len(keys)
            args += [indices[minute], (minute + 1) * MINUTE_S + KEPT_S]
            args += [_pack(series), repr(total.sum), total.observations]
        answer = await self._connection.ask(keys[0], self._add.on(keys, args))
        if answer == _FULL:
            raise TooManySeries(service_key)
        return bool(answer != _REPEATED)

    async def read(self, service_key: str, window_s: float) -> Mapping[Series, Total]:
        """See ReportedStore."""
        keys = [_minute_key(service_key, minute) for minute in minutes(self._clock(), window_s)]
        answers = await self._connection.ask_all([whole_hash(key) for key in keys])
        found: dict[Series, Total] = {}
        for key, answer in zip(keys, answers, strict=True):
            for series, total in _totals(key, answer).items():
                found[series] = together(found.get(series, Total()), total)
        return found


def _minute_key(service_key: str, minute: int) -> str:
    return slot_key(service_key, "reported", str(minute))


def _pack(series: Series) -> bytes:
    metric, name, version, dimensions = series
    packed: bytes = msgpack.packb([str(metric), name, version, dimensions])
    return packed


def _totals(key: str, answer: Mapping[Any, Any]) -> Mapping[Series, Total]:
    fields = {as_bytes(name): as_bytes(data) for name, data in answer.items()}
    found = {}
    try:
        for name, data in fields.items():
            if name[:1] == b"s":
                found[_unpack(name[1:])] = Total(float(data), int(fields[b"c" + name[1:]]))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise StoreError(f"{key} holds something that is not a reported metric") from error
    return found


def _unpack(packed: bytes) -> Series:
    metric, name, version, dimensions = msgpack.unpackb(packed)
    return Series(Metric(metric), name, version, tuple((n, v) for n, v in dimensions))
