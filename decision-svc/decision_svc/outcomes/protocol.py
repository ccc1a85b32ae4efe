"""Where outcomes are kept for as long as anybody judges by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from canary_engine.model import Cohort
from canary_engine.outcomes import Labels, Tally

SLOT_S = 10
"""Length of a slot; slots are numbered by Unix time."""
KEPT_S = 14_400
"""How long outcomes are kept at most: a controller that was off for hours can judge on."""
LATE_S = 900
"""How old outcomes may be when they are told, and for how long a batch is known to be the same."""
SLOTS_AT_ONCE = 60
"""How many slots one look ahead goes through."""
COMPARED = frozenset({Cohort.DRAWN, Cohort.CONTROL, Cohort.CHOSEN})
"""The cohorts that a release is judged by."""


class Reported(NamedTuple):
    """Outcomes of one label set, ``age_s`` ago."""

    labels: Labels
    age_s: int
    tally: Tally


class Wanted(NamedTuple):
    """Outcomes of one release, in slots after ``after``.

    ``heard`` is how many requests the caller has heard of, by slot: requests only become more, so a
    slot that holds just as many is as it was, and is left out.
    """

    service_key: str
    release_id: str
    after: int
    heard: Mapping[int, int] = MappingProxyType({})


class Flat(NamedTuple):
    """A tally that is only passed on: flat lists of key, count, key, count, in order of keys."""

    statuses: Sequence[int]
    request: Sequence[int]
    request_us: int
    upstream: Sequence[int]
    upstream_us: int
    lost: int


class Found(NamedTuple):
    """The outcomes of COMPARED cohorts by slot, oldest first, up to the slot ``until``.

    ``has_more``: there may be some after that; look on from there.
    """

    slots: Sequence[tuple[int, Labels, Flat]]
    until: int
    has_more: bool


class Outcomes(Protocol):
    """Tallies by labels in slots of ``SLOT_S``, kept for ``kept_s``."""

    @property
    def kept_s(self) -> int:
        """How long they are kept here: KEPT_S, or less."""
        ...

    async def add(self, batch_id: str, reported: Sequence[Reported]) -> frozenset[str]:
        """Add a batch; the service keys of which anything was added by this call.

        What has been added before under this id is not added again, and what is older than
        LATE_S never. An empty batch belongs to the service key "". After StoreUnavailable
        some of it may have been added: repeat it, and the rest is.
        """
        ...

    async def is_added(self, batch_id: str, service_key: str) -> bool:
        """Whether what a batch says of a service key has been added before."""
        ...

    async def read(self, service_key: str, window_s: int) -> Mapping[Labels, Tally]:
        """What happened in the last ``window_s``, rounded up to slots; {} if nothing did.

        The caller must not change it.
        """
        ...

    async def look(self, wanted: Sequence[Wanted]) -> Sequence[Found]:
        """What there is of each, all asked for together; SLOTS_AT_ONCE at most of each.

        Of one whose server does not answer, while another's does, nothing is told but that there
        may be more after ``after``.
        """
        ...
