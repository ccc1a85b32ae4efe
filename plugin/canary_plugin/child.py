"""A worker process as its supervisor sees it. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Sequence

from canary_plugin.listener import SYSTEMD

# A descriptor into which a worker whose loop turns writes a byte every so often.
HEARTBEAT_FD = "CANARY_PLUGIN_HEARTBEAT_FD"
BEAT_EVERY_S = 0.5
# A file that outlives workers, see ``memory``.
MEMORY_FD = "CANARY_PLUGIN_MEMORY_FD"
# Looks of the supervisor, a second apart, without a beat in between; a start takes longer.
MISSED_BEATS, MISSED_BEFORE_THE_FIRST = 5, 60


class Worker:
    """A worker process and our end of the channel to it."""

    def __init__(
        self, command: Sequence[str], listener: socket.socket, memory: int, *more_fds: int
    ) -> None:
        self.channel, theirs = socket.socketpair()
        self._heart, beats = os.pipe()
        os.set_blocking(self._heart, False)
        os.set_blocking(beats, False)
        fds = (listener.fileno(), theirs.fileno(), memory)
        options = ("--socket-fd", str(fds[0]), "--channel-fd", str(fds[1]))
        environment = {k: v for k, v in os.environ.items() if k not in SYSTEMD}
        environment |= {HEARTBEAT_FD: str(beats), MEMORY_FD: str(memory)}
        with theirs:
            self.process = subprocess.Popen(
                [*command, *options], pass_fds=(*fds, beats, *more_fds), env=environment
            )
        os.close(beats)
        self.is_ready = False
        self._missed, self._has_beaten = 0, False

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self, number: int) -> None:
        """Send it a signal, unless it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def is_stuck(self) -> bool:
        """Look for its heartbeat: whether it was missed too often.

        Looks are counted, not seconds: what stopped supervisor and worker alike is no reason.
        """
        beat = b""
        with contextlib.suppress(BlockingIOError):
            beat = os.read(self._heart, 4_096)
        if beat:
            self._missed, self._has_beaten = 0, True
        else:
            self._missed += 1
        return self._missed > (MISSED_BEATS if self._has_beaten else MISSED_BEFORE_THE_FIRST)

    def kill(self) -> None:
        """End it at once."""
        self.end(signal.SIGKILL)

    def close(self) -> None:
        """Let go of what it had of us."""
        self.channel.close()
        os.close(self._heart)
