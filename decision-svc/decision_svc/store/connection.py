"""One Redis for every adapter: each question is answered in time, or is an error of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.exceptions import MovedError, RedisError, ResponseError

from decision_svc.store.cluster import SUFFIX, cluster_at
from decision_svc.store.protocol import StoreError, StoreUnavailable
from decision_svc.store.servers import Asked, OneServer, Question, Servers

DEFAULT_TIMEOUT_S = 2.0
DEFAULT_CONNECT_TIMEOUT_S = 1.0
DEFAULT_MAX_CONNECTIONS = 32

_SPOILED = ("WRONGTYPE", "CORRUPT")
_TROUBLES = (UnicodeEncodeError, RedisError, OSError)

_T = TypeVar("_T")


class Connection:
    """Asks Redis, and sends nothing twice behind the caller's back: a write whose answer was lost
    may be done.
    """

    def __init__(self, servers: Servers, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._servers, self.timeout_s = servers, timeout_s
        self.place = servers.place
        """Where Redis is, without the credentials."""

    @classmethod
    def to(
        cls,
        url: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
    ) -> Connection:
        """A connection to ``redis://``, ``rediss://`` or ``unix://``, or to the cluster at
        ``redis+cluster://`` or ``rediss+cluster://``; connects when first asked.

        There are ``max_connections`` to each server. Raises StoreError when the URL is wrong.
        """

        def open_url(one: str) -> Redis:
            return Redis.from_pool(
                BlockingConnectionPool.from_url(
                    one,
                    max_connections=max_connections,
                    timeout=timeout_s,
                    socket_connect_timeout=connect_timeout_s,
                    socket_timeout=timeout_s,
                    # RESP2 has all that is used here and every Redis-like server speaks it.
                    protocol=2,
                )
            )

        try:
            return cls(_servers(url, open_url), timeout_s=timeout_s)
        except ValueError:
            # The cause is kept out of sight: it may quote a piece of the password.
            raise StoreError(
                "the store's URL is wrong: write redis://, rediss:// or unix://, or for a cluster "
                "redis+cluster://HOST:PORT,HOST:PORT, and percent-encode the password"
            ) from None

    async def aclose(self) -> None:
        """Close the connections, those of watchers too."""
        await self._servers.aclose()

    async def ask(self, key: str, question: Question) -> Any:
        """The answer of the server that keeps ``key``."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._servers.ask(key, question)
        except _TROUBLES as error:
            raise self._no_answer(key, error) from error

    async def ask_all(self, asked: Sequence[Asked]) -> Sequence[Any]:
        """The answers to questions that are sent together; what comes of one is nothing to the
        others. Raises the first error that is among them.
        """
        answers = await self.answers(asked)
        for answer in answers:
            if isinstance(answer, StoreError):
                raise answer
        return answers

    async def answers(self, asked: Sequence[Asked]) -> Sequence[Any]:
        """The same, with the StoreError instead of an answer where there is one."""
        if not asked:
            return []
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        try:
            answers = await self._servers.ask_all(asked, deadline)
        except _TROUBLES as error:
            raise self._no_answer(asked[0].key, error) from error
        return [
            self._no_answer(key, answer) if isinstance(answer, Exception) else answer
            for (key, _), answer in zip(asked, answers, strict=True)
        ]

    async def ask_some(self, asked: Sequence[Asked]) -> Sequence[Any]:
        """The same, but raises StoreUnavailable if no server answers at all."""
        answers = await self.answers(asked)
        if asked and all(isinstance(answer, StoreUnavailable) for answer in answers):
            raise answers[0]
        return answers

    async def pubsub(self, about: str) -> PubSub:
        """A subscription to be, at a server that hears whatever is published."""
        return (await self.within(about, self._servers.listener())).pubsub()

    async def within(self, about: str, answer: Awaitable[_T], timeout_s: float | None = None) -> _T:
        """What is awaited, in time; every way not to get it becomes an error of the store."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except _TROUBLES as error:
            raise _failed(self.place, about, error, limit_s) from error

    def _no_answer(self, key: str, error: Exception) -> StoreError:
        if isinstance(error, UnicodeEncodeError):
            return StoreError(f"{key!r}: this cannot be written as UTF-8")
        return _failed(self._servers.place_of(key), key, error, self.timeout_s)


def _servers(url: str, open_url: Callable[[str], Redis]) -> Servers:
    if url.partition("://")[0].endswith(SUFFIX):
        return cluster_at(url, open_url)
    return OneServer(open_url(url))


def _failed(place: str, about: str, error: Exception, limit_s: float) -> StoreError:
    """The error of the store that an error of the driver is."""
    why = str(error) or f"no answer within {limit_s:g} s"
    if isinstance(error, MovedError):
        why += ": this is a server of a cluster, write redis+cluster:// in the store's URL"
    kind = StoreError if _is_spoiled(error) else StoreUnavailable
    failed = kind(f"{place}: {about}: {why}")
    failed.__cause__ = error
    return failed


def _is_spoiled(error: Exception) -> bool:
    """Whether Redis is well but a key holds what this program would not have put there."""
    return isinstance(error, ResponseError) and any(code in str(error) for code in _SPOILED)


def slot_key(name: str, *rest: str) -> str:
    """A key in the slot of the name, which is a service key; whatever braces that has."""
    safe = name.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    # Empty braces would not be a hash tag; no other service key is written as a lone %.
    return ":".join(("canary", "{" + (safe or "%") + "}", *rest))


def as_bytes(data: Any) -> bytes:
    """What Redis answered as bytes, although a client that decodes made text of it."""
    return data.encode() if isinstance(data, str) else bytes(data)
