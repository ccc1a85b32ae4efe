"""A connection for one GET after the other: what is asked is asked once, whatever befalls it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from http.client import HTTPException
from types import TracebackType
from typing import Self

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_LAST = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


class Connection:
    """Connects when it is asked, and anew after it was lost or ended; if not kept, each time."""

    def __init__(self, address: str, *, is_kept: bool = True) -> None:
        self._address, self._is_kept = address, is_kept
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    async def get(self, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises OSError or EOFError if the connection is lost before all of the answer is there, and
        HTTPException for an answer whose end cannot be told.
        """
        try:
            reader, writer = await self._opened()
            lines = [f"GET {path} HTTP/1.1", f"Host: {self._address}"]
            lines += [] if self._is_kept else ["Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if length is None:
                raise HTTPException(f"an answer without its length: {head!r}")
            body = await reader.readexactly(int(length[1]))
        except BaseException:
            self._close()
            raise
        if not self._is_kept or _LAST.search(head):
            self._close()
        return int(head.split(maxsplit=2)[1]), body

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            host, _, port = self._address.rpartition(":")
            self._streams = await asyncio.open_connection(host, int(port))
        return self._streams

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
