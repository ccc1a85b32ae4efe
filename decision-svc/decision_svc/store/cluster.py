"""A Redis Cluster: each key is asked of the server that keeps its slot, wherever that moves.

The map of slots is read from whichever server answers first, when first needed and again after
trouble. A server that is gone takes its own keys along and no others: nobody waits for it, no
connection to another is closed, and the map is read beside the questions, not before them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, ClusterError, MovedError, RedisError

from decision_svc.store.servers import (
    Asked,
    Question,
    answer_of,
    answers_of,
    is_answer,
    place_of,
    without_retries,
)

SUFFIX = "+cluster"
"""What makes a URL's scheme one of a cluster: ``redis+cluster://host:port,host:port``."""
LOOK_AGAIN_S = 0.5
"""The map is read no more often than that."""

_DEFAULT_PORT = 6379
_REDIRECTIONS = 5


class Address(NamedTuple):
    """Where a server of the cluster is."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Cluster:
    """See Servers. ``seeds`` are servers to begin with, at least one; ``open_at`` makes a client,
    which connects when first asked.
    """

    def __init__(self, seeds: Sequence[Address], open_at: Callable[[Address], Redis]) -> None:
        self._seeds, self._open_at = tuple(seeds), open_at
        self._clients: dict[Address, Redis] = {}
        self._keepers: list[Address | None] = []
        self._first_look = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._next_look = 0.0
        self._turn = 0
        self._is_closed = False
        self.place = f"redis cluster at {','.join(map(str, seeds))}"

    def place_of(self, key: str) -> str:
        """See Servers."""
        keeper = self._keepers[_slot(key)] if self._keepers else None
        return f"redis at {keeper}" if keeper else self.place

    async def ask(self, key: str, question: Question) -> Any:
        """See Servers."""
        await self._known()
        client = self._client(self._keeper(key))
        for _ in range(_REDIRECTIONS):
            try:
                return await answer_of(client, question)
            except MovedError as error:
                client = self._moved(error, client)
            except AskError as error:
                client = self._client(_target(error, client))
                return await answer_of(client, lambda redis: _asking(redis, question))
            except BaseException as error:
                self._heed(error)
                raise
        raise ClusterError(f"redirected {_REDIRECTIONS} times, last to {place_of(client)}")

    async def ask_all(self, asked: Sequence[Asked], deadline: float) -> Sequence[Any]:
        """See Servers."""
        async with asyncio.timeout_at(deadline):
            await self._known()
        parts: dict[Address, list[int]] = {}
        answers: list[Any] = [None] * len(asked)
        for at, one in enumerate(asked):
            try:
                parts.setdefault(self._keeper(one.key), []).append(at)
            except ClusterDownError as error:
                answers[at] = error
        found = await asyncio.gather(
            *(
                answers_of(self._client(keeper), [asked[at].question for at in part], deadline)
                for keeper, part in parts.items()
            )
        )
        for part, some in zip(parts.values(), found, strict=True):
            for at, answer in zip(part, some, strict=True):
                answers[at] = answer
        await self._follow(asked, answers, deadline)
        return answers

    async def _follow(self, asked: Sequence[Asked], answers: list[Any], deadline: float) -> None:
        """Ask again where a server said that it does not keep the key; one by one, for few are
        moved at a time, and the first mends the map.
        """
        for at, error in enumerate(answers):
            if isinstance(error, MovedError | AskError):
                try:
                    async with asyncio.timeout_at(deadline):
                        answers[at] = await self.ask(*asked[at])
                except (RedisError, OSError) as trouble:
                    answers[at] = trouble
            elif isinstance(error, Exception):
                self._heed(error)

    async def listener(self) -> Redis:
        """See Servers. What is published anywhere in a cluster is heard at each of its servers;
        the next one is given each time, so that one that is gone is not the only one tried.
        """
        await self._known()
        keepers = sorted({keeper for keeper in self._keepers if keeper})
        self._turn += 1
        return self._client(keepers[self._turn % len(keepers)])

    async def aclose(self) -> None:
        """See Servers."""
        self._is_closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await _close(self._clients.values())

    def _keeper(self, key: str) -> Address:
        keeper = self._keepers[_slot(key)]
        if keeper is None:
            error = ClusterDownError(f"no server keeps the slot of {key}")
            self._heed(error)
            raise error
        return keeper

    def _client(self, address: Address) -> Redis:
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = without_retries(self._open_at(address))
        return client

    def _moved(self, error: MovedError, asked: Redis) -> Redis:
        keeper = _target(error, asked)
        self._keepers[error.slot_id] = keeper
        self._look_again()
        return self._client(keeper)

    def _heed(self, error: BaseException) -> None:
        """Read the map again if a server did not answer: another may have taken its place."""
        if not is_answer(error):
            self._look_again()

    def _look_again(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._is_closed or now < self._next_look:
            return
        if self._looking is None or self._looking.done():
            self._next_look = now + LOOK_AGAIN_S
            self._looking = asyncio.create_task(self._look_in_peace())

    async def _look_in_peace(self) -> None:
        # What was known still stands, and the next trouble looks again.
        with suppress(RedisError, OSError):
            await self._look()

    async def _known(self) -> None:
        if not self._keepers:
            async with self._first_look:
                if not self._keepers:
                    await self._look()

    async def _look(self) -> None:
        """Read the map from whoever answers first."""
        known = {*self._seeds, *self._clients}
        looks = [asyncio.create_task(_map_of(self._client(address))) for address in known]
        try:
            for look in asyncio.as_completed(looks):
                try:
                    keepers = await look
                except (RedisError, OSError) as error:
                    trouble = error
                else:
                    return await self._learn(keepers)
            raise trouble
        finally:
            for task in looks:
                task.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _learn(self, keepers: list[Address | None]) -> None:
        self._keepers = keepers
        gone = self._clients.keys() - {*self._seeds, *keepers}
        await _close([self._clients.pop(address) for address in gone])


async def _map_of(client: Redis) -> list[Address | None]:
    """Who keeps each slot, as one server sees it. Raises ClusterDownError if it sees nobody."""
    ranges = await client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
    keepers: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_ in ranges:
        # The name of a server that has not told it yet.
        if host not in (b"?", "?"):
            keeper = _address(host, port, client)
            keepers[first : last + 1] = [keeper] * (last + 1 - first)
    if not any(keepers):
        raise ClusterDownError(f"{place_of(client)} knows of no server that keeps a slot")
    return keepers


async def _asking(redis: Redis, question: Question) -> Any:
    """The answer of a server to which the slot is only on its way."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.execute_command("ASKING")
        question(pipeline)
        _, answer = await pipeline.execute(raise_on_error=False)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _target(error: MovedError | AskError, asked: Redis) -> Address:
    return _address(error.host, error.port, asked)


