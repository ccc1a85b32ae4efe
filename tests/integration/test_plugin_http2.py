"""The plugin's own gRPC stream against a real gRPC server, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from canary_plugin.deciders import frames, http2
from canary_plugin.deciders.addresses import address
from canary_plugin.deciders.http2 import Http2Stream, StreamBroken
from hpack import Encoder
from support.raw_grpc import METHOD, serving
from support.waiting import WITHIN_S, until

MEGABYTE = 1 << 20


class Open:
    """A stream, what it heard, and how often it had room again."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.rooms = 0
        self.stream: Http2Stream

    async def to(self, where: str, method: str = METHOD, within_s: float = WITHIN_S) -> Open:
        self.stream, _ = await http2.connected(
            address(where), method, self.heard.append, self._room, within_s=within_s
        )
        return self

    def _room(self) -> None:
        self.rooms += 1

    async def answers(self, count: int) -> list[bytes]:
        await until(lambda: len(self.heard) >= count)
        return self.heard

    async def end(self) -> str:
        """Why the stream is over."""
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(StreamBroken) as caught:
                await self.stream.ended
        assert self.stream.is_over
        assert not self.stream.has_room
        return str(caught.value)


@asynccontextmanager
async def talking(where: str) -> AsyncIterator[Open]:
    opened = await Open().to(where)
    try:
        yield opened
    finally:
        opened.stream.close()


async def refusal(where: str, **more: Any) -> str:
    """Why no stream can be opened there."""
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(OSError, match=r".") as caught:
            await Open().to(where, **more)
    return str(caught.value)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0", "unix"])
async def test_messages_come_back_over_every_kind_of_address(listen: str, tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/s" if listen == "unix" else listen
    async with serving(listen=listen) as (_, where), talking(where) as opened:
        sent = [b"", b"a", b"b" * 70_000, bytes(range(256))]
        for message in sent:
            await until(lambda: opened.stream.has_room)
            opened.stream.send(message)
        assert await opened.answers(4) == sent


async def test_an_unknown_method_is_refused_by_its_status_without_a_body() -> None:
    async with serving() as (_, where):
        assert (await refusal(where, method="/test.Echo/Else")).startswith("UNIMPLEMENTED: ")


async def test_a_refusal_before_and_after_the_first_answer_says_status_and_text() -> None:
    async def refuse(messages: AsyncIterator[bytes], context: Any) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "nö, 100 % nö")

    async def refuse_later(messages: AsyncIterator[bytes], context: Any) -> None:
        async for message in messages:
            await context.write(message)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")

    async with serving(refuse) as (_, where):
        assert await refusal(where) == "PERMISSION_DENIED: nö, 100 % nö"
    async with serving(refuse_later) as (_, where):
        stream = asyncio.create_task(_first_answer_and_end(where))
        assert await stream == ([], "RESOURCE_EXHAUSTED: enough")


async def _first_answer_and_end(where: str) -> tuple[list[bytes], str]:
    """For servers that open with their first answer: what else was heard, and the end."""
    opened = Open()
    loop = asyncio.get_running_loop()
    host, _, port = where.rpartition(":")
    first: list[bytes] = []
    _, stream = await loop.create_connection(
        lambda: Http2Stream(address(where), (host, int(port)), METHOD, first.append, opened._room),
        host,
        int(port),
    )
    opened.stream = stream
    stream.send(b"hello")
    why = await opened.end()
    assert first == [b"hello"]
    return opened.heard, why


async def test_a_service_that_ends_the_stream_in_peace_is_told_apart() -> None:
    async def bye(messages: AsyncIterator[bytes], context: Any) -> None:
        await context.send_initial_metadata(())
        async for _ in messages:
            return

    async with serving(bye) as (_, where), talking(where) as opened:
        opened.stream.send(b"one")
        assert await opened.end() == "the service ended the stream"


async def test_a_server_that_stops_ends_the_stream_and_another_can_be_opened() -> None:
    async with serving() as (server, where), talking(where) as opened:
        opened.stream.send(b"one")
        assert await opened.answers(1) == [b"one"]
        await server.stop(0)
        assert await opened.end()
        assert "[Errno 111]" in await refusal(where)
        async with serving(listen=where) as (_, again), talking(again) as other:
            other.stream.send(b"two")
            assert await other.answers(1) == [b"two"]


