"""MessagePack-RPC over the plugin server's socket; each call takes a connection from a pool."""

import asyncio
import itertools
from collections import deque
from pathlib import Path
from typing import Any, cast

import msgpack

from dev_gateway.errors import LuaError, RpcError
from dev_gateway.lua import from_wire

REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2
POOL_SIZE = 30


class _Connection(asyncio.Protocol):
    """Carries one call at a time; a response to nothing is dropped with the connection."""

    def __init__(self) -> None:
        self._unpacker = msgpack.Unpacker(
            raw=False, unicode_errors="surrogateescape", strict_map_key=False
        )
        self._waiter: asyncio.Future[list[Any]] | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are transports by shape only.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._unpacker.feed(data)
        try:
            for message in self._unpacker:
                self._receive(message)
        except (ValueError, msgpack.UnpackException) as fault:
            self._fail(f"bad message: {fault}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail("no data")

    def _receive(self, message: Any) -> None:
        if isinstance(message, list) and message[:1] == [NOTIFICATION]:
            return
        if self._waiter is None or self._waiter.done():
            self.close()
        else:
            self._waiter.set_result(message)

    def _fail(self, words: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(RpcError(words))

    async def exchange(self, data: bytes, patience_s: float) -> Any:
        """Send a request, return whatever message answers it."""
        loop = asyncio.get_running_loop()
        if not self.is_open or self._transport is None:
            raise RpcError("closed")
        self._waiter = loop.create_future()
        timer = loop.call_later(patience_s, self._fail, "timeout")
        self._transport.write(data)
        try:
            return await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class RpcClient:
    """Kong's side of the protocol. Message ids count per client, so they repeat across clients."""

    def __init__(self, socket_path: Path, *, patience_s: float) -> None:
        self._socket_path = str(socket_path)
        self._patience_s = patience_s
        # The longest idle goes first: the steps of one event wander over the connections.
        self._idle: deque[_Connection] = deque()
        self._is_closed = False
        self._ids = itertools.count(1)
        self._packer = msgpack.Packer(
            use_bin_type=True, unicode_errors="surrogateescape", autoreset=True
        )

    async def call(self, method: str, argument: Any) -> Any:
        """The result of a call; RpcError says why there is none."""
        message_id = next(self._ids)
        data = self._packer.pack([REQUEST, message_id, method, [argument]])
        connection = await self._take()
        try:
            answer = await connection.exchange(data, self._patience_s)
        except BaseException:
            # A late answer must not meet the next call.
            connection.close()
            raise
        self._give_back(connection)
        return _result(answer, message_id)

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.popleft()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._patience_s):
                _, connection = await loop.create_unix_connection(_Connection, self._socket_path)
        except TimeoutError as late:
            raise RpcError("trying to connect: timeout") from late
        except OSError as fault:
            raise RpcError(f"trying to connect: {fault.strerror or fault}") from fault
        return connection

    def _give_back(self, connection: _Connection) -> None:
        if connection.is_open and not self._is_closed and len(self._idle) < POOL_SIZE:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Keep no connection from now on; events under way go on to their end."""
        self._is_closed = True
        while self._idle:
            self._idle.popleft().close()


def _result(answer: Any, message_id: int) -> Any:
    if not isinstance(answer, list) or len(answer) != 4 or answer[0] != RESPONSE:
        raise LuaError("RPC response expected from plugin server")
    if answer[1] != message_id:
        raise LuaError("unexpected RPC response ID from plugin server")
    if answer[2] is not None:
        raise RpcError(str(from_wire(answer[2])))
    return from_wire(answer[3])
