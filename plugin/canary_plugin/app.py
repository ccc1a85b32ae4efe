"""All wiring of the plugin server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canary_plugin import config as plugin_config
from canary_plugin.deciders.policies import KnownPolicies
from canary_plugin.deciders.remote import PolicyStream, RemoteDecider
from canary_plugin.handler import Handler
from canary_plugin.runtime.events import Events, wait
from canary_plugin.runtime.instances import Instances
from canary_plugin.runtime.server import PluginServer, listen
from canary_plugin.schema import NAME
from canary_plugin.troubles import Troubles

log = logging.getLogger("canary_plugin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one plugin server."""

    socket: str
    decision_service: tuple[str, ...] = ("127.0.0.1:50051",)
    gateway: str = ""
    socket_mode: int = 0o660
    event_limit_s: float = 5.0
    idle_instance_s: float = 900.0
    drain_s: float = 5.0


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Troubles]:
    """A plugin server that serves while this is open and drains when it closes."""
    troubles = Troubles(time.monotonic)
    policies = KnownPolicies()
    decider = RemoteDecider(settings.decision_service, policies, troubles)
    stream = PolicyStream(decider, policies, troubles, settings.gateway)

    def make(raw: Mapping[str, Any]) -> Handler:
        config = plugin_config.read(raw)
        for complaint in config.complaints:
            # An error here would make Kong answer 500; serving stable hurts nobody.
            log.error(
                "config of plugin %s refused, serving stable: %s",
                raw.get("__plugin_id", "?"),
                complaint,
            )
        return Handler(config, decider, wait, troubles, stream.follow)

    instances = Instances(
        NAME, make, clock=time.monotonic, now=time.time, idle_s=settings.idle_instance_s
    )
    events = Events(troubles, time.monotonic, limit_s=settings.event_limit_s)
    server = PluginServer(instances, events, troubles)
    listening = await listen(server, settings.socket, settings.socket_mode)
    mine = _inode(settings.socket)
    tasks = [
        asyncio.create_task(stream.run()),
        asyncio.create_task(server.sweep_for_ever()),
    ]
    try:
        yield troubles
    finally:
        listening.close()
        await server.drain(settings.drain_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await decider.close()
        if _inode(settings.socket) == mine:
            Path(settings.socket).unlink()  # noqa: ASYNC240 - the end; nobody waits


def _inode(path: str) -> int:
    """What tells our socket from one that another server put in its place; 0 if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return Path(path).stat().st_ino
    return 0