async def test_a_server_that_drains_still_answers_until_it_is_done() -> None:
    async with serving() as (server, where), talking(where) as opened:
        opened.stream.send(b"one")
        await opened.answers(1)
        stopping = asyncio.create_task(server.stop(WITHIN_S))
        await asyncio.sleep(0.1)  # its GOAWAY has come by now; nothing here shows that it has
        opened.stream.send(b"two")
        assert await opened.answers(2) == [b"one", b"two"]
        await server.stop(None)  # it is done, and waits no longer
        assert await opened.end()
        await stopping


async def test_a_message_beyond_all_windows_comes_whole() -> None:
    message = bytes(range(256)) * (12 * MEGABYTE // 256)
    async with (
        serving(max_receive_message_length=-1, max_send_message_length=-1) as (_, where),
        talking(where) as opened,
    ):
        opened.stream.send(message)
        assert await opened.answers(1) == [message]
        opened.stream.send(b"after")
        assert await opened.answers(2) == [message, b"after"]


async def test_a_message_that_the_service_finds_too_large_ends_the_stream() -> None:
    async with serving(max_receive_message_length=1_000) as (_, where), talking(where) as opened:
        opened.stream.send(bytes(2_000))
        assert (await opened.end()).startswith("RESOURCE_EXHAUSTED: ")


async def test_a_slow_reader_holds_up_one_message_and_says_when_there_is_room() -> None:
    gate = asyncio.Event()

    async def slow(messages: AsyncIterator[bytes], context: Any) -> None:
        await context.send_initial_metadata(())
        await gate.wait()
        async for message in messages:
            await context.write(len(message).to_bytes(8))

    async with (
        serving(slow, max_receive_message_length=-1) as (_, where),
        talking(where) as opened,
    ):
        sent = 0
        async with asyncio.timeout(WITHIN_S):
            while opened.stream.has_room:
                opened.stream.send(bytes(MEGABYTE))
                sent += 1
                await asyncio.sleep(0.01)
        assert sent < 64, "the service's window is the limit"
        assert opened.rooms == 0 or not opened.stream.has_room
        gate.set()
        await until(lambda: opened.rooms > 0 and opened.stream.has_room)
        assert await opened.answers(sent) == [MEGABYTE.to_bytes(8)] * sent


async def test_a_name_of_which_one_address_is_dead_leads_to_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as (_, where):
        port = int(where.rpartition(":")[2])
        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo

        async def two(host: str, *args: Any, **kw: Any) -> Any:
            if host != "decision":
                return await real(host, *args, **kw)
            # 127.0.0.2 is this machine too, and nothing listens there.
            return [(2, 1, 6, "", (ip, port)) for ip in ("127.0.0.1", "127.0.0.2")]

        monkeypatch.setattr(loop, "getaddrinfo", two)
        for last in (("127.0.0.1", port), ("127.0.0.2", port)):
            stream, endpoints = await http2.connected(
                address(f"decision:{port}"), METHOD, print, print, within_s=WITHIN_S, last=last
            )
            assert (stream.endpoint, endpoints) == (("127.0.0.1", port), 2)
            stream.close()


async def test_a_name_that_nobody_knows_is_an_error() -> None:
    assert await refusal("no-such-host.invalid:50051")


async def test_a_stopped_service_is_noticed_by_its_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http2, "PING_AFTER_S", 0.1)
    monkeypatch.setattr(http2, "PING_WITHIN_S", 2.0)  # so late a busy machine may be
    ping_pong = Path(__file__).parents[2] / "benchmarks" / "baselines" / "ping_pong.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ping_pong), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        where = (await process.stdout.readline()).split()[1].decode()
        opened = await _opened_by_a_question(where)
        await asyncio.sleep(1)  # several pings, all answered
        assert not opened.stream.is_over
        process.send_signal(signal.SIGSTOP)
        assert await opened.end() == "UNAVAILABLE: the service answers no ping"
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        await process.wait()


async def _opened_by_a_question(where: str) -> Open:
    """A stream to a server that answers the opening only with its first answer."""
    opened = Open()
    host, _, port = where.rpartition(":")
    _, opened.stream = await asyncio.get_running_loop().create_connection(
        lambda: Http2Stream(
            address(where), host, "/bench.PingPong/Stream", opened.heard.append, opened._room
        ),
        host,
        int(port),
    )
    opened.stream.send(b"")
    await opened.answers(1)
    return opened


