"""nginx's side of the outcomes socket: access log lines as datagrams."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.waiting import WITHIN_S


class Nginx:
    """Writes to the socket as nginx does, but waits while it is full."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(path)

    async def log(self, decision: str, status: int = 200, seconds: str = "0.010") -> None:
        line = f'<190>Nov 23 21:36:22 canary: {status} {seconds} "{seconds}" "{decision}"'
        await self.send(line.encode())

    async def send(self, datagram: bytes) -> None:
        async with asyncio.timeout(WITHIN_S):
            while True:
                with contextlib.suppress(BlockingIOError):
                    self._socket.send(datagram)
                    return
                await asyncio.sleep(0)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def nginx(path: Path | str) -> Iterator[Nginx]:
    made = Nginx(str(path))
    try:
        yield made
    finally:
        made.close()
