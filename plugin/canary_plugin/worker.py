"""The process that serves Kong: alone, or as the worker of a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys

import uvloop

from canary_plugin.app import Settings, running
from canary_plugin.channel import Channel
from canary_plugin.child import BEAT_EVERY_S, HEARTBEAT_FD
from canary_plugin.outcomes.receiver import warn_of_short_queue

log = logging.getLogger("canary_plugin")


def work(
    settings: Settings, channel_fd: int | None = None, predecessor_fd: int | None = None
) -> None:
    """Serve until SIGTERM or until the supervisor is gone."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    uvloop.run(_serve(settings, channel_fd, predecessor_fd))


async def _serve(settings: Settings, channel_fd: int | None, predecessor_fd: int | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if channel_fd is not None:
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # is the supervisor's
    if HEARTBEAT_FD in os.environ:
        _beat(loop, int(os.environ.pop(HEARTBEAT_FD)))
    channel = None if channel_fd is None else Channel(channel_fd, predecessor_fd, stop.set)
    async with running(settings, channel) as troubles:
        del troubles
        if channel is None:
            log.info("ready socket=%s", settings.socket)
        if settings.outcomes == "syslog":
            warn_of_short_queue()
        await stop.wait()
        log.info("draining")
    log.info("stopped")


def _beat(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    """Tell the supervisor every so often that the loop turns."""
    with contextlib.suppress(OSError):
        os.write(fd, b".")
    loop.call_later(BEAT_EVERY_S, _beat, loop, fd)
