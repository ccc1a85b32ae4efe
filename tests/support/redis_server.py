"""A real Redis server for tests: on a unix socket, in a directory of its own, ended by its pid."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom

_START_S = 60.0
_STOP_S = 60.0
_POLL_S = 0.005
_LOWEST_PORT = 10_000
# Not what a seeded test draws: two workers must not draw the same.
_PORTS = SystemRandom()


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
    """A loopback port that nobody listens on.

    It is none of those that the kernel gives away: until the caller's server has it, or while that
    is down, whoever binds or connects would be given it.
    """
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = _PORTS.randrange(_LOWEST_PORT, _ports_given_away())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _ports_given_away() -> int:
    """The first of them."""
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


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
