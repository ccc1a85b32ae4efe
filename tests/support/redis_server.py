"""A real Redis server for tests: on a unix socket, in a directory of its own, ended by its pid."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_START_S = 60.0
_STOP_S = 60.0
_POLL_S = 0.005
_LOWEST_PORT, _MOST_KEPT = 10_240, 256
_KEPT: deque[int] = deque()
"""Descriptors of what keeps ports for this process, the oldest first."""


class RedisServer:
    """Starts, stops, kills, freezes and restarts a redis-server.

    It listens on ``socket_path`` and, with ``port`` (see ``free_port``), on that port of the
    loopback interface too. Data survives a restart if ``appendonly`` is set. ``options`` are
    further command-line options of redis-server.
    """

    def __init__(
        self, *, port: int = 0, appendonly: bool = False, options: Sequence[str] = ()
    ) -> None:
        # The path of a unix socket holds 107 bytes, which a test's own directory exceeds.
        self.directory = Path(tempfile.mkdtemp(prefix="redis"))
        self.socket_path = self.directory / "s"
        self.port = port
        self.options = (*_persistence(appendonly), *options)
        """Heeded at the next start."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For clients on the unix socket."""
        return f"unix://{self.socket_path}"

    @property
    def tcp_url(self) -> str:
        """For clients on the port."""
        assert self.port, "this server was made without a port"
        return f"redis://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the server said."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start and wait until it answers PING."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--unixsocket", str(self.socket_path), "--dir", str(self.directory)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log)
        wait_until(self._is_up, _START_S)

    def stop(self) -> None:
        """End it in good order; no effect if it is down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a chance to tidy up; no effect if it is down."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it if it runs, then start it in the same place."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let it neither answer nor go away, like a network that swallows packets."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        self._running().send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Kill it and delete its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server is not running"
        return self._process

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(_STOP_S)
        self._process = None

    def _is_up(self) -> bool:
        assert self._running().poll() is None, f"redis-server ended:\n{self.log}"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_START_S)
            try:
                client.connect(str(self.socket_path))
                client.sendall(b"PING\r\n")
                answer = client.recv(64)
            except OSError:
                return False
        # Only a server that wants a password or still loads its data answers an error.
        return answer.startswith((b"+PONG", b"-NOAUTH"))


@contextmanager
def running_redis(
    *, port: int = 0, appendonly: bool = False, options: Sequence[str] = ()
) -> Iterator[RedisServer]:
    """A server that runs, and is gone with its directory afterwards."""
    server = RedisServer(port=port, appendonly=appendonly, options=options)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def free_port() -> int:
    """A loopback port that nobody listens on, nor will before whoever is told of it does.

    It lies below those that the kernel gives away, and whoever else asks here, in whichever
    process, is told of another one.
    """
    while True:
        port = random.randrange(_LOWEST_PORT, _lowest_given_away())
        if _is_kept(port):
            return port


def _lowest_given_away() -> int:
    given_away = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii")
    return max(int(given_away.split()[0]), 2 * _LOWEST_PORT)


def _is_kept(port: int) -> bool:
    """Whether the port was free and is now kept: a datagram socket of its number says so."""
    with socket.socket(type=socket.SOCK_DGRAM) as sign, socket.socket() as probe:
        try:
            sign.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        _KEPT.append(sign.detach())
    if len(_KEPT) > _MOST_KEPT:
        os.close(_KEPT.popleft())
    return True


def _persistence(appendonly: bool) -> Sequence[str]:
    if appendonly:
        return ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
    return ("--save", "", "--appendonly", "no")


def wait_until(is_so: Callable[[], bool], limit_s: float) -> None:
    """Look until it is so; an AssertionError after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {limit_s:g} s"
        time.sleep(_POLL_S)
