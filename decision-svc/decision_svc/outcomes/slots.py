"""Slots in which outcomes are counted: which one a moment falls into, and which are looked at."""

from __future__ import annotations

import math
from collections.abc import Iterable

from canary_engine.outcomes import Labels

from decision_svc.outcomes.protocol import SLOT_S, SLOTS_AT_ONCE

# Versions come from gateways; more of one service key in ten seconds is a mistake.
MAX_LABELS = 200


def slot_of(now: float, age_s: float = 0.0) -> int:
    """The slot of what happened ``age_s`` ago."""
    return int((now - age_s) // SLOT_S)


def window(now: float, window_s: int) -> range:
    """The slots of the last ``window_s`` seconds, rounded up to whole ones."""
    newest = slot_of(now)
    return range(newest - math.ceil(window_s / SLOT_S) + 1, newest + 1)


def ahead(now: float, after: int, kept_s: int) -> tuple[range, bool]:
    """The slots after ``after`` that are looked at now, and whether there are more.

    One beyond the present is among them, for another replica's clock may be fast.
    """
    newest = slot_of(now) + 1
    first = max(after + 1, slot_of(now, kept_s))
    last = min(first + SLOTS_AT_ONCE - 1, newest)
    return range(first, last + 1), last < newest


def merged_into(labels: Labels) -> Labels:
    """The labels that count what a slot has no room for."""
    return labels._replace(version="other", release_id="other")


def service_keys(labels: Iterable[Labels]) -> list[str]:
    """The service keys of a batch, in order; [""] for an empty one."""
    return sorted({found.service_key for found in labels}) or [""]
