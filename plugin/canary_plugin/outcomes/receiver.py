"""nginx's access log by syslog: a unix datagram socket, drained whenever there is something.

How many lines may wait is the kernel's net.unix.max_dgram_qlen at the time the socket is made, 10
on many systems; SO_RCVBUF changes nothing for these sockets. What comes while it is full is lost,
and counted by the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("canary_plugin")

MAX_LINE = 65_536
# Requests that wait for a decision get their turn between two such rounds.
MAX_ROUND = 512
ENOUGH_WAITING = 256
_QUEUE_LENGTH = Path("/proc/sys/net/unix/max_dgram_qlen")

Hear = Callable[[bytes], None]


class Receiver:
    """Hears datagrams while it is open."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self._socket: socket.socket | None = None

    @contextmanager
    def open(self, path: str, mode: int) -> Iterator[None]:
        """Receive at ``path``, in place of whatever socket is there; at the end hear what waits."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.setblocking(False)
            mine = _bind(receiver, Path(path), mode)
            self._socket = receiver
            loop.add_reader(receiver, self.drain)
            try:
                yield
            finally:
                loop.remove_reader(receiver)
                with contextlib.suppress(FileNotFoundError):
                    if Path(path).stat().st_ino == mine:
                        Path(path).unlink()
                while self.drain():
                    pass
                self._socket = None

    def drain(self) -> bool:
        """Hear what waits, up to a round; whether there may be more."""
        if self._socket is None:
            return False
        receive, hear = self._socket.recv, self._hear
        for _ in range(MAX_ROUND):
            try:
                datagram = receive(MAX_LINE)
            except (BlockingIOError, InterruptedError):
                return False
            hear(datagram)
        return True


def _bind(receiver: socket.socket, target: Path, mode: int) -> int:
    """Bind without a moment in which there is no socket; its inode."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    receiver.bind(str(fresh))
    fresh.chmod(mode)
    inode = fresh.stat().st_ino
    fresh.rename(target)
    return inode


def warn_of_short_queue() -> None:
    """Say so if the kernel lets few lines wait."""
    with contextlib.suppress(OSError, ValueError):
        length = int(_QUEUE_LENGTH.read_text())
        if length < ENOUGH_WAITING:
            log.warning(
                "net.unix.max_dgram_qlen is %d: a busy gateway's outcomes will be lost (and"
                " counted as that); set it to 4096 before this server starts",
                length,
            )
