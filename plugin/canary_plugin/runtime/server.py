"""Kong's MessagePack-RPC on a unix socket: requests [0, id, method, args] and their answers.

Kong takes any connection of its pool for any call, so the steps of one event may arrive on
different connections, and ids repeat across them; an answer goes where its request came from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgpack

from canary_plugin.runtime.events import Events, Reply
from canary_plugin.runtime.instances import Instances
from canary_plugin.troubles import Troubles

MAX_MESSAGE = 16 << 20
BACKLOG = 4_096
SWEEP_EVERY_S = 0.5
FLUSH_ROUNDS = 5
BEGINNINGS = frozenset({"plugin.StartInstance", "plugin.HandleEvent"})


class PluginServer:
    """Dispatches Kong's calls to instances and events."""

    def __init__(self, instances: Instances, events: Events, troubles: Troubles) -> None:
        self._instances, self._events, self._troubles = instances, events, troubles
        self._connections: set[Connection] = set()
        self._outbox = Outbox()
        self._listening: list[asyncio.Server] = []
        self.held: dict[Connection, list[tuple[int, str, list[Any]]]] | None = None
        """Not None: calls that begin something are kept here, for the worker that comes next."""
        self._calls: dict[str, Callable[[Any, Reply], None]] = {
            "plugin.StartInstance": self._start_instance,
            "plugin.InstanceStatus": lambda id_, reply: reply(instances.status(id_)),
            "plugin.CloseInstance": lambda id_, reply: reply(instances.close(id_)),
            "plugin.HandleEvent": self._handle_event,
            "plugin.StepError": self._step_error,
        }
        for kind in (
            "", "Service", "Consumer", "Route", "Plugin", "Credential", "MemoryStats", "MultiMap"
        ):  # fmt: skip
            self._calls[f"plugin.Step{kind}"] = self._step

    def call(self, method: str, args: list[Any], reply: Reply) -> None:
        """Make one of Kong's calls. Raises LookupError or ValueError with words for Kong."""
        call = self._calls.get(method)
        if call is None or len(args) != 1:
            raise ValueError(f"RPC for {method} with {len(args)} arguments is not supported")
        call(args[0], reply)

    def connection(self) -> Connection:
        """What the loop calls for a new connection."""
        return Connection(self, self._connections, self._outbox, self._troubles)

    async def drain(self, deadline_s: float) -> None:
        """Let events come to their end, then close every connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._events.emptied.wait()
        self._outbox.empty()
        for connection in list(self._connections):
            connection.close()

    def hold(self) -> None:
        """From now on begin nothing."""
        self.held = {}

    async def quiet(self, limit_s: float) -> None:
        """Wait until no event is in progress, ending those that take longer; then accept no more.

        Until then a step may come by a new connection.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._events.emptied.wait()
        self._events.drop_all()
        self.deafen()
        for _ in range(FLUSH_ROUNDS):  # what was accepted becomes a connection, answers leave
            await asyncio.sleep(0)

    async def listen_on(self, listener: socket.socket) -> None:
        """Accept on a socket that belongs to somebody else."""
        listener.setblocking(False)
        self._listening.append(
            await asyncio.get_running_loop().create_unix_server(
                self.connection, sock=listener, backlog=BACKLOG
            )
        )

    async def listen_at(self, path: str, mode: int) -> None:
        """Accept on a socket of our own."""
        self._listening.append(await listen(self, path, mode))

    def deafen(self) -> None:
        """Accept no more connections."""
        for listening in self._listening:
            listening.close()
        self._listening.clear()

    def released(self) -> Iterator[tuple[int, bytes]]:
        """Give up every connection: a file descriptor and the calls that were held on it."""
        held = self.held or {}
        self._outbox.empty()
        for connection in list(self._connections):
            fd = connection.release()
            if fd >= 0:
                calls = (_pack([0, *call]) for call in held.get(connection, ()))
                yield fd, b"".join(calls)

    async def adopt(self, connection: socket.socket, held: bytes) -> None:
        """Go on with a connection of another worker."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        _, protocol = await loop.connect_accepted_socket(self.connection, connection)
        if held:
            protocol.data_received(held)

    async def sweep_for_ever(self) -> None:
        """Keep events and instances bounded, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self._events.sweep()
            self._instances.drop_idle()

    def _start_instance(self, call: dict[str, Any], reply: Reply) -> None:
        reply(self._instances.start(call["Name"], call["Config"]))

    def _handle_event(self, call: dict[str, Any], reply: Reply) -> None:
        instance = self._instances.use(call["InstanceId"])
        phase = getattr(instance.phases, call["EventName"], None)
        if phase is None:
            raise ValueError(f"{instance.name} has no phase {call['EventName']}")
        self._events.start(phase, reply)

    def _step(self, call: dict[str, Any], reply: Reply) -> None:
        # A nil result is a missing key.
        self._events.step(call["EventId"], (call.get("Data"), None), reply)

    def _step_error(self, call: dict[str, Any], reply: Reply) -> None:
        self._events.step(call["EventId"], (None, call.get("Data") or "error"), reply)


