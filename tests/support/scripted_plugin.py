"""A plugin server that does what its script says, and remembers what came back."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgpack

from support.waiting import WITHIN_S

PLUGIN = "canary-release"

PdkCall = tuple[str, list[Any]]


class FaultError(Exception):
    """An error that the plugin server answers with."""


class Server:
    """A unix-socket MessagePack-RPC server; `respond` gives the result of each call."""

    def __init__(self, path: Path, respond: Callable[[str, Any], Any]) -> None:
        self.path = path
        self.calls: list[list[Any]] = []
        self.connections: list[int] = []
        self._respond = respond
        self._writers: set[asyncio.StreamWriter] = set()
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._progress = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._talk, str(self.path))
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        self.path.unlink(missing_ok=True)

    async def seen(self, count: int) -> None:
        """Return when so many calls were answered."""
        async with asyncio.timeout(WITHIN_S), self._progress:
            await self._progress.wait_for(lambda: len(self.calls) >= count)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        number = next(self._numbers)
        unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape")
        try:
            while data := await reader.read(65536):
                unpacker.feed(data)
                for message in unpacker:
                    writer.write(msgpack.packb(await self._answer(message, number)))
        except ConnectionError:
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, message: Any, connection: int) -> list[Any]:
        _, message_id, method, (argument,) = message
        answer: list[Any]
        try:
            result = self._respond(method, argument)
            if isinstance(result, Awaitable):
                result = await result
            answer = [1, message_id, None, result]
        except FaultError as fault:
            answer = [1, message_id, str(fault), None]
        async with self._progress:
            self.calls.append(message)
            self.connections.append(connection)
            self._progress.notify_all()
        return answer


@dataclass
class Script:
    """A plugin whose phases make a fixed list of PDK calls and remember what came back."""

    access: Sequence[PdkCall] = ()
    log: Sequence[PdkCall] = ()
    first_id: int = 0
    configs: list[dict[str, Any]] = field(default_factory=list)
    started: dict[int, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, list[Any]] = field(default_factory=lambda: {"access": [], "log": []})
    steps: list[str] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    _running: dict[int, tuple[str, int]] = field(default_factory=dict)

    def respond(self, method: str, argument: Any) -> Any:
        if method == "plugin.StartInstance":
            config = json.loads(argument["Config"])
            self.configs.append(config)
            instance_id = self.first_id + len(self.configs) - 1
            self.started[instance_id] = config
            return {"Name": argument["Name"], "Id": instance_id, "Config": config}
        if method == "plugin.HandleEvent":
            if argument["InstanceId"] not in self.started:
                raise FaultError(f"no plugin instance #{argument['InstanceId']}")
            event_id = len(self.events)
            self.events.append((argument["InstanceId"], argument["EventName"]))
            self._running[event_id] = (argument["EventName"], 0)
            return self._next(event_id)
        self.steps.append(method)
        event_id = argument["EventId"]
        phase, position = self._running[event_id]
        self.results[phase].append(argument.get("Data"))
        self._running[event_id] = (phase, position + 1)
        return self._next(event_id)

    def _next(self, event_id: int) -> dict[str, Any]:
        phase, position = self._running[event_id]
        calls = self.access if phase == "access" else self.log
        if position == len(calls):
            return {"Data": "ret", "EventId": event_id}
        method, args = calls[position]
        return {"Data": {"Method": method, "Args": args}, "EventId": event_id}


DEFAULT_FIELDS: list[dict[str, Any]] = [
    {"percentage": {"type": "number", "between": [0, 100], "default": 5}}
]


def query_command(
    tmp_path: Path,
    fields: Sequence[Mapping[str, Any]] = DEFAULT_FIELDS,
    phases: Sequence[str] = ("access", "log"),
    priority: int = 850,
) -> str:
    """A command that prints a plugin's description as kong-pdk does."""
    info = {
        "Name": PLUGIN,
        "Phases": list(phases),
        "Priority": priority,
        "Version": "0.1.0",
        "Schema": {
            "name": PLUGIN,
            "fields": [{"config": {"type": "record", "fields": list(fields)}}],
        },
    }
    path = tmp_path / "plugin-info.json"
    path.write_text(json.dumps([info]))
    return f"cat {path}"
