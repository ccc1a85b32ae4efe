"""One gRPC stream on an HTTP/2 connection of its own, in the loop that asks.

What arrives is handed over where it arrives: no thread, no task and no queue lies between the
socket and whoever waits (docs/decisions/0008). Only header blocks go through a library, hpack;
the frames of one stream are few. RFC 9113 is HTTP/2; gRPC's part of it is five bytes before each
message and the status in the trailers.

Memory is bounded: one frame that is not whole, one message that is not whole, and one message
that waits for room at the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

import grpc
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple

from canary_plugin.credentials import Credentials
from canary_plugin.deciders import frames
from canary_plugin.deciders.addresses import Address, Endpoint
from canary_plugin.deciders.frames import NotHttp2, Setting

STREAM = 1
PREFIX = 5
MAX_MESSAGE = 64 << 20
MAX_HEADER_BLOCK = 64 << 10
MAX_UNWRITTEN = 16 << 20
# What the service may send before it hears that it was read; more than any moment's answers.
WINDOW = 8 << 20
PING_AFTER_S, PING_WITHIN_S = 5.0, 2.0
CLOSING_S = 1.0

_STATUS = {code.value[0]: code.name for code in grpc.StatusCode}


class StreamBroken(ConnectionError):  # noqa: N818 - it says what is the matter
    """The stream is over; the text says why, beginning with gRPC's status if it has one."""


