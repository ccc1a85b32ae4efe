"""One Redis for every adapter: each question is answered in time, or is an error of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from importlib.resources import files
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError, ResponseError

from decision_svc.store.protocol import StoreError, StoreUnavailable

DEFAULT_TIMEOUT_S = 2.0
DEFAULT_CONNECT_TIMEOUT_S = 1.0
DEFAULT_MAX_CONNECTIONS = 32

_SPOILED = ("WRONGTYPE", "CORRUPT")

_T = TypeVar("_T")


class Connection:
    """Asks Redis. Takes over ``client``: its retries are turned off, because a write whose answer
    was lost must not be sent twice behind the caller's back.
    """

    def __init__(self, client: Redis, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        client.set_retry(Retry(NoBackoff(), 0))
        self.client, self.timeout_s = client, timeout_s
        self.place = _place(client)
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
        """A connection to ``redis://``, ``rediss://`` or ``unix://``; connects when first asked.

        Raises StoreError when the URL is wrong.
        """
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=max_connections,
                timeout=timeout_s,
                socket_connect_timeout=connect_timeout_s,
                socket_timeout=timeout_s,
                # RESP2 has all that is used here and every Redis-like server and proxy speaks it.
                protocol=2,
            )
        except ValueError:
            # The cause is kept out of sight: it may quote a piece of the password.
            raise StoreError(
                "the store's URL is wrong: write redis://, rediss:// or unix:// and "
                "percent-encode the password"
            ) from None
        return cls(Redis.from_pool(pool), timeout_s=timeout_s)

    async def aclose(self) -> None:
        """Close the connections, those of watchers too."""
        await self.client.aclose()

    def script(self, name: str) -> AsyncScript:
        """A script of ``store/lua``."""
        text = files("decision_svc.store").joinpath("lua", name).read_text(encoding="utf-8")
        return self.client.register_script(text)

    def pipeline(self) -> Pipeline:
        """Questions that are sent together; what comes of one is nothing to the others."""
        return self.client.pipeline(transaction=False)

    async def ask(self, about: str, answer: Awaitable[_T], timeout_s: float | None = None) -> _T:
        """The answer in time; every way not to get it becomes an error of the store."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except UnicodeEncodeError as error:
            raise StoreError(f"{about!r}: this cannot be written as UTF-8") from error
        except (RedisError, OSError) as error:
            why = str(error) or f"no answer within {limit_s:g} s"
            raise self.failed(about, error, why) from error

    async def ask_all(self, about: str, pipeline: Pipeline) -> Sequence[Any]:
        """The answers of a pipeline. Raises the first error that is among them."""
        return await self.ask(about, pipeline.execute())

    def failed(self, about: str, error: Exception, why: str) -> StoreError:
        """The error of the store that an error of the driver is."""
        kind = StoreError if is_spoiled(error) else StoreUnavailable
        return kind(f"{self.place}: {about}: {why}")


def is_spoiled(error: Exception) -> bool:
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


def _place(client: Redis) -> str:
    """Where the client connects to, without the credentials."""
    options = client.connection_pool.connection_kwargs
    if path := options.get("path"):
        return f"redis at {path}"
    return f"redis at {options.get('host', 'localhost')}:{options.get('port', 6379)}"