class Outbox:
    """Answers that leave together, once the loop has heard all that had come.

    Each write may have to wake whoever waits for it, which takes as long as making the answer.
    """

    def __init__(self) -> None:
        self._answers: list[tuple[Connection, bytes]] = []

    def put(self, connection: Connection, answer: bytes) -> None:
        """Write ``answer`` before the loop listens again."""
        if not self._answers:
            asyncio.get_running_loop().call_soon(self.empty)
        self._answers.append((connection, answer))

    def empty(self) -> None:
        """Write what there is."""
        answers, self._answers = self._answers, []
        for connection, answer in answers:
            connection.write(answer)


class Connection(asyncio.Protocol):
    """One of Kong's connections."""

    def __init__(
        self,
        server: PluginServer,
        connections: set[Connection],
        outbox: Outbox,
        troubles: Troubles,
    ) -> None:
        self._server, self._connections = server, connections
        self._outbox, self._troubles = outbox, troubles
        self._transport: asyncio.Transport | None = None
        self._is_whole = True
        # Header values are bytes; what is no UTF-8 becomes lone surrogates and goes back as is.
        self._unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",
            max_buffer_size=MAX_MESSAGE,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio's by class.
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._connections.discard(self)

    def close(self) -> None:
        """Close after what was written has left."""
        if self._transport is not None:
            self._transport.close()

    def release(self) -> int:
        """Leave the connection to somebody else; -1 if something of it is under way here."""
        transport, self._transport = self._transport, None
        self._connections.discard(self)
        if transport is None:
            return -1
        transport.pause_reading()
        if not self._is_whole or transport.get_write_buffer_size():
            transport.close()
            return -1
        fd = os.dup(transport.get_extra_info("socket").fileno())
        transport.abort()
        return fd

    def data_received(self, data: bytes) -> None:
        self._is_whole = False
        try:
            self._unpacker.feed(data)
            for _, id_, method, args in self._unpacker:
                self._is_whole = True
                self._call(id_, method, args)
        except (msgpack.UnpackException, msgpack.BufferFull, ValueError, TypeError) as error:
            self._troubles.count("bad-message", f"{type(error).__name__}: {error}")
            self._outbox.empty()
            self.close()

    def _call(self, id_: int, method: str, args: list[Any]) -> None:
        held = self._server.held
        if held is not None and method in BEGINNINGS:
            held.setdefault(self, []).append((id_, method, args))
            return
        try:
            self._server.call(method, args, lambda result: self._answer(id_, None, result))
        except Exception as error:  # Kong must get an answer to every call
            if not isinstance(error, LookupError):
                self._troubles.count("bad-call", f"{type(error).__name__}: {error}")
            self._answer(id_, str(error.args[0]) if error.args else repr(error), None)

    def _answer(self, id_: int, error: str | None, result: Any) -> None:
        self._outbox.put(self, _pack([1, id_, error, result]))

    def write(self, answer: bytes) -> None:
        """Write to Kong, if it is still there."""
        if self._transport is not None:
            self._transport.write(answer)


_pack: Callable[[list[Any]], bytes] = msgpack.Packer(unicode_errors="surrogateescape").pack
"""To bytes. One packer for all: it is a buffer, and a new one for each message would cost more."""


async def listen(server: PluginServer, path: str, mode: int) -> asyncio.Server:
    """Listen at ``path``, in place of whatever socket is there, without a moment's gap."""
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listening = await asyncio.get_running_loop().create_unix_server(
        server.connection, str(fresh), backlog=BACKLOG
    )
    fresh.chmod(mode)
    fresh.rename(target)
    return listening