class Http2Stream(asyncio.Protocol):
    """A bidirectional gRPC stream; ``connected`` makes one.

    ``hear`` gets each message; ``has_room_again`` is called when a message may be sent once more.
    """

    def __init__(
        self,
        address: Address,
        endpoint: Endpoint,
        method: str,
        hear: Callable[[bytes], None],
        has_room_again: Callable[[], None],
        authorization: str = "",
    ) -> None:
        self._authorization = authorization
        loop = asyncio.get_running_loop()
        self._address, self._method = address, method
        self._hear, self._has_room_again = hear, has_room_again
        self._loop = loop
        self._transport: asyncio.Transport
        self._reader, self._decoder = frames.Reader(), Decoder()
        self._message = bytearray()
        self._block = bytearray()
        self._block_flags = 0
        self._unread = 0
        self._connection_window = self._stream_window = frames.DEFAULT_WINDOW
        self._initial_window = frames.DEFAULT_WINDOW
        self._max_payload = frames.MAX_PAYLOAD
        self._held = memoryview(b"")
        self._is_paused = False
        self._has_heard = False
        self._look: asyncio.TimerHandle | None = None
        self.endpoint = endpoint
        self.opened: asyncio.Future[None] = loop.create_future()
        """Done when the service has answered the opening."""
        self.ended: asyncio.Future[None] = loop.create_future()
        """Fails with StreamBroken once the stream is over; ``is_over`` says so at once."""
        self.is_over = False

    @property
    def has_room(self) -> bool:
        """Whether a message may be sent."""
        return not (self._held or self._is_paused or self.is_over)

    def send(self, message: bytes) -> None:
        """Send a message whole, as fast as the service makes room; only if ``has_room``."""
        body = b"\0%b%b" % (len(message).to_bytes(4), message)
        size = len(body)
        if size <= min(self._max_payload, self._stream_window, self._connection_window):
            self._write_data(body)
        else:
            self._held = memoryview(body)
            self._send_held()

    def fail(self, why: str) -> None:
        """End the stream at once, whatever is still to be written."""
        self._end(StreamBroken(why))
        self._transport.abort()

    def close(self) -> None:
        """End the stream and tell the service so."""
        if self.is_over:
            self._transport.abort()
            return
        code = frames.CANCEL.to_bytes(4)
        self._transport.write(frames.frame(frames.RST_STREAM, 0, STREAM, code))
        self._transport.close()
        # A service that does not read must not keep the socket.
        self._loop.call_later(CLOSING_S, self._transport.abort)
        self._end(StreamBroken("closed here"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        headers: list[Any] = [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", self._method),
            (":authority", self._address.authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "canary-plugin-server"),
        ]
        if self._authorization:
            headers.append(NeverIndexedHeaderTuple("authorization", self._authorization))
        block = Encoder().encode(headers)
        wanted = {Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: WINDOW}
        self._transport.write(
            frames.PREFACE
            + frames.settings(wanted)
            + frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW)
            + frames.frame(frames.HEADERS, frames.END_HEADERS, STREAM, block)
        )
        self._look = self._loop.call_later(PING_AFTER_S, self._look_for_life)

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"{type(exc).__name__}: {exc}" if exc else "the service closed the connection"
        self._end(StreamBroken(f"UNAVAILABLE: {why}"))

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._send_held()
        self._tell_of_room()

    def data_received(self, data: bytes) -> None:
        self._has_heard = True
        try:
            for kind, flags, stream, payload in self._reader.frames(data):
                if self.is_over:
                    return
                if kind == frames.DATA:
                    self._read_data(flags, stream, payload)
                elif self._block_flags and kind != frames.CONTINUATION:
                    raise NotHttp2("a header block that is interrupted")
                else:
                    self._read_control(kind, flags, stream, payload)
        except (NotHttp2, HPACKError) as error:
            self.fail(f"INTERNAL: {type(error).__name__}: {error}")
        except Exception as error:  # a message that cannot be read; the next ones cannot either
            self.fail(f"INTERNAL: {type(error).__name__}: {error}")

    def _read_data(self, flags: int, stream: int, payload: bytes) -> None:
        if stream != STREAM or not self.opened.done():
            raise NotHttp2(f"data on stream {stream}, which is not open")
        self._unread += len(payload)
        if self._unread >= WINDOW // 2:
            self._write(
                frames.window_update(0, self._unread) + frames.window_update(STREAM, self._unread)
            )
            self._unread = 0
        if flags & frames.PADDED:
            payload = frames.unpadded(frames.PADDED, payload)
        self._message += payload
        self._hear_messages()
        if flags & frames.END_STREAM:
            self.fail("INTERNAL: the stream ended without a status")

    def _hear_messages(self) -> None:
        """Hand over every message that is whole."""
        message = self._message
        while len(message) >= PREFIX and not self.is_over:
            if message[0]:
                raise NotHttp2("a compressed message, which was not asked for")
            size = int.from_bytes(message[1:PREFIX])
            if size > MAX_MESSAGE:
                raise NotHttp2(f"a message of {size:,} bytes; {MAX_MESSAGE:,} are the most")
            if len(message) < PREFIX + size:
                return
            whole = bytes(message[PREFIX : PREFIX + size])
            del message[: PREFIX + size]
            self._hear(whole)

    def _read_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._read_window(stream, payload)
        elif kind == frames.PING:
            if not flags & frames.ACK:
                self._write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.SETTINGS:
            if not flags & frames.ACK:
                self._read_settings(payload)
        elif kind in (frames.HEADERS, frames.CONTINUATION):
            self._read_headers(kind, flags, stream, payload)
        elif kind == frames.RST_STREAM:
            if stream == STREAM:
                self.fail(f"UNAVAILABLE: the service reset the stream: {frames.code_name(payload)}")
        elif kind == frames.GOAWAY:
            self._read_goaway(payload)
        elif kind == frames.PUSH_PROMISE:
            raise NotHttp2("a push, which was refused")
        # Other frames, those of extensions too, are to be ignored.

    def _read_window(self, stream: int, payload: bytes) -> None:
        by = frames.read_number(payload)
        if stream == STREAM:
            self._stream_window += by
        elif stream == 0:
            self._connection_window += by
        if by == 0 or max(self._stream_window, self._connection_window) > frames.MAX_WINDOW:
            raise NotHttp2(f"a window that grows by {by}")
        if self._held:
            self._send_held()
            self._tell_of_room()

    def _read_settings(self, payload: bytes) -> None:
        for name, value in frames.read_settings(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif name == Setting.MAX_FRAME_SIZE:
                self._max_payload = max(value, 1)
        self._write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if self._held:
            self._send_held()
            self._tell_of_room()

    def _read_goaway(self, payload: bytes) -> None:
        # With a last stream that is ours, the service still serves it and ends it by itself.
        if frames.read_number(payload) < STREAM:
            said = payload[8:].decode(errors="replace")
            name = frames.code_name(payload, 4)
            self.fail(f"UNAVAILABLE: the service refused the stream: {name} {said}".rstrip())

    def _read_headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if stream != STREAM or (kind == frames.CONTINUATION) != bool(self._block_flags):
            raise NotHttp2(f"headers of stream {stream}, which nobody opened")
        if kind == frames.HEADERS:
            payload = frames.unpadded(flags, payload)
            self._block_flags = flags | frames.PADDED  # never 0 while the block is not whole
        self._block += payload
        if len(self._block) > MAX_HEADER_BLOCK:
            raise NotHttp2("a header block without end")
        if flags & frames.END_HEADERS:
            headers = self._decoder.decode(bytes(self._block))
            is_last = bool(self._block_flags & frames.END_STREAM)
            self._block_flags = 0
            self._block.clear()
            self._hear_headers({str(name): str(value) for name, value in headers}, is_last)

    def _hear_headers(self, headers: dict[str, str], is_last: bool) -> None:
        if is_last:
            self.fail(_status(headers))
        elif self.opened.done():
            raise NotHttp2("headers amid the answers")
        elif headers.get(":status", "")[:1] != "1":  # those that are only for information
            if not _is_grpc(headers):
                self.fail(_status(headers))
                return
            self.opened.set_result(None)

    def _send_held(self) -> None:
        """Send as much of the message that waits as there is room for."""
        while self._held and not (self._is_paused or self.is_over):
            room = min(self._max_payload, self._stream_window, self._connection_window)
            if room <= 0:
                return
            part, self._held = self._held[:room], self._held[room:]
            self._write_data(part)

    def _write_data(self, part: bytes | memoryview) -> None:
        size = len(part)
        self._stream_window -= size
        self._connection_window -= size
        self._transport.write(frames.frame(frames.DATA, 0, STREAM, part))

    def _tell_of_room(self) -> None:
        if self.has_room:
            self._has_room_again()

    def _write(self, frame: bytes) -> None:
        """Write what is no message; those are bounded by the service's windows."""
        if self._transport.get_write_buffer_size() > MAX_UNWRITTEN:
            raise NotHttp2("the service asks and does not read")
        self._transport.write(frame)

    def _look_for_life(self) -> None:
        """Ping a service that has said nothing for a while; it may be gone without a word."""
        if self._has_heard:
            self._has_heard = False
            self._look = self._loop.call_later(PING_AFTER_S, self._look_for_life)
            return
        self._transport.write(frames.frame(frames.PING, 0, 0, b"canary??"))
        self._look = self._loop.call_later(PING_WITHIN_S, self._give_up)

    def _give_up(self) -> None:
        if self._has_heard:
            self._look_for_life()
        else:
            self.fail("UNAVAILABLE: the service answers no ping")

    def _end(self, why: StreamBroken) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._held = memoryview(b"")
        if self._look is not None:
            self._look.cancel()
        for future in (self.opened, self.ended):
            if not future.done():
                future.set_exception(why)
                future.exception()  # whoever waits no more needs no warning


async def connected(
    address: Address,
    method: str,
    hear: Callable[[bytes], None],
    has_room_again: Callable[[], None],
    *,
    within_s: float,
    last: Endpoint | None = None,
    credentials: Credentials | None = None,
) -> tuple[Http2Stream, int]:
    """A stream that the service has answered, and how many endpoints the address has.

    Each is tried, ``last`` last. Without credentials, none are shown. Raises OSError
    (StreamBroken is one) if none answers in time.
    """
    try:
        async with asyncio.timeout(within_s):
            endpoints = await address.endpoints(last)
            trouble: OSError = StreamBroken(f"UNAVAILABLE: {address.text} stands for nothing")
            for endpoint in endpoints:
                try:
                    async with asyncio.timeout(within_s / len(endpoints)):
                        stream = await _opened(
                            address, endpoint, method, hear, has_room_again, credentials
                        )
                    return stream, len(endpoints)
                except OSError as error:  # TimeoutError is one
                    trouble = error
            raise trouble
    except TimeoutError as error:
        why = f"UNAVAILABLE: nothing answers at {address.text} within {within_s:g} s"
        raise StreamBroken(why) from error


async def _opened(
    address: Address,
    endpoint: Endpoint,
    method: str,
    hear: Callable[[bytes], None],
    has_room_again: Callable[[], None],
    credentials: Credentials | None,
) -> Http2Stream:
    loop = asyncio.get_running_loop()
    authorization = credentials.authorization() if credentials else ""
    tls: dict[str, Any] = {}
    if credentials and (context := credentials.ssl_context()):
        tls = {"ssl": context, "server_hostname": address.host or "localhost"}

    def make() -> Http2Stream:
        return Http2Stream(address, endpoint, method, hear, has_room_again, authorization)

    if isinstance(endpoint, str):
        _, stream = await loop.create_unix_connection(make, endpoint, **tls)
    else:
        _, stream = await loop.create_connection(make, *endpoint, **tls)
    try:
        await stream.opened
    except BaseException:
        stream.close()
        raise
    return stream


def _is_grpc(headers: dict[str, str]) -> bool:
    is_found = headers.get(":status") == "200"
    return is_found and headers.get("content-type", "").startswith("application/grpc")


def _status(headers: dict[str, str]) -> str:
    """What the headers that end a stream say: gRPC's status and its text."""
    code = headers.get("grpc-status", "")
    if not code:
        found, kind = headers.get(":status", "none"), headers.get("content-type", "")
        return f"UNAVAILABLE: the answer is not gRPC's: HTTP status {found}, {kind}".rstrip(", ")
    number = int(code) if code.isascii() and code.isdigit() else -1
    name = _STATUS.get(number, f"status {code}")
    said = unquote(headers.get("grpc-message", ""))
    if number == 0:
        return "the service ended the stream"
    return f"{name}: {said}" if said else name
