"""All wiring of the plugin server: which parts there are, and in which order they come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sized
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from canary_plugin import config as plugin_config
from canary_plugin.channel import Channel
from canary_plugin.deciders.deciding import Deciding
from canary_plugin.handler import Handler
from canary_plugin.metrics import Metrics, MetricsPort, Timed
from canary_plugin.names import Names
from canary_plugin.outcomes.hearing import Hearing
from canary_plugin.runtime.events import Events, wait
from canary_plugin.runtime.instances import Instances
from canary_plugin.runtime.server import PluginServer
from canary_plugin.schema import NAME
from canary_plugin.settings import Settings
from canary_plugin.troubles import Troubles

__all__ = ["Settings", "running"]

log = logging.getLogger("canary_plugin")


@asynccontextmanager
async def running(settings: Settings, channel: Channel | None = None) -> AsyncIterator[Troubles]:
    """A plugin server that serves while this is open and drains when it closes."""
    troubles = Troubles(time.monotonic)
    metrics = Metrics(troubles, restarts=settings.restarts)
    deciding = Deciding(settings, troubles, metrics.decided)
    hearing = Hearing(settings, deciding.stubs, troubles, deciding.noted)
    instances = Instances(
        NAME,
        _phases(deciding, hearing, troubles, metrics),
        clock=time.monotonic,
        now=time.time,
        idle_s=settings.idle_instance_s,
    )
    events = Events(troubles, time.monotonic, limit_s=settings.event_limit_s)
    server = PluginServer(instances, events, troubles)
    show_gauges(metrics, deciding, instances, events)
    port = MetricsPort(metrics, troubles, settings.metrics_listen)
    # Outcomes are sent while the policy stream still declares the baselines they belong to.
    async with deciding.open(), _sweeping(server), hearing.open():
        said = await port.open()
        if channel is not None:
            await channel.take_over(server, instances)
        mine = await _listen(settings, server)
        if channel is not None:
            channel.serve(said, server, instances)
        try:
            yield troubles
        finally:
            server.deafen()
            await port.close()
            await server.drain(settings.drain_s)
            if mine and _inode(settings.socket) == mine:
                Path(settings.socket).unlink()  # noqa: ASYNC240 - the end; nobody waits


def _phases(
    deciding: Deciding, hearing: Hearing, troubles: Troubles, metrics: Metrics
) -> Callable[[Mapping[str, Any]], Timed]:
    """What makes the phases of an instance from its config."""
    names = Names(time.monotonic)

    def make(raw: Mapping[str, Any]) -> Timed:
        config = plugin_config.read(raw)
        for complaint in config.complaints:
            # An error here would make Kong answer 500; serving stable hurts nobody.
            log.error(
                "config of plugin %s refused, serving stable: %s",
                raw.get("__plugin_id", "?"),
                complaint,
            )
        handler: Handler = hearing.handler(
            config, deciding.decider, wait, troubles, deciding.declare, names.resolves
        )
        return Timed(handler, metrics)

    return make


def show_gauges(metrics: Metrics, deciding: Deciding, instances: Sized, events: Sized) -> None:
    """Show what the parts keep."""
    metrics.show("instances", "Plugin instances that Kong has started.", lambda: len(instances))
    metrics.show("events_in_progress", "Phases that have begun.", lambda: len(events))
    metrics.show("policies", "Stored policies known here.", lambda: len(deciding.policies))
    metrics.show(
        "policy_stream_age_seconds",
        "For how long the policy stream has told everything; 0 while it is broken.",
        lambda: deciding.age_s,
    )


@asynccontextmanager
async def _sweeping(server: PluginServer) -> AsyncIterator[None]:
    sweeping = asyncio.create_task(server.sweep_for_ever())
    try:
        yield
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)


async def _listen(settings: Settings, server: PluginServer) -> int:
    """Listen; the inode of a socket that is ours to remove, 0 if it is somebody else's."""
    if settings.socket_fd >= 0:
        await server.listen_on(socket.socket(fileno=settings.socket_fd))
        return 0
    await server.listen_at(settings.socket, settings.socket_mode)
    return _inode(settings.socket)


def _inode(path: str) -> int:
    """What tells our socket from one that another server put in its place; 0 if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return Path(path).stat().st_ino
    return 0
