"""Kong's side of a plugin server's socket, cheap enough not to be what is measured itself.

One connection for each event under way; the next event on it starts when one has ended. What is
sent is packed beforehand, only the event's id is put in; of what is answered no more is read than
whether it is a PDK call, which, and in which event.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import msgpack

from harness.policies import SERVICE_KEY, Visitor

MAX_ANSWER = 65_536
# [0, id, method, [{"EventId": ..., "Data": ...}]]
_CALL = b"\x94\x00\x01"
_EVENT_ID, _METHOD = msgpack.packb("EventId"), msgpack.packb("Method")
_END = msgpack.packb("Data") + msgpack.packb("ret")
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
# By the first byte of a packed whole number: how many bytes it has in all.
_NUMBER_SIZES = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}

Step = tuple[bytes, bytes]
"""The bytes of a step before and after the event's id."""


class Kong:
    """A worker that has events under way on as many connections."""

    def __init__(self, path: Path, plugin: str, people: Sequence[Visitor]) -> None:
        self._path, self._plugin = str(path), plugin
        self._steps = {_packed(name): _step(name, value) for name, value in _RESULTS.items()}
        self._visits = [_visit(person) for person in people]
        self._connections: list[_Connection] = []

    def start(self, connections: int) -> None:
        """Connect, and start the plugin's instance."""
        self._connections = [_Connection(self._path, number * 31) for number in range(connections)]
        known = {"__plugin_id": "p", "__ws_id": "ws", "__seq__": 1}
        config = json.dumps(known | {"__key__": _KEY.format(self._plugin)})
        started = self._connections[0].call(
            "plugin.StartInstance", {"Name": self._plugin, "Config": config}
        )
        call = {"InstanceId": started["Id"], "EventName": "access"}
        self._handle = msgpack.packb([0, 1, "plugin.HandleEvent", [call]])

    def run(self, in_flight: int, seconds: float) -> tuple[float, list[float], list[float]]:
        """Events a second, and how long each took in seconds: all, and those of one call."""
        took: list[float] = []
        of_one_call: list[float] = []
        visits, handle = self._visits, self._handle
        under_way = {c.socket.fileno(): c for c in self._connections[:in_flight]}
        with select.epoll() as ready:
            began = perf_counter()
            ends = began + seconds
            for fd, connection in under_way.items():
                ready.register(fd, select.EPOLLIN)
                connection.begin(visits, handle, began)
            left = len(under_way)
            while left:
                for fd, _ in ready.poll():
                    connection = under_way[fd]
                    answer = connection.socket.recv(MAX_ANSWER)
                    if _END in answer:
                        now = perf_counter()
                        took.append(now - connection.began)
                        if connection.calls < 2:
                            of_one_call.append(took[-1])
                        if now < ends:
                            connection.begin(visits, handle, now)
                        else:
                            left -= 1
                    else:
                        self._answer(connection, answer)
            return len(took) / (perf_counter() - began), took, of_one_call

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            connection.socket.close()

    def _answer(self, connection: _Connection, answer: bytes) -> None:
        """Send the result of the PDK call that ``answer`` asks for."""
        connection.calls += 1
        at = answer.find(_METHOD) + len(_METHOD)
        event_at = answer.find(_EVENT_ID) + len(_EVENT_ID)
        if at < len(_METHOD) or event_at < len(_EVENT_ID):
            raise SystemExit(f"the plugin server answered: {answer!r}")
        first = answer[at]
        end = at + 2 + answer[at + 1] if first == 0xD9 else at + 1 + (first & 31)
        method = answer[at:end]
        event = answer[event_at : event_at + _NUMBER_SIZES.get(answer[event_at], 1)]
        step = connection.visit.get(method) or self._steps.get(method)
        if step is None:
            step = self._steps[method] = _step(msgpack.unpackb(method), None)
        before, after = step
        connection.socket.send(before + event + after)


class _Connection:
    """One connection, with one event under way; every message on it comes in one piece."""

    def __init__(self, path: str, first: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.visit: dict[bytes, Step] = {}
        self.began = 0.0
        self.calls = 0
        self._next = first

    def begin(self, visits: Sequence[dict[bytes, Step]], handle: bytes, now: float) -> None:
        """Begin the next visitor's event."""
        self.visit = visits[self._next % len(visits)]
        self._next += 1
        self.began, self.calls = now, 0
        self.socket.send(handle)

    def call(self, method: str, argument: Any) -> Any:
        """One call outside of events."""
        self.socket.sendall(msgpack.packb([0, 1, method, [argument]]))
        _, _, error, result = msgpack.unpackb(self.socket.recv(MAX_ANSWER))
        if error is not None:
            raise SystemExit(f"the plugin server answered: {error}")
        return result


def _visit(person: Visitor) -> dict[bytes, Step]:
    headers = dict(person.headers)
    headers["cookie"] = "; ".join(f"{name}={value}" for name, value in person.cookies.items())
    many = {name: [value] for name, value in headers.items()}
    return {
        _packed(name): _step(name, value)
        for name, value in zip(_PER_VISITOR, (many, person.client_ip), strict=True)
    }


def _step(method: str, value: Any) -> Step:
    name = _packed(f"plugin.Step{_KINDS.get(method, '')}")
    return _CALL + name + b"\x91\x82" + _EVENT_ID, _packed("Data") + _packed(value)


def _packed(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
