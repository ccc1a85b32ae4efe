"""What the controller needs of the admin API, as values: the seam behind which gRPC is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import Cohort, Policy, Variant
from canary_engine.outcomes import Outcomes
from canary_engine.record import ReleaseRecord
from canary_engine.step import Action

FAR = 2**62
"""A slot after all others: of a service key known up to it, no outcomes are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who may act. ``left_s`` counts from before the question was put."""

    is_held: bool
    holder: str
    token: int
    left_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the controller knows of a service key: 0 for nothing.

    ``requests`` are those that it has heard of in each of the slots after ``slot``.
    """

    service_key: str
    revision: int = 0
    slot: int = 0
    requests: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeSlot:
    """The outcomes of a cohort in the ten seconds from ``slot`` x 10 on, in Unix time.

    ``tally`` reads them when they are needed: most have been seen before.
    """

    slot: int
    cohort: Cohort
    requests: int
    tally: Callable[[], Outcomes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseNews:
    """What is new of one release.

    ``policy`` None: it is the one that is known, or, with a ``trouble``, one that this controller
    cannot read. ``more_after`` above 0: outcomes are told up to this slot, and there are more.
    """

    service_key: str
    revision: int
    policy: Policy | None
    outcomes: Sequence[OutcomeSlot] = ()
    trouble: str = ""
    more_after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """All releases in force or not closed yet, by the service's clock."""

    now: datetime
    releases: Sequence[ReleaseNews]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One change of a policy, made only if it is at ``revision`` and nobody with a newer token
    has acted since.
    """

    service_key: str
    revision: int
    action: Action
    token: int


class Answered(NamedTuple):
    """How many requests there were, and how many of them failed."""

    requests: int
    errors: int


class Counted(NamedTuple):
    """The requests of one version, variant and release, and how many of them failed.

    What a gateway decided by its own file stands under the release ``BASELINE_ID``.
    """

    version: str
    variant: Variant
    release_id: str
    requests: int
    errors: int


class Leases(Protocol):
    """Of all who ask, one may act. Raises AdminError."""

    async def hold_lease(self, holder: str, valid_s: int) -> Lease:
        """Take the lease, or keep it."""
        ...

    async def drop_lease(self, holder: str) -> None:
        """Give it up; nothing happens if another has it."""
        ...


class Admin(Protocol):
    """Reads and moves releases. Every call has a deadline, and raises AdminError."""

    async def services(self) -> Sequence[str]:
        """All service keys that have a policy."""
        ...

    async def follow(self, known: Collection[Known]) -> News:
        """What is new."""
        ...

    async def write(self, write: Write) -> int:
        """The revision that was made. Raises LostRace or Refused, and then nothing was."""
        ...

    async def record(self, service_key: str, release_id: str) -> ReleaseRecord:
        """What is noted of a release. Raises Unknown if nothing is, Unreadable if it is spoilt."""
        ...

    async def put_record(self, record: ReleaseRecord) -> None:
        """Replace it. Raises Refused for a token that is too old."""
        ...


class Policies(Protocol):
    """The policies as they are stored."""

    async def policy(self, service_key: str) -> Policy:
        """The newest. Raises Unknown if there is none, else AdminError."""
        ...


class Figures(Protocol):
    """What is measured besides the outcomes of the release. Raises AdminError."""

    async def metrics(self, service_key: str, window_s: int) -> Mapping[Cohort, MetricSnapshot]:
        """What was reported, and what the gateways told, of the latest release."""
        ...

    async def counted(self, service_key: str, window_s: int) -> Sequence[Counted]:
        """How the latest requests were answered, whatever release they belong to."""
        ...
