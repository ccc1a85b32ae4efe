"""Which Redis server a question goes to: the one there is, or the one that keeps the key.

``OneServer`` is here, a cluster in ``store.cluster``; nothing else knows which it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, NoScriptError, RedisError, ResponseError

_PACKAGE = "decision_svc.store"

Question = Callable[[Redis], Any]
"""Asks a server one thing, of keys of one slot; given a pipeline, it puts that there instead."""


class Asked(NamedTuple):
    """A question, and the key whose server is asked."""

    key: str
    question: Question


class Servers(Protocol):
    """Where questions go. Raises the errors of the driver, and sends nothing twice by itself
    unless a server said that it did not do it.
    """

    @property
    def place(self) -> str:
        """Where they are, without the credentials."""
        ...

    def place_of(self, key: str) -> str:
        """Where the server that keeps ``key`` is, as far as that is known."""
        ...

    async def ask(self, key: str, question: Question) -> Any:
        """The answer of the server that keeps ``key``."""
        ...

    async def ask_all(self, asked: Sequence[Asked], deadline: float) -> Sequence[Any]:
        """The answers in order, each of them or the error that came instead.

        ``deadline`` is a time of the event loop: what was not answered by then is a TimeoutError,
        whatever other servers have answered.
        """
        ...

    async def listener(self) -> Redis:
        """A server that hears whatever is published; perhaps another one each time."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class OneServer:
    """One server, or what looks like one: the address of a primary, a proxy.

    Takes over ``client``: its retries are turned off.
    """

    def __init__(self, client: Redis) -> None:
        self._client = without_retries(client)
        self.place = place_of(client)

    def place_of(self, key: str) -> str:
        """See Servers."""
        return self.place

    async def ask(self, key: str, question: Question) -> Any:
        """See Servers."""
        return await answer_of(self._client, question)

    async def ask_all(self, asked: Sequence[Asked], deadline: float) -> Sequence[Any]:
        """See Servers."""
        return await answers_of(self._client, [question for _, question in asked], deadline)

    async def listener(self) -> Redis:
        """See Servers."""
        return self._client

    async def aclose(self) -> None:
        """See Servers."""
        await self._client.aclose()


class Script:
    """A script of ``store/lua``, which a server is told once and knows by its digest."""

    def __init__(self, name: str) -> None:
        self._digest = sha1(_scripts()[name].encode(), usedforsecurity=False).hexdigest()

    def on(self, keys: Sequence[str], args: Sequence[str | int | float | bytes]) -> Question:
        """The question that runs it on ``keys``, which are of one slot."""
        return lambda redis: redis.evalsha(self._digest, len(keys), *keys, *args)


def whole_hash(key: str) -> Asked:
    """Asks for every field of a hash."""
    return Asked(key, lambda redis: redis.hgetall(key))


@cache
def _scripts() -> dict[str, str]:
    folder = files(_PACKAGE).joinpath("lua")
    scripts = (file for file in folder.iterdir() if file.name.endswith(".lua"))
    return {file.name: file.read_text("utf-8") for file in scripts}


async def answer_of(client: Redis, question: Question) -> Any:
    """What one server answers."""
    try:
        return await question(client)
    except NoScriptError:
        await _tell_scripts(client)
        return await question(client)


async def answers_of(
    client: Redis, questions: Sequence[Question], deadline: float
) -> Sequence[Any]:
    """What one server answers to questions that are sent together, or the error for each."""
    try:
        async with asyncio.timeout_at(deadline):
            answers = await _sent_together(client, questions)
            unknown = [at for at, one in enumerate(answers) if isinstance(one, NoScriptError)]
            if unknown:
                await _tell_scripts(client)
                again = await _sent_together(client, [questions[at] for at in unknown])
                for at, answer in zip(unknown, again, strict=True):
                    answers[at] = answer
            return answers
    except (RedisError, OSError) as error:
        return [error] * len(questions)


async def _sent_together(client: Redis, questions: Sequence[Question]) -> list[Any]:
    async with client.pipeline(transaction=False) as pipeline:
        for question in questions:
            question(pipeline)
        return await pipeline.execute(raise_on_error=False)


async def _tell_scripts(client: Redis) -> None:
    """Tell a server all scripts: one that has none was started or flushed since."""
    async with client.pipeline(transaction=False) as pipeline:
        for text in _scripts().values():
            pipeline.script_load(text)
        await pipeline.execute()


def is_answer(error: BaseException) -> bool:
    """Whether a server that works said so, rather than nothing or that it cannot work."""
    return isinstance(error, ResponseError) and not isinstance(error, ClusterDownError)


def without_retries(client: Redis) -> Redis:
    """The client, which now sends nothing twice: a write whose answer was lost may be done."""
    client.set_retry(Retry(NoBackoff(), 0))
    return client


def place_of(client: Redis) -> str:
    """Where the client connects to, without the credentials."""
    options = client.connection_pool.connection_kwargs
    if path := options.get("path"):
        return f"redis at {path}"
    return f"redis at {options.get('host', 'localhost')}:{options.get('port', 6379)}"
