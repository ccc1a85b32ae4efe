"""A real Prometheus server for tests: it scrapes what it is told, and is ended by its pid."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from support.redis_server import free_port

_START_S = 90.0
_STOP_S = 60.0
_POLL_S = 0.02
_CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: target
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class PrometheusServer:
    """Starts, stops, freezes and restarts a prometheus that scrapes a port of this machine.

    With ``config``, it does what that says instead.
    """

    def __init__(self, target_port: int = 0, *, config: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="prometheus"))
        (self.directory / "config.yml").write_text(config or _CONFIG.format(port=target_port))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the server said."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start and wait until it is ready."""
        command = ["prometheus", f"--config.file={self.directory}/config.yml"]
        command += [f"--storage.tsdb.path={self.directory}/data"]
        command += [f"--web.listen-address=127.0.0.1:{self.port}"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        _wait_until(self._is_ready, _START_S)

    def stop(self) -> None:
        """Kill it; no effect if it is down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_S)
            self._process = None

    def freeze(self) -> None:
        """Let it neither answer nor go away; every thread stands still when this returns."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{process.pid}/task")
        _wait_until(lambda: all(map(_is_stopped, threads.iterdir())), _STOP_S)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        self._running().send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Stop it and delete its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server is not running"
        return self._process

    def _is_ready(self) -> bool:
        assert self._running().poll() is None, f"prometheus ended:\n{self.log}"
        try:
            with urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False


@contextmanager
def running_prometheus(target_port: int = 0, *, config: str = "") -> Iterator[PrometheusServer]:
    """A server that runs, and is gone with its directory afterwards."""
    server = PrometheusServer(target_port, config=config)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _is_stopped(thread: Path) -> bool:
    # The state stands after the name, which is in brackets and may hold anything.
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _wait_until(is_so: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {limit_s:g} s"
        time.sleep(_POLL_S)