# A server that says whatever a test wants.

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def saying(*parts: bytes, is_final: bool = False) -> AsyncIterator[tuple[str, bytearray]]:
    """A server that says the parts one after the other to whoever comes, and what it heard."""
    heard = bytearray()
    talks: list[asyncio.Task[None]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.extend(await reader.read(1 << 16))
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
            while not is_final and (data := await reader.read(1 << 16)):
                heard.extend(data)
        except ConnectionError:
            pass  # the client hung up, as it should
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.create_task(talk(reader, writer)))

    server = await asyncio.start_server(come, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
    finally:
        server.close()
        if talks:
            await asyncio.wait(talks, timeout=WITHIN_S)


def sent(heard: bytearray) -> list[frames.Frame]:
    """The frames that a server heard."""
    return list(frames.Reader().frames(bytes(heard).removeprefix(frames.PREFACE)))


SETTINGS = frames.settings({})


def headers(*more: tuple[str, str], flags: int = frames.END_HEADERS, of: int = 1) -> bytes:
    return frames.frame(frames.HEADERS, flags, of, block(*more))


def block(*more: tuple[str, str]) -> bytes:
    usual = ((":status", "200"), ("content-type", "application/grpc"))
    return bytes(Encoder().encode(more or usual))


def data(message: bytes, flags: int = 0, of: int = 1) -> bytes:
    return frames.frame(frames.DATA, flags, of, message)


OPEN = SETTINGS + headers()
ONE = b"\0\0\0\0\x03one"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no HTTP/2"),
        (bytes(200), "no HTTP/2"),
        (b"\xff" * 200, "no HTTP/2"),
        (headers(), "no HTTP/2"),
        (SETTINGS + data(ONE), "not open"),
        (SETTINGS + headers(of=3), "nobody opened"),
        (SETTINGS + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff"), "HPACK"),
        (SETTINGS + frames.frame(frames.CONTINUATION, 0, 1, b""), "nobody opened"),
        (SETTINGS + headers(flags=0) + SETTINGS, "interrupted"),
        (SETTINGS + frames.frame(frames.HEADERS, 0, 1)
         + frames.frame(frames.CONTINUATION, 0, 1, bytes(16_000)) * 5, "without end"),
        (SETTINGS + frames.frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), "push"),
        (SETTINGS + frames.window_update(1, 0), "grows by 0"),
        (SETTINGS + frames.window_update(0, frames.MAX_WINDOW), "grows by"),
        (SETTINGS + frames.frame(frames.WINDOW_UPDATE, 0, 0, b""), "too short"),
        (SETTINGS + frames.frame(frames.SETTINGS, 0, 0, b"abc"), "wrong size"),
        (SETTINGS + frames.frame(frames.RST_STREAM, 0, 1, (7).to_bytes(4)), "REFUSED_STREAM"),
        (SETTINGS + frames.frame(frames.GOAWAY, 0, 0, bytes(4) + (11).to_bytes(4) + b"too many"),
         "ENHANCE_YOUR_CALM too many"),
        (SETTINGS + headers((":status", "503"), ("content-type", "text/html")), "HTTP status 503"),
        (SETTINGS + headers((":status", "404"), flags=5), "HTTP status 404"),
        (SETTINGS + headers((":status", "200"), ("grpc-status", "14"), ("grpc-message", "no%2C"),
                            flags=5), "UNAVAILABLE: no,"),
        (SETTINGS + headers((":status", "200"), ("grpc-status", "99"), flags=5), "status 99"),
        (SETTINGS + headers((":status", "200"), ("grpc-status", "²"), flags=5), "status ²"),
    ],
)  # fmt: skip
async def test_whatever_a_server_says_instead_of_an_opening_is_an_error_that_says_so(
    said: bytes, why: str
) -> None:
    async with saying(said) as (where, _):
        assert why in await refusal(where)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400 Bad Request", "no HTTP/2"),
        (data(b"\x01" + ONE[1:]), "compressed"),
        (data(b"\0\xff\xff\xff\xff"), "are the most"),
        (data(ONE, of=3), "stream 3"),
        (data(b"\x09", flags=frames.PADDED), "padding"),
        (headers(), "amid the answers"),
        (data(ONE, flags=frames.END_STREAM), "without a status"),
        (headers(("grpc-status", "0"), flags=5), "the service ended the stream"),
        (headers(("grpc-status", "13"), flags=5), "INTERNAL"),
        (frames.frame(frames.RST_STREAM, 0, 1, (8).to_bytes(4)), "CANCEL"),
    ],
)
async def test_whatever_a_server_says_in_a_stream_ends_it_or_is_a_message(
    said: bytes, why: str
) -> None:
    async with saying(OPEN, said) as (where, _), talking(where) as opened:
        assert why in await opened.end()


