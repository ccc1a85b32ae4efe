"""Latency histograms that merge; any quantile is within 1 % of the true value.

This is DDSketch (Masson, Rim, Lee: "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
Relative-Error Guarantees", PVLDB 12(12), 2019, section 2). With error a, let g = (1 + a) / (1 - a).
A value x > 0 falls into bucket i = ceil(log x / log g), which holds (g^(i-1), g^i]. Answering
2 g^i / (g + 1) for the bucket is wrong by at most a of whatever value was in it: the answer is
g^i (1 - a), and also g^(i-1) (1 + a). Two histograms merge by adding counts, bucket by bucket, so
merging is exact, associative and commutative, and loses nothing.

Values are whole microseconds; bucket 0 holds zero, bucket i + 1 holds what the formula calls i.
From 1 us to a day there are 1,260 buckets, so a histogram is bounded without ever collapsing.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

ERROR = 0.01
LONGEST_US = 86_400_000_000
_GAMMA = (1 + ERROR) / (1 - ERROR)
_LOG_GAMMA = math.log(_GAMMA)


def bucket_of(value_us: int) -> int:
    """The bucket of a value; what is longer than a day counts as a day."""
    if value_us <= 0:
        return 0
    return 1 + math.ceil(math.log(min(value_us, LONGEST_US)) / _LOG_GAMMA)


def value_of(bucket: int) -> float:
    """What a bucket's values are taken for, in microseconds."""
    return 2 * math.exp((bucket - 1) * _LOG_GAMMA) / (_GAMMA + 1) if bucket else 0.0


LAST_BUCKET = bucket_of(LONGEST_US)


class Histogram:
    """How many values fell into each bucket, and their sum; ``count`` is how many there are."""

    __slots__ = ("_counts", "count", "sum_us")

    def __init__(
        self, counts: Mapping[int, int] | Iterable[tuple[int, int]] = (), sum_us: int = 0
    ) -> None:
        self._counts = dict(counts)
        self.count = sum(self._counts.values())
        self.sum_us = sum_us

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return (self._counts, self.sum_us) == (other._counts, other.sum_us)

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Buckets and their counts, from the shortest value to the longest."""
        return iter(sorted(self._counts.items()))

    def above(self, bucket: int) -> int:
        """How many values are in later buckets than this one."""
        return sum([count for at, count in self._counts.items() if at > bucket])

    def add(self, value_us: int) -> None:
        """Add a value."""
        bucket = bucket_of(value_us)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        self.sum_us += value_us

    def copy(self) -> Histogram:
        """Another one with the same values."""
        other = Histogram()
        other._counts = self._counts.copy()
        other.count, other.sum_us = self.count, self.sum_us
        return other

    def merge(self, other: Histogram) -> None:
        """Add all the values of another."""
        merge_counts(self._counts, other._counts)
        self.count += other.count
        self.sum_us += other.sum_us

    def take_out(self, other: Histogram) -> None:
        """Take away the values of another, which were merged into this one before."""
        take_out_counts(self._counts, other._counts)
        self.count -= other.count
        self.sum_us -= other.sum_us

    def quantile(self, share: float) -> float | None:
        """The value, in microseconds, that ``share`` of all do not exceed; None if there is none.

        The true one is the value of rank ceil(share * count), counted from 1.
        """
        return self.quantiles(share)[0]

    def quantiles(self, *shares: float) -> list[float | None]:
        """The same of several shares, with the values put in order once."""
        if not self.count:
            return [None] * len(shares)
        buckets = sorted(self._counts)
        up_to = list(accumulate(map(self._counts.__getitem__, buckets)))
        ranks = (max(1, math.ceil(share * self.count)) for share in shares)
        return [value_of(buckets[bisect_left(up_to, rank)]) for rank in ranks]


def merge_counts(counts: dict[int, int], more: Mapping[int, int]) -> None:
    """Add what more has of each kind."""
    if not counts:
        counts.update(more)
        return
    for kind, count in more.items():
        counts[kind] = counts.get(kind, 0) + count


def take_out_counts(counts: dict[int, int], less: Mapping[int, int]) -> None:
    """Undo ``merge_counts``; kinds of which nothing is left are gone."""
    for kind, count in less.items():
        left = counts.get(kind, 0) - count
        if left:
            counts[kind] = left
        else:
            counts.pop(kind, None)
