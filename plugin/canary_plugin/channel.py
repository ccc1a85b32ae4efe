"""A worker's side of the channel to its supervisor, and to the worker that succeeds it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable

from canary_plugin.child import MEMORY_FD
from canary_plugin.memory import Memory
from canary_plugin.runtime import handover
from canary_plugin.runtime.instances import Instances
from canary_plugin.runtime.server import PluginServer

log = logging.getLogger("canary_plugin")


class Channel:
    """Hears the supervisor. ``stop`` is called when it, or our task, is gone."""

    def __init__(self, fd: int, predecessor_fd: int | None, stop: Callable[[], None]) -> None:
        self._socket = socket.socket(fileno=fd)
        self._predecessor_fd, self._stop = predecessor_fd, stop
        self._tasks: list[asyncio.Task[None]] = []

    async def take_over(self, server: PluginServer, instances: Instances) -> None:
        """Go on with what the predecessor has, or had when it died."""
        memory = Memory(int(os.environ.pop(MEMORY_FD)), instances)
        if self._predecessor_fd is not None:
            with socket.socket(fileno=self._predecessor_fd) as predecessor:
                await handover.take(predecessor, server, instances)
        else:
            memory.recall()
        memory.keep()

    def serve(self, said: str, server: PluginServer, instances: Instances) -> None:
        """Say that the worker is ready, and do what comes by the channel from now on."""
        loop = asyncio.get_running_loop()

        def hear() -> None:
            word, fds = b"", list[int]()
            with contextlib.suppress(OSError):
                word, fds, _, _ = socket.recv_fds(self._socket, 1, 1)
            if word == handover.LISTEN and fds:
                again = server.listen_on(socket.socket(fileno=fds[0]))
                self._tasks.append(loop.create_task(again))
            elif word == handover.GIVE:
                loop.remove_reader(self._socket)
                self._tasks.append(loop.create_task(self._give(server, instances)))
            else:
                loop.remove_reader(self._socket)
                log.error("the supervisor is gone")
                self._stop()

        with contextlib.suppress(OSError):
            self._socket.send(f"ready {said}".rstrip().encode())
        loop.add_reader(self._socket, hear)

    async def _give(self, server: PluginServer, instances: Instances) -> None:
        try:
            await handover.give(self._socket, server, instances)
        except OSError as error:
            log.error("the successor broke off: %s", error)
        self._stop()