async def test_what_http2_allows_and_grpc_servers_rarely_do_is_understood() -> None:
    half = len(block()) // 2
    whole = [
        SETTINGS,
        headers((":status", "103"), ("link", "</a>")),
        frames.frame(
            frames.HEADERS,
            frames.PADDED | frames.HAS_PRIORITY,
            1,
            b"\x02" + bytes(5) + block()[:half] + b"\0\0",
        ),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block()[half:]),
        frames.frame(frames.PRIORITY, 0, 1, bytes(5)),
        frames.frame(0xFA, 0xFF, 7, b"an extension"),
        frames.frame(frames.PING, 0, 0, b"12345678"),
        frames.frame(frames.GOAWAY, 0, 0, frames.MAX_WINDOW.to_bytes(4) + bytes(4)),
        data(b"\x03" + ONE[:4] + bytes(3), flags=frames.PADDED),
        data(b""),
        data(ONE[4:] + ONE + ONE[:6]),
        data(ONE[6:]),
    ]
    async with saying(*whole) as (where, heard), talking(where) as opened:
        assert await opened.answers(3) == [b"one"] * 3
        await until(lambda: frames.frame(frames.PING, frames.ACK, 0, b"12345678") in heard)
        assert frames.frame(frames.SETTINGS, frames.ACK, 0) in heard


async def test_a_server_that_hangs_up_is_an_error() -> None:
    async with saying(OPEN, is_final=True) as (where, _), talking(where) as opened:
        assert await opened.end() == "UNAVAILABLE: the service closed the connection"


async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async with saying() as (where, _):
        why = await refusal(where, within_s=0.1)
        assert why == f"UNAVAILABLE: nothing answers at {where} within 0.1 s"


async def test_the_service_may_send_more_than_a_window_for_it_is_told_that_it_was_read() -> None:
    big = b"\0" + (http2.WINDOW).to_bytes(4) + bytes(http2.WINDOW)
    parts = [big[at : at + 16_000] for at in range(0, len(big), 16_000)]
    async with (
        saying(OPEN, b"".join(map(data, parts))) as (where, heard),
        talking(where) as opened,
    ):
        assert len((await opened.answers(1))[0]) == http2.WINDOW

        def read(stream: int) -> int:
            return sum(
                frames.read_number(payload)
                for kind, _, of, payload in sent(heard)
                if (kind, of) == (frames.WINDOW_UPDATE, stream)
            )

        await until(lambda: min(read(0), read(1)) >= http2.WINDOW // 2)


async def test_the_service_may_make_frames_and_windows_small() -> None:
    small = {frames.Setting.INITIAL_WINDOW_SIZE: 10}
    more = [frames.window_update(1, 3)] * 4
    async with saying(frames.settings(small), headers(), *more) as (where, heard):

        def parts() -> list[bytes]:
            return [payload for kind, _, _, payload in sent(heard) if kind == frames.DATA]

        async with talking(where) as opened:
            opened.stream.send(b"0123456789abcdef")
            assert not opened.stream.has_room
            await until(lambda: opened.rooms == 1)
            await until(lambda: b"".join(parts()) == b"\0\0\0\0\x100123456789abcdef")
        assert max(map(len, parts())) <= 10


async def test_a_hearer_that_fails_ends_the_stream_and_says_why() -> None:
    def fail(_: bytes) -> None:
        raise ValueError("cannot read this")

    async with serving() as (_, where):
        opened = Open()
        opened.stream, _ = await http2.connected(
            address(where), METHOD, fail, opened._room, within_s=WITHIN_S
        )
        opened.stream.send(b"one")
        assert await opened.end() == "INTERNAL: ValueError: cannot read this"


async def test_a_closed_stream_is_gone_and_the_service_hears_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http2, "CLOSING_S", 0.01)
    gone = asyncio.Event()

    async def noticing(messages: AsyncIterator[bytes], context: Any) -> None:
        await context.send_initial_metadata(())
        try:
            async for _ in messages:
                pass
        finally:
            gone.set()

    async with serving(noticing) as (_, where):
        opened = await Open().to(where)
        opened.stream.close()
        opened.stream.close()
        assert opened.stream.is_over
        async with asyncio.timeout(WITHIN_S):
            await gone.wait()
        left = weakref.ref(opened.stream)
        del opened
        await until(lambda: gc.collect() is not None and left() is None)
