"""Kong's side of the plugin server's socket: MessagePack-RPC, PDK results from a table."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgpack

from support.waiting import WITHIN_S

KEY = "yyc3-xy-api-service"
"""The service key of what Kong routes to."""
SERVICE = {"id": "svc-id", "name": KEY, "host": "yyc3-xy-api", "port": 1229}
GLOBAL_KEY = "plugins:canary-release:::::ws"
ROUTE_KEY = "plugins:canary-release:route-id::::ws"

# What Kong answers unless a test says otherwise; None is nil, a missing "Data".
ANSWERS: dict[str, Any] = {
    "kong.request.get_headers": {},
    "kong.request.get_path": "/api/v1/x",
    "kong.client.get_forwarded_ip": "203.0.113.9",
    "kong.client.get_consumer": None,
    "kong.router.get_service": SERVICE,
    "kong.service.set_upstream": True,
    "kong.service.set_target": None,
    "kong.service.request.set_headers": None,
    "kong.service.request.clear_header": None,
    "kong.response.set_header": None,
    "kong.response.add_header": None,
    "kong.response.set_headers": None,
    "kong.log.set_serialize_value": None,
}
_STEPS = {
    "kong.request.get_headers": "MultiMap",
    "kong.client.get_consumer": "Consumer",
    "kong.router.get_service": "Service",
    "kong.router.get_route": "Route",
}

Answer = Any | Callable[..., Any]


@dataclass(frozen=True, slots=True)
class PdkError:
    """A result that makes Kong send StepError."""

    text: str


class RpcError(Exception):
    """The plugin server answered a call with an error."""


@dataclass(slots=True)
class Event:
    """What one event made Kong do."""

    calls: list[tuple[str, list[Any]]] = field(default_factory=list)
    end: Any = None

    @property
    def methods(self) -> list[str]:
        """Names of the PDK calls without "kong."."""
        return [method.removeprefix("kong.") for method, _ in self.calls]

    def all_args(self, method: str) -> list[list[Any]]:
        """The arguments of every call of a method."""
        return [args for called, args in self.calls if called == f"kong.{method}"]

    @property
    def upstream(self) -> str:
        """The upstream or "host:port" that the request was sent to; "" if it stays."""
        for method, args in reversed(self.calls):
            if method in ("kong.service.set_upstream", "kong.service.set_target"):
                return ":".join(map(str, args))
        return ""

    @property
    def told(self) -> dict[str, str]:
        """The headers that the upstream gets from the plugin."""
        found: dict[str, str] = {}
        for (headers,) in self.all_args("service.request.set_headers"):
            found |= headers
        return found

    @property
    def variant(self) -> str:
        """The variant that the upstream is told; "" if it is told nothing."""
        return self.told.get("x-canary-variant", "")

    @property
    def cleared(self) -> list[str]:
        """The request headers that were removed."""
        return [name for (name,) in self.all_args("service.request.clear_header")]

    @property
    def logged(self) -> dict[str, Any]:
        """The decision in Kong's log; {} if there is none."""
        values = self.all_args("log.set_serialize_value")
        assert len(values) <= 1
        return dict(values[0][1]) if values else {}

    @property
    def cookies(self) -> list[str]:
        """The Set-Cookie headers."""
        return [value for _, value in self.all_args("response.add_header")]


