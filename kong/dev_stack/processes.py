"""One child process: started, waited for until it says it is ready, ended by its pid."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

READY_WITHIN_S = 90.0
STOPPED_WITHIN_S = 30.0
_LOOK_EVERY_S = 0.01


class NotReady(RuntimeError):  # noqa: N818 - it says what is the matter
    """A process ended or stayed silent instead of getting ready; the message has its last words."""


def wait_until(is_true: Callable[[], bool], within_s: float, what: str) -> None:
    """Wait until a condition holds. Raises TimeoutError naming ``what``."""
    ends = time.monotonic() + within_s
    while not is_true():
        if time.monotonic() > ends:
            raise TimeoutError(f"{what}: not within {within_s} s")
        time.sleep(_LOOK_EVERY_S)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else runs in a folder meanwhile, or it is refused. Raises NotReady."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NotReady(
                f"there is one running in {folder} already: stop it first, "
                "or give this one a folder and ports of its own (--help names the options)"
            ) from error
        yield


class Process:
    """A command whose output goes to a file, in which ``ready_word`` says that it serves."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        ready_word: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.command, self.log = name, list(command), log
        self._ready_word = ready_word
        self._environment = dict(environment or {})
        self._child: subprocess.Popen[bytes] | None = None
        self._starts_at = 0

    @property
    def pid(self) -> int:
        """Pid of the running process. Raises RuntimeError if there is none."""
        if self._child is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._child.pid

    def is_running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> str:
        """Start it and wait until it is ready; the line of its output that says so."""
        self.spawn()
        return self.await_ready()

    def spawn(self) -> None:
        """Start it without waiting."""
        self._starts_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            # A session of its own: Ctrl-C is for the stack to handle, in order.
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )

    def await_ready(self) -> str:
        """Wait until it is ready. Raises NotReady."""
        found = ""

        def is_ready() -> bool:
            nonlocal found
            *lines, _ = self.output().split("\n")  # what has no end yet is being written
            found = next((line for line in lines if self._ready_word in line), "")
            return bool(found) or not self.is_running()

        try:
            wait_until(is_ready, READY_WITHIN_S, self.name)
        except TimeoutError:
            found = ""
        if not found:
            tail = "\n".join(self.output().splitlines()[-15:])
            self.kill()
            raise NotReady(f"{self.name} did not get ready; its last words ({self.log}):\n{tail}")
        return found

    def output(self) -> str:
        """What it has written since it was started."""
        with self.log.open("rb") as log:
            log.seek(self._starts_at)
            return log.read().decode(errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def stop(self) -> int:
        """Ask it to end, wait, and insist if it does not; its exit code, 0 if it was not there."""
        if self._child is None:
            return 0
        if self.is_running():
            self.signal(signal.SIGTERM)
        try:
            return self._child.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it at once; its exit code."""
        if self._child is None:
            return 0
        if self.is_running():
            self.signal(signal.SIGKILL)
        return self._child.wait()
