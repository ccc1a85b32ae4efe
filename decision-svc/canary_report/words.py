"""Numbers and moments as people read them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from html import escape

from canary_engine.model import BUCKETS
from canary_engine.plan import UNITS
from canary_engine.record import PROMOTION

NOTHING = "–"

_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def moment(at: datetime | None) -> str:
    """A moment in UTC, to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S}" if at is not None else NOTHING


def lasting(span: timedelta | None) -> str:
    """A length of time in its two largest units."""
    if span is None:
        return NOTHING
    left = max(int(span.total_seconds()), 0)
    said: list[str] = []
    for unit, unit_s in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, unit_s)
        if count and len(said) < 2:
            said.append(f"{count} {unit}")
    return " ".join(said) or "0 s"


def weight(share: int) -> str:
    """A share of the traffic; what stands for the promotion is called so."""
    return "promotion" if share >= PROMOTION else f"{share * 100 / BUCKETS:g} %"


def number(value: float | None) -> str:
    """A number with three digits that matter, never in a form that only programs read."""
    if value is None:
        return NOTHING
    if value != value:  # not a number
        return NOTHING
    size = abs(value)
    if size >= 1e6:
        return f"{value:.1e}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size >= 0.001 or not size else f"{value:.1e}"


def measured(metric: str, value: float | None) -> str:
    """A value of a metric with its unit."""
    if value is None:
        return NOTHING
    unit = next((unit for known, unit in UNITS.items() if known == metric), "")
    return f"{number(value)} {unit}".rstrip()


def counted(count: int, noun: str) -> str:
    """How many there are, in words."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def in_markup(text: str) -> str:
    """Text as HTML and SVG show it; what no page can hold is left out."""
    return escape(_UNSHOWN.sub("", text))
