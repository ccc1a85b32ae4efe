"""All wiring: which parts there are and who gets whom. Nothing else builds a store adapter."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from canary.admin.v1 import admin_pb2_grpc
from canary.decision.v1 import decision_pb2_grpc
from grpc_health.v1 import health

from decision_svc.audit import Audit
from decision_svc.baselines import Baselines
from decision_svc.decider import Decider
from decision_svc.editor import Editor
from decision_svc.entrance import guarded
from decision_svc.errors import BadSettings
from decision_svc.exposure.collector import Collector
from decision_svc.follower import Follower, cancel
from decision_svc.following import Following
from decision_svc.leases.memory import MemoryLeases
from decision_svc.leases.protocol import LeaseStore
from decision_svc.leases.redis import RedisLeases
from decision_svc.metrics import Metrics
from decision_svc.outcomes.gauges import WINDOW_S, refresh_for_ever
from decision_svc.outcomes.memory import MemoryOutcomes, Slots
from decision_svc.outcomes.protocol import Outcomes
from decision_svc.outcomes.redis import RedisOutcomes
from decision_svc.overrides import Signer, read_key
from decision_svc.people import People
from decision_svc.records.memory import MemoryRecords
from decision_svc.records.protocol import RecordStore
from decision_svc.records.redis import RedisRecords
from decision_svc.reported.memory import MemoryReported
from decision_svc.reported.protocol import ReportedStore
from decision_svc.reported.redis import RedisReported
from decision_svc.rpc.admin import AdminService, Parts
from decision_svc.rpc.decision import DecisionService
from decision_svc.rpc.ports import (
    admin_port,
    bind,
    decision_port,
    health_port,
    serve_metrics,
    tell_health,
)
from decision_svc.settings import Settings
from decision_svc.snapshot import Snapshot
from decision_svc.store.connection import DEFAULT_CONNECT_TIMEOUT_S
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import StoreError
from decision_svc.store.redis import RedisStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Where a running service listens."""

    decision_address: str
    admin_address: str
    metrics_address: str
    health_address: str = ""


@asynccontextmanager
async def running(
    settings: Settings, clock: Callable[[], float] = time.time
) -> AsyncIterator[Running]:
    """A decision service that serves while this is open and drains when it closes.

    ``clock`` gives Unix time: that by which releases go on and outcomes are counted.
    """
    async with AsyncExitStack() as stack:
        metrics, healths = Metrics(), health.aio.HealthServicer()
        store = _store(settings, stack)
        admission, tls_files = guarded(settings, metrics, stack)
        people = People(
            store,
            clock=time.monotonic,
            max_age_s=settings.person_max_age_s,
            deadline_s=settings.person_deadline_ms / 1_000,
        )
        parts = _parts(settings, store, people, metrics, clock)
        told = Slots(clock, kept_s=2 * WINDOW_S)
        decision_service = DecisionService(
            parts.decider, parts.snapshot, parts.baselines, parts.outcomes, told, metrics,
            parts.exposure.heard,
        )  # fmt: skip
        follower = Follower(
            store,
            store,
            parts.snapshot,
            people,
            metrics,
            compare_every_s=settings.compare_every_ms / 1_000,
            on_store_state=lambda up: tell_health(healths, up, parts.snapshot.is_loaded),
        )

        decisions, admin = decision_port(healths, admission), admin_port(healths, admission)
        decision_pb2_grpc.add_DecisionServiceServicer_to_server(decision_service, decisions)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(parts), admin)
        health_only = health_port(healths) if settings.health_listen else None
        await tell_health(healths, False, False)
        addresses = Running(
            decision_address=bind(decisions, "--listen", settings.listen, tls_files),
            admin_address=bind(admin, "--admin-listen", settings.admin_listen, tls_files),
            metrics_address=serve_metrics(settings.metrics_listen, metrics.registry, stack),
            health_address=bind(health_only, "--health-listen", settings.health_listen)
            if health_only
            else "",
        )

        _follow(follower, stack)
        _expose(parts.exposure, stack)
        if settings.metrics_listen:
            refreshing = asyncio.create_task(refresh_for_ever(told, metrics))
            stack.push_async_callback(cancel, refreshing)
        for server in filter(None, (decisions, admin, health_only)):
            await server.start()
            stack.push_async_callback(server.stop, settings.drain_s)
        stack.push_async_callback(healths.enter_graceful_shutdown)
        yield addresses


def _parts(
    settings: Settings,
    store: MemoryStore | RedisStore,
    people: People,
    metrics: Metrics,
    clock: Callable[[], float],
) -> Parts:
    """Who does the work."""

    def now() -> datetime:
        return datetime.fromtimestamp(clock(), UTC)

    snapshot, baselines = Snapshot(), Baselines()
    outcomes, reported, leases, records = _kept(store, clock)
    exposure = Collector(store, metrics, listed=settings.keep_exposed_users)
    return Parts(
        editor=Editor(store, snapshot, metrics, clock=now, new_id=lambda: secrets.token_hex(4)),
        policies=store,
        people=store,
        snapshot=snapshot,
        baselines=baselines,
        decider=Decider(snapshot, baselines, people, now, exposure.saw),
        outcomes=outcomes,
        audit=Audit(store, clock=now, new_salt=lambda: secrets.token_hex(16)),
        links=store,
        exposure=exposure,
        exposed=store,
        reported=reported,
        leases=leases,
        records=records,
        following=Following(snapshot, outcomes, records, now),
        signer=_signer(settings, now),
    )


def _kept(
    store: MemoryStore | RedisStore, clock: Callable[[], float]
) -> tuple[Outcomes, ReportedStore, LeaseStore, RecordStore]:
    """Where that is kept which a controller needs: beside the policies."""
    if isinstance(store, MemoryStore):
        return (
            MemoryOutcomes(clock),
            MemoryReported(clock),
            MemoryLeases(time.monotonic),
            MemoryRecords(),
        )
    link = store.connection
    return (
        RedisOutcomes(link, clock),
        RedisReported(link, clock),
        RedisLeases(link),
        RedisRecords(link),
    )


def _store(settings: Settings, stack: AsyncExitStack) -> MemoryStore | RedisStore:
    if not settings.redis_url:
        return MemoryStore()
    timeout_s = settings.store_deadline_ms / 1_000
    # A store that may take longer to answer may take longer to be reached, too.
    connect_timeout_s = max(timeout_s, DEFAULT_CONNECT_TIMEOUT_S)
    try:
        store = RedisStore.connect(
            settings.redis_url, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s
        )
    except StoreError as error:
        raise BadSettings(f"--redis-url: {error}") from None
    stack.push_async_callback(store.aclose)
    return store


def _follow(follower: Follower, stack: AsyncExitStack) -> None:
    following = asyncio.create_task(follower.run())
    following.add_done_callback(_tell_failure)
    stack.push_async_callback(cancel, following)


def _expose(exposure: Collector, stack: AsyncExitStack) -> None:
    exposing = asyncio.create_task(exposure.flush_for_ever())

    async def tell_rest() -> None:
        """Nobody is decided for any more: tell the store the last users."""
        await cancel(exposing)
        with suppress(StoreError):
            await exposure.flush()

    stack.push_async_callback(tell_rest)


def _signer(settings: Settings, now: Callable[[], datetime]) -> Signer | None:
    if not settings.override_key:
        return None
    key = read_key(settings.override_key)
    return Signer(key, now, lambda: secrets.token_hex(8))


def _tell_failure(following: asyncio.Task[None]) -> None:
    if not following.cancelled() and (error := following.exception()):
        log.critical("the store is no longer followed", exc_info=error)
