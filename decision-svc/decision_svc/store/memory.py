"""Keeps policies and people in this process: the embedded default, gone when it ends.

For one event loop. What is kept is what the Redis adapter would write, so callers share
nothing with the store and both adapters refuse the same documents.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

from canary_engine.model import Profile

from decision_svc.store.encoding import (
    read_document,
    read_profile,
    write_document,
    write_profile,
)
from decision_svc.store.protocol import ChangeRecord, Document, LostRace, MemberEdit

_PAGE = 1000


@dataclass(slots=True)
class _Shelf:
    """All that is kept for one service key; revision 1 is first."""

    documents: list[bytes] = field(default_factory=list)
    records: list[ChangeRecord] = field(default_factory=list)
    members: dict[str, set[str]] = field(default_factory=dict)


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
    """A PolicyStore and a PeopleStore; writes are atomic because none of them awaits."""

    def __init__(self) -> None:
        self._shelves: dict[str, _Shelf] = {}
        self._profiles: dict[str, dict[str, bytes]] = {}
        self._changes = _Bell()
        self._profile_changes = _Bell()

    async def revisions(self) -> Mapping[str, int]:
        return {key: len(shelf.documents) for key, shelf in self._shelves.items()}

    async def load(self, service_key: str, revision: int | None = None) -> Document | None:
        documents = self._shelf(service_key).documents
        wanted = len(documents) if revision is None else revision
        if not 1 <= wanted <= len(documents):
            return None
        return read_document(documents[wanted - 1], service_key)

    async def save(
        self,
        service_key: str,
        document: Document,
        record: ChangeRecord,
        members: Sequence[MemberEdit] = (),
    ) -> None:
        shelf = self._shelf(service_key)
        current = len(shelf.documents)
        written = write_document(document)
        if current != record.revision - 1:
            raise LostRace(service_key, record.revision - 1, current)
        shelf.members = _edited(shelf.members, members)
        shelf.documents.append(written)
        shelf.records.append(record)
        self._shelves[service_key] = shelf
        self._changes.ring(service_key)

    async def changes(
        self, service_key: str, before: int | None = None, limit: int = 50
    ) -> Sequence[ChangeRecord]:
        records = self._shelf(service_key).records
        older = records if before is None else records[: max(before - 1, 0)]
        return older[::-1][: max(limit, 0)]

    def watch(self) -> AsyncGenerator[str, None]:
        return self._changes.listen()

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
