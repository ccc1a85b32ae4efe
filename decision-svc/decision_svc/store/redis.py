"""Keeps policies, people and audit in Redis: one script per write, one slot per service key.

Keys, of which ``<slot>`` is the service key with ``%``, ``{`` and ``}`` percent-encoded::

    canary:services                      set   every service key ever written to
    canary:{<slot>}:policy               hash  revision, document: the current ones
    canary:{<slot>}:revisions            hash  revision -> document, of the newest revisions
    canary:{<slot>}:changes              zset  change records by revision
    canary:{<slot>}:audit                list  audit links: SHA-256, space, JSON
    canary:audit                         list  the same of what belongs to no service key
    canary:{<slot>}:exposed:<release>:<variant>        HyperLogLog  users, by their marks
    canary:{<slot>}:exposed-users:<release>:<variant>  set          the same, if they are listed
    canary:{<slot>}:members:<segment>    set   users
    canary:profile:<user>                hash  tier, registered_at, region, tags, custom

Channels ``canary:changes`` and ``canary:profiles`` carry service keys and users.

The index ``canary:services`` lives in a slot of its own, in a cluster perhaps on another server,
so it is written before the script: a crash in between leaves a name without a policy, which
readers take for absent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from canary_engine.model import Profile
from redis.asyncio.client import PubSub

from decision_svc.exposure.protocol import KEPT_S, MAX_LISTED, Served
from decision_svc.store.connection import (
    DEFAULT_CONNECT_TIMEOUT_S,
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_TIMEOUT_S,
    Connection,
    as_bytes,
    slot_key,
)
from decision_svc.store.encoding import (
    read_document,
    read_link,
    read_profile,
    read_record,
    read_text,
    write_document,
    write_link,
    write_profile,
    write_record,
)
from decision_svc.store.protocol import (
    KEPT_REVISIONS,
    UNREACHABLE,
    UNREADABLE,
    ChainMoved,
    ChangeRecord,
    Document,
    Link,
    LostRace,
    MemberEdit,
    StoreError,
    StoreUnavailable,
    Tail,
)
from decision_svc.store.servers import Asked, Question, Script

DEFAULT_SILENCE_S = 15.0

_SERVICES = "canary:services"
_CHANGES = "canary:changes"
_PROFILES = "canary:profiles"
_PIPELINED = 500
_PAGE = 1000
_FIRST_MEMBERS_KEY = 5
_ANY_LENGTH = -1

_Message = Mapping[str, Any]


class RedisStore:
    """A PolicyStore, an AuditStore, an ExposureStore and a PeopleStore.

    Every question is answered within the connection's ``timeout_s`` or StoreUnavailable is
    raised; a watch whose connection is silent for ``silence_s`` asks whether it still stands.
    """

    def __init__(self, connection: Connection, *, silence_s: float = DEFAULT_SILENCE_S) -> None:
        self.connection = connection
        """For other adapters that keep things in the same Redis."""
        self._ask, self._ask_all = connection.ask, connection.ask_all
        self._within = connection.within
        self._silence_s = silence_s
        self._save, self._append = Script("save.lua"), Script("append.lua")
        self._expose, self._put_profile = Script("expose.lua"), Script("put_profile.lua")

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S,
        silence_s: float = DEFAULT_SILENCE_S,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
    ) -> RedisStore:
        """A store at a URL, see ``Connection.to``; connects when first asked.

        Every watcher holds one of ``max_connections``; questions queue for the others.
        Raises StoreError when the URL is wrong.
        """
        connection = Connection.to(
            url,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            max_connections=max_connections,
        )
        return cls(connection, silence_s=silence_s)

    async def aclose(self) -> None:
        """Close the connections, those of watchers too."""
        await self.connection.aclose()

    async def revisions(self) -> Mapping[str, int]:
        names = await self._ask(_SERVICES, lambda redis: redis.smembers(_SERVICES))
        service_keys = iter(sorted(read_text(as_bytes(name), _SERVICES) for name in names))
        found: dict[str, int] = {}
        while some := list(islice(service_keys, _PIPELINED)):
            found |= await self._revisions_of(some)
        return found

    async def load(self, service_key: str, revision: int | None = None) -> Document | None:
        if revision is None:
            key, field = slot_key(service_key, "policy"), "document"
        else:
            key, field = slot_key(service_key, "revisions"), str(revision)
        data = await self._ask(key, lambda redis: redis.hget(key, field))
        return None if data is None else read_document(as_bytes(data), f"{key} {field}")

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
        length = _ANY_LENGTH if link is None else link.sequence - 1
        edited_keys, edits = _edits(service_key, members)
        keys = [slot_key(service_key, name) for name in ("policy", "revisions", "changes", "audit")]
        args: list[str | int | bytes] = [expected, record.revision]
        args += [await write_document(document), write_record(record), _CHANGES, service_key]
        args += [length, b"" if link is None else write_link(link), KEPT_REVISIONS, *edits]
        await self._ask(_SERVICES, lambda redis: redis.sadd(_SERVICES, service_key))
        newest, found = await self._ask(keys[0], self._save.on([*keys, *edited_keys], args))
        if newest != expected:
            raise LostRace(service_key, expected, newest)
        if length not in (_ANY_LENGTH, found):
            raise ChainMoved(service_key, length, found)

    async def changes(
        self, service_key: str, before: int | None = None, limit: int = 50
    ) -> Sequence[ChangeRecord]:
        key = slot_key(service_key, "changes")
        newest = "+inf" if before is None else f"({before}"
        num = max(limit, 0)
        found = await self._ask(
            key, lambda redis: redis.zrevrangebyscore(key, newest, "-inf", start=0, num=num)
        )
        return [read_record(as_bytes(data), key) for data in found]

    def watch(self) -> AsyncGenerator[str, None]:
        return self._announcements(_CHANGES)

    async def newest(self, service_key: str) -> tuple[Document | None, Tail]:
        key = slot_key(service_key, "policy")
        document = Asked(key, lambda redis: redis.hget(key, "document"))
        data, *tail = await self._ask_all([document, *_tail_of(_chain(service_key))])
        found = None if data is None else read_document(as_bytes(data), f"{key} document")
        return found, _tail(*tail)

    async def links(self, service_key: str, after: int = 0, limit: int = 100) -> Sequence[Link]:
        if limit < 1:
            return []
        key = _chain(service_key)
        found = await self._ask(key, lambda redis: redis.lrange(key, after, after + limit - 1))
        return [read_link(as_bytes(data), after + place) for place, data in enumerate(found, 1)]

    async def tail(self, service_key: str) -> Tail:
        return _tail(*await self._ask_all(_tail_of(_chain(service_key))))

    async def append(self, service_key: str, link: Link) -> None:
        key, expected = _chain(service_key), link.sequence - 1
        found = await self._ask(key, self._append.on([key], [expected, write_link(link)]))
        if found != expected:
            raise ChainMoved(service_key, expected, found)

    async def listed_in(
        self, service_key: str, user: str, segments: Sequence[str]
    ) -> frozenset[str]:
        if not segments:
            return frozenset()
        answers = await self._ask_all([_is_member(service_key, one, user) for one in segments])
        return frozenset(
            segment for segment, is_listed in zip(segments, answers, strict=True) if is_listed
        )

    async def members(
        self, service_key: str, segment: str, cursor: str = ""
    ) -> tuple[Sequence[str], str, int]:
        key = slot_key(service_key, "members", segment)
        start = _cursor(cursor)
        (following, page), total = await self._ask_all(
            [
                Asked(key, lambda redis: redis.sscan(key, start, count=_PAGE)),
                Asked(key, lambda redis: redis.scard(key)),
            ]
        )
        users = [read_text(as_bytes(user), key) for user in page]
        return users, str(following) if int(following) else "", total

    async def profile(self, user: str) -> Profile | None:
        key = _profile_key(user)
        found = await self._ask(key, lambda redis: redis.hgetall(key))
        if not found:
            return None
        fields = {read_text(as_bytes(name), key): as_bytes(data) for name, data in found.items()}
        return read_profile(fields, key)

    async def put_profile(self, user: str, profile: Profile | None) -> None:
        fields = write_profile(profile) if profile is not None else {}
        key = _profile_key(user)
        flat = [part for field in fields.items() for part in field]
        await self._ask(key, self._put_profile.on([key], [_PROFILES, user, *flat]))

    async def expose(self, served: Served, marks: Collection[int], listed: bool) -> None:
        keys = [_exposure_key("exposed", served), _exposure_key("exposed-users", served)]
        args: list[str | int] = [KEPT_S, MAX_LISTED if listed else 0]
        args += [f"{mark:016x}" for mark in marks]
        await self._ask(keys[0], self._expose.on(keys, args))

    async def exposed(self, served: Served) -> int:
        key = _exposure_key("exposed", served)
        return int(await self._ask(key, lambda redis: redis.pfcount(key)))

    async def exposed_users(self, served: Served) -> Sequence[str]:
        key = _exposure_key("exposed-users", served)
        found = await self._ask(key, lambda redis: redis.smembers(key))
        return sorted(read_text(as_bytes(mark), key) for mark in found)

    def watch_profiles(self) -> AsyncGenerator[str, None]:
        return self._announcements(_PROFILES)

    async def _revisions_of(self, service_keys: Sequence[str]) -> dict[str, int]:
        answers = await self.connection.ask_some([_revision_of(key) for key in service_keys])
        return {
            service_key: _revision(answer)
            for service_key, answer in zip(service_keys, answers, strict=True)
            if answer is not None
        }

    async def _announcements(self, channel: str) -> AsyncGenerator[str, None]:
        async with await self.connection.pubsub(channel) as pubsub:
            await self._within(channel, _subscribe(pubsub, channel))
            yield ""
            while True:
                message = await self._hear(pubsub, channel)
                if message["type"] == "message":
                    yield read_text(as_bytes(message["data"]), channel)

    async def _hear(self, pubsub: PubSub, channel: str) -> _Message:
        """The next message. A peer that vanished is silent too, so silence is asked about."""
        message = await self._next(pubsub, channel, self._silence_s)
        if message is None:
            await self._within(channel, pubsub.ping())
            message = await self._next(pubsub, channel, self.connection.timeout_s)
        if message is None:
            raise StoreUnavailable(
                f"{self.connection.place}: {channel}: the connection fell silent"
            )
        return message

    async def _next(self, pubsub: PubSub, channel: str, wait_s: float) -> _Message | None:
        message: _Message | None = await self._within(
            channel, pubsub.get_message(timeout=wait_s), wait_s + self.connection.timeout_s
        )
        return message


async def _subscribe(pubsub: PubSub, channel: str) -> None:
    """Subscribe, and wait for Redis to say so: what is published from now on will be heard."""
    await pubsub.subscribe(channel)
    message = None
    while message is None or message["type"] != "subscribe":
        message = await pubsub.get_message(timeout=None)


def _profile_key(user: str) -> str:
    return f"canary:profile:{user}"


def _edits(
    service_key: str, members: Iterable[MemberEdit]
) -> tuple[Sequence[str], Sequence[str | int]]:
    """The keys that are edited, and the edits as the script reads them."""
    indices: dict[str, int] = {}
    edits: list[str | int] = []
    for edit in members:
        key = slot_key(service_key, "members", edit.segment)
        index = indices.setdefault(key, _FIRST_MEMBERS_KEY + len(indices))
        if edit.drop:
            edits += [index, "drop", 0]
        edits += [index, "add", len(edit.add), *edit.add]
        edits += [index, "remove", len(edit.remove), *edit.remove]
    return list(indices), edits


def _cursor(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and int(text) < 2**64):
        raise StoreError(f"{text!r} is not a cursor of this store")
    return int(text)


def _chain(service_key: str) -> str:
    return slot_key(service_key, "audit") if service_key else "canary:audit"


def _exposure_key(kind: str, served: Served) -> str:
    return slot_key(served.service_key, kind, served.release_id, str(served.variant))


def _is_member(service_key: str, segment: str, user: str) -> Asked:
    key = slot_key(service_key, "members", segment)
    return Asked(key, lambda redis: redis.sismember(key, user))


def _revision_of(service_key: str) -> Asked:
    key = slot_key(service_key, "policy")
    return Asked(key, lambda redis: redis.hget(key, "revision"))


def _revision(answer: bytes | str | StoreError) -> int:
    """The revision that Redis answered; what spoils one key is no trouble of the others."""
    if isinstance(answer, StoreError):
        return UNREACHABLE if isinstance(answer, StoreUnavailable) else UNREADABLE
    try:
        return int(answer)
    except ValueError:
        return UNREADABLE


def _tail_of(key: str) -> Sequence[Asked]:
    """The questions that ``_tail`` takes the answers of."""
    questions: list[Question] = [
        lambda redis: redis.llen(key),
        lambda redis: redis.lindex(key, 0),
        lambda redis: redis.lindex(key, -1),
    ]
    return [Asked(key, question) for question in questions]


def _tail(length: int, first: Any, last: Any) -> Tail:
    # Without a transaction a link may come between the questions; it is then seen by the write.
    if first is None or last is None:
        return Tail()
    return Tail(
        length=length, first=read_link(as_bytes(first), 1), last=read_link(as_bytes(last), length)
    )
