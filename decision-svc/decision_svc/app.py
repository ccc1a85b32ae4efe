"""All wiring: which parts there are and who gets whom. Nothing else builds a store adapter."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
import structlog
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary.decision.v1 import decision_pb2, decision_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from decision_svc.baselines import Baselines
from decision_svc.decider import Decider
from decision_svc.editor import Editor
from decision_svc.errors import BadSettings
from decision_svc.follower import Follower, cancel
from decision_svc.metrics import Metrics
from decision_svc.outcomes.gauges import refresh_for_ever
from decision_svc.outcomes.memory import MemoryOutcomes
from decision_svc.people import People
from decision_svc.rpc.admin import AdminService, Parts
from decision_svc.rpc.decision import DecisionService
from decision_svc.rpc.errors import RefusalInterceptor
from decision_svc.settings import Settings
from decision_svc.snapshot import Snapshot
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import StoreError
from decision_svc.store.redis import RedisStore

log = structlog.get_logger()

DECISION = decision_pb2.DESCRIPTOR.services_by_name["DecisionService"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
STORE = "canary.store"
"""Name under which health tells whether the store answers."""

# Above what any valid request needs, so that an oversized value is refused by name.
_ADMIN_OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0)]
_DECISION_OPTIONS = [("grpc.max_receive_message_length", 8 << 20), ("grpc.so_reuseport", 0)]
# A watcher that vanished without a word is noticed by pings.
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Where a running service listens."""

    decision_address: str
    admin_address: str
    metrics_address: str


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A decision service that serves while this is open and drains when it closes."""
    async with AsyncExitStack() as stack:
        store: MemoryStore | RedisStore = MemoryStore()
        if settings.redis_url:
            store = _redis(settings)
            stack.push_async_callback(store.aclose)
        metrics, snapshot, baselines = Metrics(), Snapshot(), Baselines()
        people = People(
            store,
            clock=time.monotonic,
            max_age_s=settings.person_max_age_s,
            deadline_s=settings.person_deadline_ms / 1_000,
        )
        outcomes = MemoryOutcomes(time.monotonic)
        decider = Decider(snapshot, baselines, people, _utc_now)
        editor = Editor(
            store, snapshot, metrics, clock=_utc_now, new_id=lambda: secrets.token_hex(4)
        )
        healths = health.aio.HealthServicer()
        follower = Follower(
            store,
            store,
            snapshot,
            people,
            metrics,
            compare_every_s=settings.compare_every_ms / 1_000,
            on_store_state=lambda up: _tell_health(healths, up, snapshot.is_loaded),
        )
        decision_service = DecisionService(decider, snapshot, baselines, outcomes, metrics)
        admin_service = AdminService(
            Parts(
                editor=editor,
                policies=store,
                people=store,
                snapshot=snapshot,
                baselines=baselines,
                decider=decider,
                outcomes=outcomes,
            )
        )

        decisions = _server(_DECISION_OPTIONS, healths, DECISION)
        decision_pb2_grpc.add_DecisionServiceServicer_to_server(decision_service, decisions)
        admin = _server(_ADMIN_OPTIONS, healths, ADMIN)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin_service, admin)
        await _tell_health(healths, False, False)

        addresses = Running(
            decision_address=_bind(decisions, "--listen", settings.listen),
            admin_address=_bind(admin, "--admin-listen", settings.admin_listen),
            metrics_address=_serve_metrics(settings.metrics_listen, metrics, stack),
        )
        following = asyncio.create_task(follower.run())
        following.add_done_callback(_tell_failure)
        stack.push_async_callback(cancel, following)
        refreshing = asyncio.create_task(refresh_for_ever(outcomes, metrics))
        stack.push_async_callback(cancel, refreshing)
        for server in (decisions, admin):
            await server.start()
            stack.push_async_callback(server.stop, settings.drain_s)
        stack.push_async_callback(healths.enter_graceful_shutdown)
        yield addresses


def _server(options: list[tuple[str, int]], healths: Any, name: str) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=[RefusalInterceptor()], options=options + _KEEPALIVE)
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    names = (name, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server


def _redis(settings: Settings) -> RedisStore:
    try:
        return RedisStore.connect(settings.redis_url, timeout_s=settings.store_deadline_ms / 1_000)
    except StoreError as error:
        raise BadSettings(f"--redis-url: {error}") from None


def _bind(server: grpc.aio.Server, option: str, address: str) -> str:
    """Bind and answer the address with the port that was given for port 0."""
    is_path = address.startswith("unix:")
    host = "" if is_path else _host_and_port(option, address)[0]
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise _cannot_listen(option, address) from error
    return address if is_path else f"{host}:{port}"


def _host_and_port(option: str, address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    # gRPC takes 99999 and listens on another port.
    if not (host and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise BadSettings(f"{option}: {address!r} is no address; write host:port")
    return host, int(port)


def _cannot_listen(option: str, address: str) -> BadSettings:
    return BadSettings(f"{option}: cannot listen on {address}: it is in use or not of this machine")


def _serve_metrics(address: str, metrics: Metrics, stack: AsyncExitStack) -> str:
    if not address:
        return ""
    host, port = _host_and_port("--metrics-listen", address)
    try:
        server, thread = start_http_server(port, host.strip("[]"), metrics.registry)
    except OSError as error:
        raise _cannot_listen("--metrics-listen", address) from error
    stack.callback(server.server_close)
    stack.callback(thread.join)
    stack.callback(server.shutdown)
    return f"{host}:{server.server_port}"


async def _tell_health(healths: Any, store_up: bool, loaded: bool) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
    ready = serving if store_up or loaded else not_serving
    await healths.set("", ready)
    await healths.set(DECISION, ready)
    await healths.set(ADMIN, serving if store_up else not_serving)
    await healths.set(STORE, serving if store_up else not_serving)


def _tell_failure(following: asyncio.Task[None]) -> None:
    if not following.cancelled() and (error := following.exception()):
        log.critical("the store is no longer followed", exc_info=error)


def _utc_now() -> datetime:
    return datetime.now(UTC)
