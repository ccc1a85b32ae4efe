"""HTTP/1.1 to the upstreams: pooled connections, header bytes as given, bodies as streams."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from aiohttp import ClientConnectionError, ClientPayloadError, StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

IDLE_TIMEOUT_S = 60
POOL_SIZE = 512
MAX_LINE = 32768
MAX_HEADERS = 1000

Address = tuple[str, int]

_CLIENT_GONE = (
    ClientConnectionError,
    ClientPayloadError,
    ConnectionError,
    HttpProcessingError,
    RequestPayloadError,
)


class UpstreamError(Exception):
    """No response; `is_sent` says whether the upstream may have seen the request."""

    def __init__(self, words: str, *, is_timeout: bool, is_sent: bool) -> None:
        super().__init__(words)
        self.is_timeout = is_timeout
        self.is_sent = is_sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    connect_s: float
    write_s: float
    read_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    """A request ready to be sent; a body without a length is sent in chunks."""

    method: str
    head: bytes
    body: StreamReader | None
    is_chunked: bool


class UpstreamResponse:
    """Status and headers are here; the body is on its way."""

    def __init__(
        self,
        message: RawResponseMessage,
        content: StreamReader,
        connection: ResponseHandler,
        pool: "UpstreamPool",
        address: Address,
        sending: "asyncio.Task[None] | None",
    ) -> None:
        self.status = message.code
        self.reason = message.reason
        self.headers = message.headers
        self.content = content
        self._connection = connection
        self._pool = pool
        self._address = address
        self._sending = sending

    async def release(self) -> None:
        """Keep the connection if the exchange is complete on both sides, else drop it."""
        if self._sending is not None and not self._sending.done():
            self._sending.cancel()
            await asyncio.wait([self._sending])
            self._connection.close()
        elif self._connection.should_close:
            self._connection.close()
        else:
            self._pool.give_back(self._address, self._connection)


class UpstreamPool:
    """Keep-alive connections by address; the newest idle one is used first."""

    def __init__(self) -> None:
        self._idle: dict[Address, list[tuple[ResponseHandler, float]]] = defaultdict(list)

    async def send(
        self, address: Address, request: UpstreamRequest, timeouts: Timeouts
    ) -> UpstreamResponse:
        """Send a request and wait for the head of its response."""
        while True:
            connection = self._take(address)
            is_reused = connection is not None
            if connection is None:
                connection = await self._connect(address, timeouts.connect_s)
            try:
                return await self._exchange(address, connection, request, timeouts)
            except UpstreamError as failure:
                connection.close()
                # nginx too tries once more when a kept connection turns out to be closed.
                if not is_reused or failure.is_timeout or request.body is not None:
                    raise

    async def _connect(self, address: Address, timeout_s: float) -> ResponseHandler:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: ResponseHandler(loop), *address
                )
        except TimeoutError as late:
            raise UpstreamError("connect timeout", is_timeout=True, is_sent=False) from late
        except OSError as fault:
            raise UpstreamError(str(fault), is_timeout=False, is_sent=False) from fault
        return connection

    async def _exchange(
        self,
        address: Address,
        connection: ResponseHandler,
        request: UpstreamRequest,
        timeouts: Timeouts,
    ) -> UpstreamResponse:
        connection.set_response_params(
            skip_payload=request.method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=timeouts.read_s,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
        )
        transport = connection.transport
        if transport is None:
            raise UpstreamError("connection closed", is_timeout=False, is_sent=False)
        transport.write(request.head)
        sending: asyncio.Task[None] | None = None
        if request.body is not None:
            sending = asyncio.create_task(_send_body(connection, request, timeouts.write_s))
        else:
            connection.start_timeout()
        try:
            message, content = await _final_response(connection)
        except (ClientConnectionError, HttpProcessingError, TimeoutError) as fault:
            is_timeout = isinstance(fault, TimeoutError)
            raise UpstreamError(str(fault), is_timeout=is_timeout, is_sent=True) from fault
        finally:
            if sending is not None and connection.exception() is not None:
                sending.cancel()
        return UpstreamResponse(message, content, connection, self, address, sending)

    def _take(self, address: Address) -> ResponseHandler | None:
        idle = self._idle[address]
        while idle:
            connection, since = idle.pop()
            if not connection.is_connected() or connection.should_close:
                continue
            if time.monotonic() - since < IDLE_TIMEOUT_S:
                return connection
            connection.close()
        return None

    def give_back(self, address: Address, connection: ResponseHandler) -> None:
        idle = self._idle[address]
        if connection.is_connected() and len(idle) < POOL_SIZE:
            idle.append((connection, time.monotonic()))
        else:
            connection.close()

    def close(self) -> None:
        for idle in self._idle.values():
            for connection, _ in idle:
                connection.close()
        self._idle.clear()


async def _final_response(
    connection: ResponseHandler,
) -> tuple[RawResponseMessage, StreamReader]:
    while True:
        message, content = await connection.read()
        if message.code >= 200 or message.code == 101:
            return message, content


async def _send_body(connection: ResponseHandler, request: UpstreamRequest, write_s: float) -> None:
    """Pass the client's body on as it comes; a client that goes away breaks the exchange."""
    assert request.body is not None
    try:
        async with aclosing(_chunks(request.body, is_chunked=request.is_chunked)) as chunks:
            async for data in chunks:
                if connection.transport is None:
                    return
                connection.transport.write(data)
                async with asyncio.timeout(write_s):
                    await connection._drain_helper()
        # The upstream's time to answer starts when it has everything.
        connection.start_timeout()
    except TimeoutError as late:
        connection.set_exception(late)
    except (
        ClientConnectionError,
        ClientPayloadError,
        ConnectionError,
        HttpProcessingError,
    ) as gone:
        connection.set_exception(ClientConnectionError(str(gone)))


async def _chunks(body: StreamReader, *, is_chunked: bool) -> AsyncGenerator[bytes, None]:
    while data := await body.readany():
        yield b"%x\r\n%b\r\n" % (len(data), data) if is_chunked else data
    if is_chunked:
        yield b"0\r\n\r\n"
