"""HTTP as it is on the wire: requests byte for byte, replies with every header line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from support.waiting import WITHIN_S


@dataclass(frozen=True)
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known.lower() == name.lower()]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    def json(self) -> Any:
        return json.loads(self.body)

    def echoed(self, name: str) -> list[str]:
        """The values of a header as the echoing upstream got them."""
        pairs = cast(list[list[str]], self.json()["headers"])
        return [value for known, value in pairs if known.lower() == name.lower()]


async def fetch(
    port: int,
    target: str = "/",
    *,
    method: str = "GET",
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    host: str = "gateway.test",
) -> Reply:
    """One request on a connection of its own, bytes as given (latin-1)."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return await send(port, "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)


async def send(port: int, data: bytes) -> Reply:
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            return await read_reply(reader, is_head=data.startswith(b"HEAD "))
        finally:
            writer.close()
            await writer.wait_closed()


async def read_reply(reader: asyncio.StreamReader, *, is_head: bool = False) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in head[1:-2])]
    given = {name.lower(): value for name, value in headers}
    if is_head or status in (204, 304):
        body = b""
    elif "content-length" in given:
        body = await reader.readexactly(int(given["content-length"]))
    elif given.get("transfer-encoding") == "chunked":
        body = b"".join([chunk async for chunk in read_chunks(reader)])
    else:
        body = await reader.read()
    return Reply(status, headers, body)


async def read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