class Connection:
    """One connection: message ids count from 1 on each, so they repeat across them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ids = itertools.count(1)
        self._unpacker = msgpack.Unpacker(
            raw=False, unicode_errors="surrogateescape", strict_map_key=False
        )

    @classmethod
    async def open(cls, path: Path | str) -> Self:
        """Connect."""
        return cls(*await asyncio.open_unix_connection(str(path)))

    async def call(self, method: str, argument: Any) -> Any:
        """One call and its answer. Raises RpcError, EOFError if the server closes instead."""
        id_ = self.send(method, argument)
        return await self.answer(id_)

    def send(self, method: str, argument: Any) -> int:
        """Send a call; its id."""
        id_ = next(self._ids)
        self.send_bytes(
            msgpack.packb([0, id_, method, [argument]], unicode_errors="surrogateescape")
        )
        return id_

    def send_bytes(self, data: bytes) -> None:
        """Send anything."""
        self._writer.write(data)

    async def answer(self, id_: int) -> Any:
        """The next answer, which must be to call ``id_``. Raises RpcError, EOFError."""
        kind, answered, error, result = await self._next()
        assert (kind, answered) == (1, id_)
        if error is not None:
            raise RpcError(error)
        return result

    async def _next(self) -> Any:
        async with asyncio.timeout(WITHIN_S):
            while True:
                for message in self._unpacker:
                    return message
                data = await self._reader.read(1 << 20)
                if not data:
                    raise EOFError("the plugin server closed the connection")
                self._unpacker.feed(data)

    async def closed(self) -> bool:
        """Wait until the server closes the connection, sending nothing more."""
        async with asyncio.timeout(WITHIN_S):
            return not await self._reader.read(1)

    def close(self) -> None:
        """Close our side."""
        self._writer.close()


class Kong:
    """A Kong worker with a pool of connections.

    With ``spread``, every call takes the connection that was used longest ago, and at least
    that many connections are open.
    """

    def __init__(self, path: Path | str, *, spread: int = 1) -> None:
        self.path, self._spread = path, spread
        self._idle: deque[Connection] = deque()
        self._opened = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()

    async def call(self, method: str, argument: Any) -> Any:
        """One call on some connection. Raises RpcError, EOFError, OSError."""
        connection = await self._take()
        try:
            result = await connection.call(method, argument)
        except RpcError:
            self._idle.append(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return result

    async def _take(self) -> Connection:
        if self._idle and self._opened >= self._spread:
            return self._idle.popleft()
        self._opened += 1
        return await Connection.open(self.path)

    async def start(
        self, config: Mapping[str, Any], *, key: str = GLOBAL_KEY, name: str = "canary-release"
    ) -> int:
        """Start an instance, as Kong does before the first event; its id."""
        known = {"__plugin_id": "plugin-id", "__ws_id": "ws", "__seq__": 2, "__key__": key}
        text = json.dumps(known | dict(config), ensure_ascii=False)
        status = await self.call("plugin.StartInstance", {"Name": name, "Config": text})
        assert status["Name"] == name
        return int(status["Id"])

    async def event(
        self, instance: int, answers: Mapping[str, Answer] | None = None, phase: str = "access"
    ) -> Event:
        """Run a phase to its end, answering PDK calls from the table. Raises RpcError."""
        event = Event()
        step = await self.call("plugin.HandleEvent", {"InstanceId": instance, "EventName": phase})
        while isinstance(step["Data"], dict):
            method, args = step["Data"]["Method"], step["Data"]["Args"]
            event.calls.append((method, args))
            step = await self._step(step["EventId"], method, args, ANSWERS | dict(answers or {}))
        event.end = step["Data"]
        return event

    async def access(
        self, instance: int, headers: Mapping[str, Any] | None = None, **answers: Answer
    ) -> Event:
        """An access phase of a request with these headers.

        ``answers`` go by the last word of the PDK function, as in ``get_consumer={...}``.
        """
        table = {name: answers.pop(name.rpartition(".")[2], ANSWERS[name]) for name in ANSWERS}
        assert not answers
        table["kong.request.get_headers"] = {
            name: value if isinstance(value, list) else [value]
            for name, value in (headers or {}).items()
        }
        return await self.event(instance, table)

    async def _step(
        self, id_: int, method: str, args: list[Any], answers: Mapping[str, Any]
    ) -> Any:
        result = answers[method]
        if callable(result):
            result = result(*args)
        if isinstance(result, PdkError):
            return await self.call("plugin.StepError", {"EventId": id_, "Data": result.text})
        answer = {"EventId": id_} if result is None else {"EventId": id_, "Data": result}
        return await self.call(f"plugin.Step{_STEPS.get(method, '')}", answer)
