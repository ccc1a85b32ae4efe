"""Records of releases: what a controller notes, for the next one and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from decision_svc.store.protocol import StoreError

KEPT_S = 90 * 86_400
"""How long after it was written last a record is kept."""


class RecordKey(NamedTuple):
    """The release that a record is of."""

    service_key: str
    release_id: str


class RecordState(StrEnum):
    """Whether there is a record, and whether anything may follow."""

    NONE = "none"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record as bytes that only its writers understand.

    ``fence`` is the fencing token of the controller that wrote it.
    """

    data: bytes
    fence: int
    is_closed: bool


class TooLate(StoreError):  # noqa: N818 - it says what is the matter
    """A controller with a newer token has written the record; ``newest`` is that token."""

    def __init__(self, key: RecordKey, fence: int, newest: int) -> None:
        self.newest = newest
        super().__init__(
            f"the record of release {key.release_id} of {key.service_key}: {fence} is too late, "
            f"a controller with {newest} has written it since: take the lease anew"
        )


class RecordStore(Protocol):
    """Records by service key and release, each kept for KEPT_S."""

    async def put(self, key: RecordKey, record: Record) -> None:
        """Replace the record. Raises TooLate if a greater fence wrote the one there is.

        StoreUnavailable leaves open whether it was done; repeating it is safe.
        """
        ...

    async def get(self, key: RecordKey) -> Record | None:
        """The record; None if there is none."""
        ...

    async def states(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, RecordState]:
        """The state of each, asked for together, without the records themselves.

        OPEN for one whose server does not answer, while another's does: something may follow.
        """
        ...
