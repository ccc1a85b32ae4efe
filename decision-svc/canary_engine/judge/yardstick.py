"""Control's recent latencies: the limits beyond which a request of either side counts as late.

A slot's limits come from slots before it, so they are settled before its requests are counted.
While there are too few, they are quantiles of the slot itself, of both sides together (the canary's
brought down by what is tolerated). Given who is in the slot and how long everybody took, which of
them the canary's are is still a matter of the draw alone, so the test of decision 14 holds as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from canary_engine.histogram import Histogram
from canary_engine.judge.slots import Slot

RENEWED_AFTER_SLOTS = 30
_LEAST_FIRST = 100
_LEAST_FOR_OLD_TO_GO = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """``limits`` are buckets, one for each quantile that is compared; () until there are any.

    They were made from ``made_from`` requests, ``slots`` slots ago. Old latencies go when the
    younger ones are enough, so limits follow the time of day.
    """

    limits: tuple[int, ...] = ()
    made_from: int = 0
    slots: int = 0
    old: Histogram = field(default_factory=Histogram)
    young: Histogram = field(default_factory=Histogram)


def limits_for(
    yardstick: Yardstick, slot: Slot, quantiles: Sequence[float], slower: Sequence[int]
) -> tuple[int, ...]:
    """The limits that rule in a slot: buckets of control, the canary's are ``slower`` above."""
    if yardstick.limits:
        return yardstick.limits
    if not slot.canary.latency.count or not slot.control.latency.count:
        return tuple(0 for _ in quantiles)
    return tuple(
        _bucket_at(_together(slot, less), (quantile,))[0]
        for quantile, less in zip(quantiles, slower, strict=True)
    )


def add(yardstick: Yardstick, slot: Slot, quantiles: Sequence[float]) -> Yardstick:
    """The yardstick after a slot."""
    if not slot.control.latency.count:
        return replace(yardstick, slots=yardstick.slots + 1)
    young = yardstick.young.copy()
    young.merge(slot.control.latency)
    count, slots = yardstick.old.count + young.count, yardstick.slots + 1
    is_due = slots >= RENEWED_AFTER_SLOTS
    if count < _LEAST_FIRST or not (is_due or count >= 2 * yardstick.made_from):
        # Not by replace, which takes longer than all else here: most slots come this way.
        return Yardstick(
            limits=yardstick.limits,
            made_from=yardstick.made_from,
            slots=slots,
            old=yardstick.old,
            young=young,
        )
    whole = yardstick.old.copy()
    whole.merge(young)
    limits = _bucket_at(whole, quantiles)
    if is_due and young.count >= _LEAST_FOR_OLD_TO_GO:
        return Yardstick(limits=limits, made_from=young.count, old=young)
    return Yardstick(limits=limits, made_from=count, old=yardstick.old, young=young)


def _together(slot: Slot, slower: int) -> Histogram:
    both = slot.control.latency.copy()
    both.merge(Histogram({bucket - slower: n for bucket, n in slot.canary.latency}))
    return both


def _bucket_at(histogram: Histogram, quantiles: Sequence[float]) -> tuple[int, ...]:
    """The first bucket, for each quantile, that with those below it holds that share of all."""
    count, below = histogram.count, 0
    found: list[int] = []
    wanted = [max(1, ceil(quantile * count)) for quantile in quantiles]
    for bucket, n in histogram:
        below += n
        while len(found) < len(wanted) and below >= wanted[len(found)]:
            found.append(bucket)
    return tuple(found)
