"""Kong's side of a plugin server's socket, as fast as Python goes: events from prebuilt bytes.

One connection for each event under way; the next event on it starts when one has ended. What is
answered to PDK calls is packed beforehand, only the event's id is put in.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import msgpack

from harness.policies import SERVICE_KEY, Visitor

# [0, id, method, [{"EventId": ..., "Data": ...}]], where the id is a 64-bit number.
_CALL = b"\x94\x00\x01"
_EVENT_ID = b"\x91\x82\xa7EventId\xcf"
_KEY = "plugins:{}:route-id::::ws"
_KINDS = {
    "kong.request.get_headers": "MultiMap",
    "kong.client.get_consumer": "Consumer",
    "kong.router.get_service": "Service",
}
_RESULTS: dict[str, Any] = {
    "kong.router.get_service": {"id": "s", "name": SERVICE_KEY, "host": "shop-v1", "port": 80},
    "kong.request.get_path": "/",
    "kong.service.set_upstream": True,
}
_PER_VISITOR = ("kong.request.get_headers", "kong.client.get_forwarded_ip")


class Kong:
    """A worker that has events under way on as many connections."""

    def __init__(self, path: Path, plugin: str, people: Sequence[Visitor]) -> None:
        self._path, self._plugin = str(path), plugin
        self.steps = {name: _step(name, value) for name, value in _RESULTS.items()}
        self.visits = [_visit(person) for person in people]
        self.handle = b""
        self.took: list[float] = []
        self.calls = 0
        self._connections: list[_Connection] = []

    async def start(self, connections: int) -> None:
        """Connect, and start the plugin's instance."""
        loop = asyncio.get_running_loop()
        for number in range(connections):
            _, connection = await loop.create_unix_connection(
                lambda number=number: _Connection(self, number),  # type: ignore[misc]
                self._path,
            )
            self._connections.append(connection)
        known = {"__plugin_id": "p", "__ws_id": "ws", "__seq__": 1}
        config = json.dumps(known | {"__key__": _KEY.format(self._plugin)})
        started = await self._connections[0].call(
            "plugin.StartInstance", {"Name": self._plugin, "Config": config}
        )
        call = {"InstanceId": started["Id"], "EventName": "access"}
        self.handle = msgpack.packb([0, 1, "plugin.HandleEvent", [call]])

    async def run(self, in_flight: int, seconds: float) -> tuple[float, list[float]]:
        """Events a second, and how long each took in seconds."""
        self.took = []
        started = perf_counter()
        for connection in self._connections[:in_flight]:
            connection.go(started + seconds)
        await asyncio.gather(*(c.finished.wait() for c in self._connections[:in_flight]))
        return len(self.took) / (perf_counter() - started), self.took

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self, kong: Kong, number: int) -> None:
        self._kong, self._next = kong, number * 31
        self._unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
        self._transport: asyncio.Transport
        self._called: asyncio.Future[Any] | None = None
        self._visit: dict[str, tuple[bytes, bytes]] = {}
        self._started = self._ends = 0.0
        self.finished = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def call(self, method: str, argument: Any) -> Any:
        """One call outside of events."""
        self._called = asyncio.get_running_loop().create_future()
        self._transport.write(msgpack.packb([0, 1, method, [argument]]))
        return await self._called

    def go(self, ends: float) -> None:
        """Make events until then."""
        self._ends = ends
        self.finished.clear()
        self._begin()

    def close(self) -> None:
        """Close."""
        self._transport.close()

    def _begin(self) -> None:
        visits = self._kong.visits
        self._visit = visits[self._next % len(visits)]
        self._next += 1
        self._started = perf_counter()
        self._transport.write(self._kong.handle)

    def data_received(self, data: bytes) -> None:
        self._unpacker.feed(data)
        for _, _, error, result in self._unpacker:
            if error is not None:
                raise SystemExit(f"the plugin server answered: {error}")
            if self._called is not None:
                self._called.set_result(result)
                self._called = None
            elif isinstance(result["Data"], dict):
                self._step(result["EventId"], result["Data"]["Method"])
            else:
                self._end()

    def _step(self, event: int, method: str) -> None:
        kong = self._kong
        kong.calls += 1
        steps = self._visit.get(method) or kong.steps.get(method)
        if steps is None:
            steps = kong.steps[method] = _step(method, None)
        before, after = steps
        self._transport.write(before + struct.pack(">Q", event) + after)

    def _end(self) -> None:
        now = perf_counter()
        self._kong.took.append(now - self._started)
        if now < self._ends:
            self._begin()
        else:
            self.finished.set()


def _visit(person: Visitor) -> dict[str, tuple[bytes, bytes]]:
    headers = dict(person.headers)
    headers["cookie"] = "; ".join(f"{name}={value}" for name, value in person.cookies.items())
    many = {name: [value] for name, value in headers.items()}
    return {
        name: _step(name, value)
        for name, value in zip(_PER_VISITOR, (many, person.client_ip), strict=True)
    }


def _step(method: str, value: Any) -> tuple[bytes, bytes]:
    """The bytes before and after the event's id."""
    name = msgpack.packb(f"plugin.Step{_KINDS.get(method, '')}")
    data = msgpack.packb("Data") + msgpack.packb(value)
    return _CALL + name + _EVENT_ID, data
