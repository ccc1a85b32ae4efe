"""What happened to proxied requests: counted per label set, merged without loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from canary_engine.histogram import Histogram, merge_counts
from canary_engine.model import Cohort, Variant

FIRST_ERROR = 500


class Labels(NamedTuple):
    """What an outcome belongs to."""

    service_key: str
    version: str
    variant: Variant
    release_id: str
    cohort: Cohort = Cohort.OTHER


class Outcomes(Protocol):
    """The outcomes of one label set as they are read; see Tally."""

    @property
    def statuses(self) -> Mapping[int, int]:
        """How many there were of each status."""
        ...

    @property
    def request(self) -> Histogram:
        """How long requests took, from the first byte to the last; nobody changes it."""
        ...

    @property
    def upstream(self) -> Histogram:
        """How long the backend took; nobody changes it."""
        ...


class Tally:
    """The outcomes of one label set: statuses, latencies, and how many are known to be missing.

    ``upstream`` holds the requests that reached a backend, so it may hold fewer than ``request``.
    """

    __slots__ = ("lost", "request", "statuses", "upstream")

    def __init__(
        self,
        statuses: Mapping[int, int] | None = None,
        request: Histogram | None = None,
        upstream: Histogram | None = None,
        lost: int = 0,
    ) -> None:
        # Not a Counter: making one takes longer than all that is counted in it.
        self.statuses = dict(statuses or {})
        self.request = request or Histogram()
        self.upstream = upstream or Histogram()
        self.lost = lost

    @property
    def requests(self) -> int:
        """How many outcomes were counted."""
        return requests_of(self.statuses)

    @property
    def errors(self) -> int:
        """How many of them were the server's fault."""
        return errors_of(self.statuses)

    def add(self, status: int, request_us: int, upstream_us: int | None) -> None:
        """Count an outcome; ``upstream_us`` is None if no backend was asked."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.request.add(request_us)
        if upstream_us is not None:
            self.upstream.add(upstream_us)

    def merge(self, other: Tally) -> None:
        """Add all of another's."""
        merge_counts(self.statuses, other.statuses)
        self.request.merge(other.request)
        self.upstream.merge(other.upstream)
        self.lost += other.lost


def requests_of(statuses: Mapping[int, int]) -> int:
    """How many outcomes there were, of these numbers by status."""
    return sum(statuses.values())


def errors_of(statuses: Mapping[int, int]) -> int:
    """How many of them were the server's fault."""
    return sum(n for status, n in statuses.items() if status >= FIRST_ERROR)
