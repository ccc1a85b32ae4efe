"""All wiring of the plugin server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canary_plugin import config as plugin_config
from canary_plugin.channel import Channel
from canary_plugin.deciders.local import LocalDecider
from canary_plugin.deciders.person_calls import PersonCalls
from canary_plugin.deciders.persons import Persons
from canary_plugin.deciders.policies import KnownPolicies
from canary_plugin.deciders.policy_stream import PolicyStream
from canary_plugin.deciders.protocol import Decider
from canary_plugin.deciders.remote import RemoteDecider
from canary_plugin.deciders.service import Service
from canary_plugin.deciders.stream import DecideStream
from canary_plugin.handler import Handler
from canary_plugin.metrics import Metrics, MetricsPort, Timed
from canary_plugin.names import Names
from canary_plugin.outcomes.aggregate import Aggregate
from canary_plugin.outcomes.handlers import ListeningHandler, ReportingHandler
from canary_plugin.outcomes.ledger import GRACE_S, Ledger, expect_nothing
from canary_plugin.outcomes.receiver import Receiver
from canary_plugin.outcomes.sender import EVERY_S, Sender
from canary_plugin.runtime.events import Events, wait
from canary_plugin.runtime.instances import Instances
from canary_plugin.runtime.server import PluginServer
from canary_plugin.schema import NAME
from canary_plugin.troubles import Troubles

log = logging.getLogger("canary_plugin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one plugin server."""

    socket: str
    decision_service: tuple[str, ...] = ("127.0.0.1:50051",)
    decider: str = "remote"
    gateway: str = ""
    socket_mode: int = 0o660
    event_limit_s: float = 5.0
    idle_instance_s: float = 900.0
    drain_s: float = 5.0
    outcomes: str = "off"
    """How outcomes are heard of: syslog (nginx's access log), log (Kong's log phase) or off."""
    outcomes_socket: str = ""
    outcomes_grace_s: float = GRACE_S
    outcomes_every_s: float = EVERY_S
    warm_up_s: float = 2.0
    """How long listening waits for the policies; a service that is down must not delay Kong."""
    socket_fd: int = -1
    """The listening socket, if a supervisor holds it; it neither binds nor removes ``socket``."""
    metrics_listen: str = ""
    """Where Prometheus asks; "" is nowhere."""
    restarts: int = 0


@asynccontextmanager
async def running(settings: Settings, channel: Channel | None = None) -> AsyncIterator[Troubles]:
    """A plugin server that serves while this is open and drains when it closes."""
    troubles = Troubles(time.monotonic)
    metrics = Metrics(troubles, restarts=settings.restarts)
    policies = KnownPolicies()
    service = Service(settings.decision_service)
    persons = Persons(PersonCalls(service.stubs).person)
    policy_stream = PolicyStream(service.stubs, policies, persons, troubles, settings.gateway)
    decide_stream = DecideStream(service.stubs, troubles)
    decider: Decider = RemoteDecider(decide_stream, policies, persons, troubles, metrics.decided)
    if settings.decider == "local":
        decider = LocalDecider(policies, persons, decider, metrics.decided)

    aggregate = Aggregate(time.monotonic)
    ledger = Ledger(aggregate, troubles, time.monotonic, grace_s=settings.outcomes_grace_s)
    receiver = Receiver(ledger.hear)
    sender = Sender(
        service.stubs,
        aggregate,
        ledger,
        troubles,
        settings.gateway,
        every_s=settings.outcomes_every_s,
    )

    names = Names(time.monotonic)

    def make(raw: Mapping[str, Any]) -> Handler:
        config = plugin_config.read(raw)
        for complaint in config.complaints:
            # An error here would make Kong answer 500; serving stable hurts nobody.
            log.error(
                "config of plugin %s refused, serving stable: %s",
                raw.get("__plugin_id", "?"),
                complaint,
            )
        parts = (config, decider, wait, troubles, policy_stream.declare, names.resolves)
        if settings.outcomes == "log":
            return ReportingHandler(*parts, expect=ledger.expect, hear=ledger.settle)
        if settings.outcomes == "syslog":
            return ListeningHandler(*parts, expect=ledger.expect, drain=receiver.drain)
        return Handler(*parts, expect=expect_nothing)

    def make_timed(raw: Mapping[str, Any]) -> Timed:
        return Timed(make(raw), metrics)

    instances = Instances(
        NAME, make_timed, clock=time.monotonic, now=time.time, idle_s=settings.idle_instance_s
    )
    events = Events(troubles, time.monotonic, limit_s=settings.event_limit_s)
    server = PluginServer(instances, events, troubles)
    metrics.show("instances", "Plugin instances that Kong has started.", lambda: len(instances))
    metrics.show("events_in_progress", "Phases that have begun.", lambda: len(events))
    metrics.show("policies", "Stored policies known here.", lambda: len(policies))
    metrics.show(
        "policy_stream_age_seconds",
        "For how long the policy stream has told everything; 0 while it is broken.",
        lambda: policy_stream.age_s,
    )
    tasks = [
        asyncio.create_task(policy_stream.run()),
        asyncio.create_task(decide_stream.run()),
        asyncio.create_task(server.sweep_for_ever()),
    ]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.warm_up_s):
            await policy_stream.complete.wait()
            await decide_stream.opened.wait()
    sending = asyncio.create_task(sender.run())
    with contextlib.ExitStack() as hearing:
        if settings.outcomes == "syslog":
            where = settings.outcomes_socket or _beside(settings.socket)
            hearing.enter_context(receiver.open(where, settings.socket_mode))
        port = MetricsPort(metrics, troubles, settings.metrics_listen)
        said = await port.open()
        if channel is not None:
            await channel.take_over(server, instances)
        mine = 0
        if settings.socket_fd >= 0:
            await server.listen_on(socket.socket(fileno=settings.socket_fd))
        else:
            await server.listen_at(settings.socket, settings.socket_mode)
            mine = _inode(settings.socket)
        if channel is not None:
            channel.serve(said, server, instances)
        try:
            yield troubles
        finally:
            server.deafen()
            await port.close()
            await server.drain(settings.drain_s)
            hearing.close()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            # While the policy stream still declares the baselines that the outcomes belong to.
            await sender.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await service.close()
            if mine and _inode(settings.socket) == mine:
                Path(settings.socket).unlink()  # noqa: ASYNC240 - the end; nobody waits


def _beside(socket: str) -> str:
    return str(Path(socket).with_name("outcomes.sock"))


def _inode(path: str) -> int:
    """What tells our socket from one that another server put in its place; 0 if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return Path(path).stat().st_ino
    return 0
