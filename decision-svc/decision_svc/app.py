"""All wiring: which parts there are and who gets whom. Nothing else builds a store adapter."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
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

from decision_svc.access import insecure
from decision_svc.access.files import AccessFiles
from decision_svc.access.gate import Gate
from decision_svc.access.jwt import Fetcher
from decision_svc.access.reload import Reloading, Source
from decision_svc.access.tls import TlsFiles
from decision_svc.audit import Audit
from decision_svc.baselines import Baselines
from decision_svc.decider import Decider
from decision_svc.editor import Editor
from decision_svc.errors import BadAccess, BadSettings
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
from decision_svc.rpc import tls
from decision_svc.rpc.admin import AdminService, Parts
from decision_svc.rpc.admission import Admission
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
    # Plugins ping idle streams, and two pings too many would end everybody's.
    ("grpc.http2.max_ping_strikes", 0),
]


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

    def now() -> datetime:
        return datetime.fromtimestamp(clock(), UTC)

    async with AsyncExitStack() as stack:
        store: MemoryStore | RedisStore = MemoryStore()
        if settings.redis_url:
            store = _redis(settings)
            stack.push_async_callback(store.aclose)
        metrics, snapshot, baselines = Metrics(), Snapshot(), Baselines()
        admission, tls_files = _guarded(settings, metrics, stack)
        people = People(
            store,
            clock=time.monotonic,
            max_age_s=settings.person_max_age_s,
            deadline_s=settings.person_deadline_ms / 1_000,
        )
        outcomes, reported, leases, records = _kept(store, clock)
        told = Slots(clock, kept_s=2 * WINDOW_S)
        exposure = Collector(store, metrics, listed=settings.keep_exposed_users)
        decider = Decider(snapshot, baselines, people, now, exposure.saw)
        editor = Editor(store, snapshot, metrics, clock=now, new_id=lambda: secrets.token_hex(4))
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
        decision_service = DecisionService(
            decider, snapshot, baselines, outcomes, told, metrics, exposure.heard
        )
        admin_service = AdminService(
            Parts(
                editor=editor,
                policies=store,
                people=store,
                snapshot=snapshot,
                baselines=baselines,
                decider=decider,
                outcomes=outcomes,
                audit=Audit(store, clock=now, new_salt=lambda: secrets.token_hex(16)),
                links=store,
                exposure=exposure,
                exposed=store,
                reported=reported,
                leases=leases,
                records=records,
                following=Following(snapshot, outcomes, records, now),
                signer=_signer(settings),
            )
        )

        decisions = _server(_DECISION_OPTIONS, healths, DECISION, admission)
        decision_pb2_grpc.add_DecisionServiceServicer_to_server(decision_service, decisions)
        admin = _server(_ADMIN_OPTIONS, healths, ADMIN, admission)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin_service, admin)
        health_only = grpc.aio.server(options=_KEEPALIVE)
        health_pb2_grpc.add_HealthServicer_to_server(healths, health_only)
        await _tell_health(healths, False, False)

        addresses = Running(
            decision_address=_bind(decisions, "--listen", settings.listen, tls_files),
            admin_address=_bind(admin, "--admin-listen", settings.admin_listen, tls_files),
            metrics_address=_serve_metrics(settings.metrics_listen, metrics, stack),
            health_address=_bind(health_only, "--health-listen", settings.health_listen)
            if settings.health_listen
            else "",
        )
        following = asyncio.create_task(follower.run())
        following.add_done_callback(_tell_failure)
        stack.push_async_callback(cancel, following)
        if settings.metrics_listen:
            refreshing = asyncio.create_task(refresh_for_ever(told, metrics))
            stack.push_async_callback(cancel, refreshing)
        exposing = asyncio.create_task(exposure.flush_for_ever())
        stack.push_async_callback(_tell_rest, exposing, exposure)
        for server in (decisions, admin, *([health_only] if settings.health_listen else [])):
            await server.start()
            stack.push_async_callback(server.stop, settings.drain_s)
        stack.push_async_callback(healths.enter_graceful_shutdown)
        yield addresses


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


def _guarded(
    settings: Settings, metrics: Metrics, stack: AsyncExitStack
) -> tuple[Admission, TlsFiles | None]:
    """What lets calls in, and what both ports show of themselves; None without TLS."""
    gate = Gate(None, _utc_now)
    files = AccessFiles(settings.access_file, gate.believe)
    tls_files = _tls_files(settings)

    def tell_state(file: str, is_well: bool) -> None:
        metrics.credentials_outdated.labels(file).set(not is_well)

    sources = []
    if settings.access_file and settings.insecure:
        raise BadSettings("--insecure: it asks nobody, so give no --access-file with it")
    if settings.access_file:
        sources.append(Source(name="access", paths=lambda: files.paths, load=files.load))
    elif settings.insecure:
        insecure.check(
            {
                "--listen": settings.listen,
                "--admin-listen": settings.admin_listen,
                "--metrics-listen": settings.metrics_listen,
            }
        )
    else:
        raise BadSettings(
            "say who may call with --access-file FILE (docs/access.md); to try things out on "
            "this machine alone, --insecure asks nobody"
        )
    if tls_files is not None:
        sources.append(Source(name="tls", paths=lambda: tls_files.paths, load=tls_files.load))
    reloading = Reloading(sources, tell_state)
    try:
        reloading.load()
    except BadAccess as error:
        what = "\n".join(("it cannot be used:", *error.complaints))
        raise BadSettings(f"--access-file, --tls-*: {what}") from None
    fetcher = Fetcher(
        lambda: files.jwks_url, files.hear_keys, lambda is_well: tell_state("jwks", is_well)
    )
    if sources:
        _keep_running(stack, reloading.run(gate.look_again))
        _keep_running(stack, fetcher.run())
    ports = (settings.listen, settings.admin_listen)
    if tls_files is None and not all(map(insecure.is_local, ports)):
        log.warning("no --tls-cert: tokens travel so that the network can read them")
    return Admission(gate, metrics, fetcher.fetch), tls_files


def _tls_files(settings: Settings) -> TlsFiles | None:
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise BadSettings("--tls-cert, --tls-key: give both or none")
    if settings.tls_client_ca and not settings.tls_cert:
        raise BadSettings("--tls-client-ca: give --tls-cert and --tls-key too")
    if not settings.tls_cert:
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def _keep_running(stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    stack.push_async_callback(cancel, asyncio.create_task(work))


def _server(
    options: list[tuple[str, int]], healths: Any, name: str, admission: Admission
) -> grpc.aio.Server:
    interceptors = [admission, RefusalInterceptor()]
    server = grpc.aio.server(interceptors=interceptors, options=options + _KEEPALIVE)
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    names = (name, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server


def _redis(settings: Settings) -> RedisStore:
    try:
        return RedisStore.connect(settings.redis_url, timeout_s=settings.store_deadline_ms / 1_000)
    except StoreError as error:
        raise BadSettings(f"--redis-url: {error}") from None


async def _tell_rest(exposing: asyncio.Task[None], exposure: Collector) -> None:
    """Nobody is decided for any more: tell the store the last users."""
    await cancel(exposing)
    with suppress(StoreError):
        await exposure.flush()


def _signer(settings: Settings) -> Signer | None:
    if not settings.override_key:
        return None
    key = read_key(settings.override_key)
    return Signer(key, _utc_now, lambda: secrets.token_hex(8))


def _bind(
    server: grpc.aio.Server,
    option: str,
    address: str,
    tls_files: TlsFiles | None = None,
) -> str:
    """Bind and answer the address with the port that was given for port 0."""
    is_path = address.startswith("unix:")
    host = "" if is_path else _host_and_port(option, address)[0]
    try:
        if tls_files is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls.credentials(tls_files))
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
