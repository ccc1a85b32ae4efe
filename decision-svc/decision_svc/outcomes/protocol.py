"""Where outcomes are kept for as long as anybody judges by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from canary_engine.outcomes import Labels, Tally

SLOT_S = 10
KEPT_S = 900


class Reported(NamedTuple):
    """Outcomes of one label set, ``age_s`` ago."""

    labels: Labels
    age_s: int
    tally: Tally


class Outcomes(Protocol):
    """Tallies by labels in slots of ``SLOT_S``, kept for ``KEPT_S``."""

    async def add(self, batch_id: str, reported: Sequence[Reported]) -> bool:
        """Add a batch. False, and nothing is added, if it has been added before."""
        ...

    async def is_added(self, batch_id: str) -> bool:
        """Whether a batch has been added before."""
        ...

    async def read(self, service_key: str, window_s: int) -> Mapping[Labels, Tally]:
        """What happened in the last ``window_s``, rounded up to slots; {} if nothing did.

        The caller must not change it.
        """
        ...

    async def service_keys(self) -> Sequence[str]:
        """The service keys of which anything is kept."""
        ...
