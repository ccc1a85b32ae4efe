"""What a store must do: two small interfaces, and what absence and failure mean in each.

Documents are policies as JSON-compatible dictionaries (see ``canary_engine.parse``).
Errors::

    StoreError
    ├── LostRace            somebody else changed the policy first
    │   └── ChainMoved      somebody else wrote the next audit link first; try again
    └── StoreUnavailable    the store could not be reached; nothing was changed by this call,
                            or, for a write whose answer was lost, it may have been
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from canary_engine.errors import CanaryError
from canary_engine.model import Profile

Document = Mapping[str, Any]

KEPT_REVISIONS = 1_000
"""How many documents of a service key are kept, the newest."""
UNREADABLE = -1
"""What ``revisions`` gives for a service key whose revision is not a number."""
UNREACHABLE = -2
"""What it gives for one whose server does not answer, while another's does."""


class StoreError(CanaryError):
    """Base of the store's errors."""


class LostRace(StoreError):  # noqa: N818 - it says what happened
    """The policy is at ``current``, not at the revision the write was made for.

    ``meanwhile`` says in words who changed what since, if that is known.
    """

    def __init__(self, service_key: str, expected: int, current: int, meanwhile: str = "") -> None:
        self.service_key, self.expected, self.current = service_key, expected, current
        since = f" ({meanwhile})" if meanwhile else ""
        super().__init__(
            f"{service_key} is at revision {current}, not {expected}{since}: "
            "read it again and retry"
        )


class ChainMoved(LostRace):
    """The policy is where it was, but the audit chain is longer than the link was made for."""

    def __init__(self, service_key: str, expected: int, current: int) -> None:
        super().__init__(service_key, expected, current)
        of = f"of {service_key}" if service_key else "of no service key"
        self.args = (f"the audit chain {of} has {current} links, not {expected}: try again",)


class StoreUnavailable(StoreError):  # noqa: N818 - it says what is the matter
    """The store could not be reached in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRecord:
    """Who made a revision, when and why; ``summary`` says what in words.

    ``key`` names the request that made it, if it was given a name, and ``digest`` stands for
    what that asked for.
    """

    revision: int
    actor: str
    at: datetime
    reason: str
    summary: str
    key: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberEdit:
    """Listed members that a write adds to or removes from a segment, or all of them dropped.

    One edit drops, then adds, then removes; several apply in their order.
    """

    segment: str
    add: Sequence[str] = ()
    remove: Sequence[str] = ()
    drop: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One entry of an audit chain, as it is kept.

    ``sequence`` is its place in the chain, from 1 on; ``entry`` is JSON, and ``hash`` is what
    stands beside it: its SHA-256, unless somebody edited one of the two.
    """

    sequence: int
    entry: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What the next link of a chain needs of those there are; None: there is none."""

    length: int = 0
    first: Link | None = None
    last: Link | None = None


class PolicyStore(Protocol):
    """Policies by service key, one writer at a time winning.

    Of each the newest KEPT_REVISIONS documents are kept, and every change record.
    """

    async def revisions(self) -> Mapping[str, int]:
        """Service key to current revision of everything stored; empty if nothing is.

        UNREADABLE or UNREACHABLE for a service key of which that is not known: the others are
        told all the same.
        """
        ...

    async def load(self, service_key: str, revision: int | None = None) -> Document | None:
        """The document at ``revision``, or the current one; None if it was never made or is
        no longer kept."""
        ...

    async def newest(self, service_key: str) -> tuple[Document | None, Tail]:
        """The current document, None if there is none, and the end of its audit chain."""
        ...

    async def save(
        self,
        service_key: str,
        document: Document,
        record: ChangeRecord,
        members: Sequence[MemberEdit] = (),
        link: Link | None = None,
        current: int | None = None,
    ) -> None:
        """Write ``document``, the member edits and the record as revision ``record.revision``.

        ``link`` becomes the next one of the service key's audit chain; None: no link is
        written. All of it or nothing. Raises LostRace unless the current revision (0 if there
        is none) is ``record.revision - 1``, or ``current`` if that is given, and ChainMoved if
        only the chain is longer than the link says. Watchers are told after the write.

        StoreUnavailable leaves open whether it was done, and nothing is sent again by the
        store itself. Repeating the call is safe: it cannot apply twice. If the repeat loses
        the race, ``decision_svc.store.was_saved`` tells whether it lost to its own first try.
        """
        ...

    async def changes(
        self, service_key: str, before: int | None = None, limit: int = 50
    ) -> Sequence[ChangeRecord]:
        """Records of revisions below ``before``, newest first; empty if there are none."""
        ...

    def watch(self) -> AsyncGenerator[str, None]:
        """First "", then service keys as they are changed, by anybody; never ends by itself.

        Nothing is watched before the first item is asked for. The "" says that listening has
        begun: every write that ends later will be announced, so compare ``revisions`` then.
        An announced write can be read. An announcement may be missed (a broken connection);
        compare now and then, too. Raises StoreUnavailable when the connection breaks: watch
        again. It is an async generator: ``aclose``, or cancelling the task that waits for the
        next item, gives its connection back.
        """
        ...


class AuditStore(Protocol):
    """Audit chains, one for each service key and one, named "", for what belongs to none.

    Nothing here removes or changes a link. What is not a link is given as it is found.
    """

    async def links(self, service_key: str, after: int = 0, limit: int = 100) -> Sequence[Link]:
        """Links after that number, oldest first; empty if there are none."""
        ...

    async def tail(self, service_key: str) -> Tail:
        """The end of the chain."""
        ...

    async def append(self, service_key: str, link: Link) -> None:
        """Add a link for what makes no revision. Raises ChainMoved unless it is the next one.

        As for ``PolicyStore.save``, StoreUnavailable leaves open whether it was done.
        """
        ...


class PeopleStore(Protocol):
    """Listed members of segments, by service key, and profiles, by user."""

    async def listed_in(
        self, service_key: str, user: str, segments: Sequence[str]
    ) -> frozenset[str]:
        """Those of ``segments`` that list ``user``; a segment nobody was added to lists nobody."""
        ...

    async def members(
        self, service_key: str, segment: str, cursor: str = ""
    ) -> tuple[Sequence[str], str, int]:
        """A page of user ids, the next cursor ("" at the end) and the total.

        The pages list everybody who stays listed meanwhile; if others come or go, some may
        be listed twice. Raises StoreError for a cursor that no page gave.
        """
        ...

    async def profile(self, user: str) -> Profile | None:
        """The user's profile; None if there is none."""
        ...

    async def put_profile(self, user: str, profile: Profile | None) -> None:
        """Replace the user's profile; None forgets it. Watchers of profiles are told after."""
        ...

    def watch_profiles(self) -> AsyncGenerator[str, None]:
        """First "", then user ids as their profiles change; see ``PolicyStore.watch``."""
        ...
