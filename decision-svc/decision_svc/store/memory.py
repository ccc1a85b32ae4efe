"""Keeps policies and people in this process: the embedded default, gone when it ends.

For one event loop. What is kept is what the Redis adapter would write, so callers share
nothing with the store and both adapters refuse the same documents.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from canary_engine.model import Profile

from decision_svc.exposure.distinct import Distinct
from decision_svc.exposure.protocol import MAX_LISTED, Served
from decision_svc.store.encoding import (
    read_document,
    read_link,
    read_profile,
    write_document,
    write_link,
    write_profile,
)
from decision_svc.store.protocol import (
    KEPT_REVISIONS,
    ChainMoved,
    ChangeRecord,
    Document,
    Link,
    LostRace,
    MemberEdit,
    Tail,
)

_PAGE = 1000
_EXPOSED = 1000


@dataclass(slots=True)
class _Shelf:
    """All that is kept for one service key; the oldest record is first."""

    documents: dict[int, bytes] = field(default_factory=dict)
    records: list[ChangeRecord] = field(default_factory=list)
    members: dict[str, set[str]] = field(default_factory=dict)

    @property
    def revision(self) -> int:
        return self.records[-1].revision if self.records else 0


class _Bell:
    """Tells everybody who listens."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[str]] = set()

    def ring(self, what: str) -> None:
        for listener in self._listeners:
            listener.put_nowait(what)

    async def listen(self) -> AsyncGenerator[str, None]:
        heard: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.add(heard)
        try:
            yield ""
            while True:
                yield await heard.get()
        finally:
            self._listeners.discard(heard)


class MemoryStore:
    """A policy, audit and people store; writes are atomic, for they await before and not within."""

    def __init__(self) -> None:
        self._shelves: dict[str, _Shelf] = {}
        self._links: dict[str, list[bytes]] = {}
        self._profiles: dict[str, dict[str, bytes]] = {}
        self._exposed: dict[Served, tuple[Distinct, set[str]]] = {}
        self._changes = _Bell()
        self._profile_changes = _Bell()

    async def revisions(self) -> Mapping[str, int]:
        return {key: shelf.revision for key, shelf in self._shelves.items()}

    async def load(self, service_key: str, revision: int | None = None) -> Document | None:
        shelf = self._shelf(service_key)
        data = shelf.documents.get(shelf.revision if revision is None else revision)
        return None if data is None else read_document(data, service_key)

    async def newest(self, service_key: str) -> tuple[Document | None, Tail]:
        return await self.load(service_key), await self.tail(service_key)

    async def save(
        self,
        service_key: str,
        document: Document,
        record: ChangeRecord,
        members: Sequence[MemberEdit] = (),
        link: Link | None = None,
        current: int | None = None,
    ) -> None:
        expected = record.revision - 1 if current is None else current
        written = await write_document(document)
        shelf = self._shelf(service_key)
        if shelf.revision != expected:
            raise LostRace(service_key, expected, shelf.revision)
        if link is not None:
            self._append(service_key, link)
        shelf.members = _edited(shelf.members, members)
        shelf.documents[record.revision] = written
        shelf.documents.pop(record.revision - KEPT_REVISIONS, None)
        shelf.records.append(record)
        self._shelves[service_key] = shelf
        self._changes.ring(service_key)

    async def changes(
        self, service_key: str, before: int | None = None, limit: int = 50
    ) -> Sequence[ChangeRecord]:
        records = self._shelf(service_key).records
        older = [r for r in records if before is None or r.revision < before]
        return older[::-1][: max(limit, 0)]

    def watch(self) -> AsyncGenerator[str, None]:
        return self._changes.listen()

    async def links(self, service_key: str, after: int = 0, limit: int = 100) -> Sequence[Link]:
        found = self._links.get(service_key, [])[after : after + max(limit, 0)]
        return [read_link(data, after + place) for place, data in enumerate(found, 1)]

    async def tail(self, service_key: str) -> Tail:
        links = self._links.get(service_key, [])
        if not links:
            return Tail()
        length = len(links)
        return Tail(length=length, first=read_link(links[0], 1), last=read_link(links[-1], length))

    async def append(self, service_key: str, link: Link) -> None:
        self._append(service_key, link)

    def _append(self, service_key: str, link: Link) -> None:
        links = self._links.get(service_key, [])
        written = write_link(link)
        if link.sequence != len(links) + 1:
            raise ChainMoved(service_key, link.sequence - 1, len(links))
        self._links.setdefault(service_key, links).append(written)

    async def listed_in(
        self, service_key: str, user: str, segments: Sequence[str]
    ) -> frozenset[str]:
        members = self._shelf(service_key).members
        return frozenset(name for name in segments if user in members.get(name, ()))

    async def members(
        self, service_key: str, segment: str, cursor: str = ""
    ) -> tuple[Sequence[str], str, int]:
        everybody = sorted(self._shelf(service_key).members.get(segment, ()))
        # The cursor is the last user of the page before, which edits in between do not move.
        start = bisect_right(everybody, cursor) if cursor else 0
        page = everybody[start : start + _PAGE]
        is_last = start + _PAGE >= len(everybody)
        return page, "" if is_last else page[-1], len(everybody)

    async def profile(self, user: str) -> Profile | None:
        fields = self._profiles.get(user)
        return None if fields is None else read_profile(fields, user)

    async def put_profile(self, user: str, profile: Profile | None) -> None:
        if profile is None:
            self._profiles.pop(user, None)
        else:
            self._profiles[user] = write_profile(profile)
        self._profile_changes.ring(user)

    async def expose(self, served: Served, marks: Collection[int], listed: bool) -> None:
        if served not in self._exposed and len(self._exposed) >= _EXPOSED:
            del self._exposed[next(iter(self._exposed))]
        counted, users = self._exposed.setdefault(served, (Distinct(), set()))
        for mark in marks:
            counted.add(mark)
            if listed and len(users) < MAX_LISTED:
                users.add(f"{mark:016x}")

    async def exposed(self, served: Served) -> int:
        found = self._exposed.get(served)
        return 0 if found is None else found[0].count()

    async def exposed_users(self, served: Served) -> Sequence[str]:
        found = self._exposed.get(served)
        return [] if found is None else sorted(found[1])

    def watch_profiles(self) -> AsyncGenerator[str, None]:
        return self._profile_changes.listen()

    def _shelf(self, service_key: str) -> _Shelf:
        return self._shelves.get(service_key) or _Shelf()


def _edited(members: Mapping[str, set[str]], edits: Sequence[MemberEdit]) -> dict[str, set[str]]:
    result = dict(members)
    for edit in edits:
        before: set[str] = set() if edit.drop else result.get(edit.segment, set())
        result[edit.segment] = (before | set(edit.add)) - set(edit.remove)
    return result
