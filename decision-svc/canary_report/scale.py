"""Scales of plots: from values to places, and ticks at numbers that people like; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

MOST_TICKS = 7
SMALLEST, LARGEST = 1e-6, 1e200
"""What is beyond is drawn at the edge."""
_STEPS_S = (
    1, 5, 10, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400,
    172_800, 604_800, 2_592_000, 31_536_000,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps ``low`` to ``start`` and ``high`` to ``end``, evenly or by powers of ten."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def linear_ticks(high: float) -> list[float]:
    """Ticks from 0 to at least ``high``, at steps of 1, 2 or 5."""
    high = min(max(high, SMALLEST), LARGEST) if high > 0 else 1.0
    raw = high / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    return [round(step * n, 12) for n in range(math.ceil(high / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from at most ``low`` to at least ``high``, not too many of them."""
    low, high = (min(max(value, SMALLEST), LARGEST) for value in (low, high))
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    every = math.ceil((last - first) / (MOST_TICKS - 1))
    return [10.0**n for n in range(first, last + every, every)]


def time_ticks(start: datetime, end: datetime) -> list[datetime]:
    """Round moments between two others."""
    span_s = max((end - start).total_seconds(), 1.0)
    step_s = next((s for s in _STEPS_S if span_s / s <= MOST_TICKS), _STEPS_S[-1])
    first = math.ceil(start.timestamp() / step_s) * step_s
    count = int((end.timestamp() - first) // step_s) + 1
    return [datetime.fromtimestamp(first + step_s * n, UTC) for n in range(max(count, 0))]


def time_label(at: datetime, span: timedelta) -> str:
    """A tick's moment, with as much of it as tells it from the others."""
    if span > timedelta(days=2):
        return f"{at:%b %d}" if (at.hour, at.minute) == (0, 0) else f"{at:%b %d %H:%M}"
    return f"{at:%H:%M:%S}" if span < timedelta(minutes=7) else f"{at:%H:%M}"


def widest(values: Iterable[float | None]) -> float:
    """The largest of the values that are known and finite; 0 if there are none."""
    return max((v for v in values if v is not None and math.isfinite(v)), default=0.0)