def _address(host: str | bytes | None, port: int, told_by: Redis) -> Address:
    """The address that a server told; without a host it is the one that the server is asked at."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name:
        name = str(told_by.connection_pool.connection_kwargs.get("host", "localhost"))
    return Address(name, int(port))


def _slot(key: str) -> int:
    return key_slot(key.encode())


async def _close(clients: Iterable[Redis]) -> None:
    for client in clients:
        await client.aclose()


def cluster_at(url: str, open_url: Callable[[str], Redis]) -> Cluster:
    """The cluster at ``redis+cluster://`` or ``rediss+cluster://``, ``user:password@`` if needed,
    one ``host:port`` or several with commas in between. ``open_url`` makes a client of the URL
    of one server, and is asked once at once. Raises ValueError when the URL is wrong.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.removesuffix(SUFFIX)
    if scheme not in ("redis", "rediss") or parts.fragment:
        raise ValueError("this is not the URL of a cluster")
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("a cluster has one database, 0")
    access, at, hosts = parts.netloc.rpartition("@")

    def open_at(address: Address) -> Redis:
        host = f"[{address.host}]" if ":" in address.host else address.host
        where = f"{access}{at}{host}:{address.port}"
        return open_url(urlunsplit((scheme, where, "", parts.query, "")))

    seeds = [_seed(host) for host in hosts.split(",")]
    open_at(seeds[0])
    return Cluster(seeds, open_at)


def _seed(text: str) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a server of the cluster has no name")
    return Address(parts.hostname, parts.port or _DEFAULT_PORT)
