"""Holds Kong's socket, so that a worker that dies or is replaced never makes a connect fail.

The socket belongs to this process; workers accept on copies of it. A worker that dies is replaced
at once, as is one that lives and does nothing, and what connects meanwhile waits in the socket's
queue. On SIGHUP the next worker takes over Kong's connections from the one before it (see
``runtime.handover``). Standard library only: what must not fail should do little.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from canary_plugin.child import Worker
from canary_plugin.listener import bind, inherited, inode, is_inherited, notify

LOOK_EVERY_S = 1.0
# Deaths before readiness that cost no pause; then it doubles from the first to the second figure.
FREE_DEATHS, FIRST_PAUSE_S, LONGEST_PAUSE_S = 3, 0.1, 5.0
OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def say(text: str) -> None:
    """A line of log; whoever read it may be gone."""
    with contextlib.suppress(OSError):
        now = time.time()
        when = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{now % 1 * 1000:03.0f}"
        os.write(2, f"{when} supervisor {os.getpid()}: {text}\n".encode())


def pause_s(early_deaths: int) -> float:
    """How long to wait before the next worker, after so many that died before they were ready."""
    doublings = early_deaths - FREE_DEATHS
    if doublings < 0:
        return 0.0
    return min(FIRST_PAUSE_S * 2.0 ** min(doublings, 10), LONGEST_PAUSE_S)


class Supervisor:
    """Keeps one worker running until SIGTERM; ``command`` starts one.

    A socket that systemd hands over is taken instead of ``path``.
    """

    def __init__(
        self,
        command: Sequence[str],
        path: str,
        mode: int,
        *,
        drain_s: float,
        exit_with_parent: bool = False,
    ) -> None:
        self._path, self._mode = path, mode
        self._kill_after_s = drain_s + 5.0
        self._parent = os.getppid() if exit_with_parent and os.getpid() != 1 else 1
        self._is_ours = not is_inherited(os.environ)
        if self._is_ours:
            self._listener = bind(path, mode)
        else:
            self._listener, self._path = inherited()
        self._command = [*command, "--socket", self._path]
        self._inode = inode(self._path)
        self._memory = os.memfd_create("instances")
        self._workers: list[Worker] = []  # the last one is or will be the one that serves
        self._starts_at = 0.0
        self._early_deaths = self._starts = 0
        self._kill_at: float | None = None  # not None: ending
        self._is_upgrade_due = False
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Supervise until told to end; the exit code."""
        wake, woken = socket.socketpair()
        woken.setblocking(False)
        signal.set_wakeup_fd(woken.fileno())
        wake.setblocking(False)
        for number in OURS:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)  # Kong's nginx may have blocked them
        self._selector.register(wake, selectors.EVENT_READ, lambda: self._hear(wake.recv(256)))
        looked = 0.0
        while self._kill_at is None or self._workers:
            self._keep_one_running()
            for key, _ in self._selector.select(self._patience_s()):
                act: Callable[[], None] = key.data
                act()
            self._reap()
            if time.monotonic() - looked >= LOOK_EVERY_S:
                looked = time.monotonic()
                self._look_around()
        self._remove()
        return 0

    def _hear(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._end()
        elif signal.SIGHUP in numbers:
            self._is_upgrade_due = True

    def _keep_one_running(self) -> None:
        if self._kill_at is not None:
            return
        if not self._workers and time.monotonic() >= self._starts_at:
            self._start()
        elif self._is_upgrade_due and [worker.is_ready for worker in self._workers] == [True]:
            self._is_upgrade_due = False
            before = self._workers[0].channel.fileno()
            self._start("--predecessor-fd", str(before), fds=(before,))

    def _start(self, *options: str, fds: tuple[int, ...] = ()) -> None:
        command = [*self._command, "--restarts", str(self._starts), *options]
        if self._early_deaths == FREE_DEATHS:
            os.ftruncate(self._memory, 0)  # what they all died of may be in there
        worker = Worker(command, self._listener, self._memory, *fds)
        self._starts += 1
        self._workers.append(worker)
        self._selector.register(
            worker.channel, selectors.EVENT_READ, lambda: self._hear_worker(worker)
        )

    def _hear_worker(self, worker: Worker) -> None:
        # Only what it says when ready is for us; afterwards its successor may read the channel.
        self._selector.unregister(worker.channel)
        said = b""
        with contextlib.suppress(OSError):
            said = worker.channel.recv(1_024)
        if not said:
            return  # it has died
        worker.is_ready, self._early_deaths = True, 0
        say(f"ready socket={self._path} worker={worker.pid}{said.decode().removeprefix('ready')}")
        notify("READY=1")
        for older in self._workers[: self._workers.index(worker)]:
            older.end(signal.SIGTERM)

    def _reap(self) -> None:
        """Collect every child that has ended: as PID 1, orphans too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for worker in [worker for worker in self._workers if worker.pid == pid]:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        worker.process.returncode = code
        was_serving = worker is self._workers[-1]
        self._workers.remove(worker)
        with contextlib.suppress(KeyError):
            self._selector.unregister(worker.channel)
        worker.close()
        if self._kill_at is not None or not was_serving:
            return
        say(f"worker {worker.pid} ended with {code}")
        self._early_deaths = 0 if worker.is_ready else self._early_deaths + 1
        self._starts_at = time.monotonic() + pause_s(self._early_deaths)

    def _patience_s(self) -> float:
        if self._workers or self._kill_at is not None:
            return LOOK_EVERY_S
        return min(max(self._starts_at - time.monotonic(), 0.0), LOOK_EVERY_S)

    def _look_around(self) -> None:
        if self._kill_at is not None:
            if time.monotonic() > self._kill_at:
                for worker in self._workers:
                    worker.kill()
            return
        if self._workers and self._workers[-1].is_stuck():
            say(f"worker {self._workers[-1].pid} is alive and does nothing")
            self._workers[-1].kill()
        if self._parent not in (1, os.getppid()):
            say("the parent is gone")
            self._end()
        elif self._is_ours and not os.path.lexists(self._path):
            self._bind_again()

    def _bind_again(self) -> None:
        """Somebody removed the socket; the workers go on with the connections they have."""
        try:
            listener = bind(self._path, self._mode)
        except OSError as error:
            say(f"{self._path} is gone and cannot be bound again: {error}")
            return
        self._listener.close()
        self._listener, self._inode = listener, inode(self._path)
        for worker in self._workers:
            with contextlib.suppress(OSError):
                socket.send_fds(worker.channel, [b"L"], [listener.fileno()])
        say(f"bound again socket={self._path}")

    def _end(self) -> None:
        if self._kill_at is not None:
            return
        notify("STOPPING=1")
        self._kill_at = time.monotonic() + self._kill_after_s
        # Nobody must wait in the queue of a socket on which nobody accepts any more.
        self._listener.close()
        for worker in self._workers:
            worker.end(signal.SIGTERM)

    def _remove(self) -> None:
        if self._is_ours and self._inode and inode(self._path) == self._inode:
            Path(self._path).unlink()


def worker_command(arguments: Sequence[str]) -> list[str]:
    """What starts a worker of the server that was started with these arguments."""
    return [sys.executable, "-m", "canary_plugin", *arguments, "--worker"]
