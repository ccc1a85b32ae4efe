"""All wiring of the controller: which parts there are and who gets whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import ClientSession, DummyCookieJar
from canary_engine.model import Policy
from canary_engine.record import ReleaseRecord
from prometheus_client import start_http_server

from canary_controller.closing import Reports
from canary_controller.errors import BadSettings
from canary_controller.judging import EngineJudge
from canary_controller.lease import Lease
from canary_controller.loop import Controller
from canary_controller.measuring import Measuring
from canary_controller.mesh.connecting import connected
from canary_controller.mesh.following import FollowingMeshes
from canary_controller.mesh.meshes import Meshes, NoMeshes
from canary_controller.mesh.settings import BadMeshFile, entries_in
from canary_controller.metrics import Metrics
from canary_controller.notify.notifier import Notifier
from canary_controller.notify.settings import BadNotifyFile, NotifySettings, settings_in
from canary_controller.reconcile import Outside, Reconciler
from canary_controller.reports import ReportFiles
from canary_controller.rpc.client import Client, CredentialFiles
from canary_controller.rpc.health import Health, serving_health
from canary_controller.rpc.histories import ApiHistories
from canary_controller.settings import Settings
from canary_controller.sources.prometheus import Prometheus
from canary_controller.webhooks.caller import Webhooks

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A controller that is ready to run, and where it can be asked how it is."""

    controller: Controller
    health: Health
    metrics_address: str


class NoReports:
    """Keeps nothing."""

    async def write(self, policy: Policy, record: ReleaseRecord) -> None:
        """See Reports."""


@asynccontextmanager
async def assembled(settings: Settings) -> AsyncIterator[Running]:
    """A controller with all its parts, which end when this closes. Raises BadSettings."""
    if settings.lease_s < 2 * settings.look_every_s:
        raise BadSettings(
            "--lease-s: give twice --look-every or more; a lease that ends between two looks is "
            "another controller's by the next"
        )
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        metrics_address = _serve_metrics(settings.metrics_listen, metrics, stack)
        client = Client(settings.admin, settings.call_deadline_ms / 1_000, _files(settings))
        stack.push_async_callback(client.close)
        session = await stack.enter_async_context(ClientSession(cookie_jar=DummyCookieJar()))
        source = Prometheus(session, settings.prometheus_url) if settings.prometheus_url else None
        measuring = Measuring(client, source)
        stack.push_async_callback(measuring.close)
        webhooks = Webhooks(session, secret=_secret(settings.webhook_secret_file))
        stack.push_async_callback(webhooks.close)
        people = Notifier(_notify_settings(settings.notify_file), metrics)
        stack.push_async_callback(people.close)
        outside = Outside(
            measuring=measuring,
            webhooks=webhooks,
            people=people,
            reports=_reports(settings.reports_dir, client),
            meshes=await _meshes(settings, client, metrics, stack),
        )
        controller = Controller(
            Lease(client, settings.holder, settings.lease_s, time.monotonic),
            Reconciler(client, EngineJudge(), outside, metrics),
            metrics,
            look_every_s=settings.look_every_s,
            monotonic=time.monotonic,
        )
        health = await stack.enter_async_context(serving_health(settings.health_listen))
        yield Running(controller=controller, health=health, metrics_address=metrics_address)


async def run(running: Running, stop: asyncio.Event) -> None:
    """See to releases until ``stop`` is set."""
    await running.controller.run(
        stop, lambda: running.health.tell(is_well=running.controller.is_well)
    )


async def _meshes(
    settings: Settings, client: Client, metrics: Metrics, stack: AsyncExitStack
) -> Meshes:
    if not settings.istio_file:
        return NoMeshes()
    try:
        entries = entries_in(_read("--istio-file", settings.istio_file).decode())
    except (BadMeshFile, UnicodeDecodeError) as error:
        raise BadSettings(f"--istio-file: {error}") from error
    cluster = await stack.enter_async_context(connected(settings))
    meshes = FollowingMeshes(entries, client, cluster, metrics)
    stack.push_async_callback(meshes.close)
    return meshes


def _reports(folder: str, client: Client) -> Reports:
    return ReportFiles(Path(folder), ApiHistories(client)) if folder else NoReports()


def _files(settings: Settings) -> CredentialFiles:
    return CredentialFiles(
        token=settings.token_file,
        ca=settings.tls_ca,
        certificate=settings.tls_cert,
        key=settings.tls_key,
    )


def _secret(path: str) -> bytes:
    if not path:
        return b""
    secret = _read("--webhook-secret-file", path).strip()
    if not secret:
        raise BadSettings("--webhook-secret-file: it is empty")
    return secret


def _notify_settings(path: str) -> NotifySettings:
    if not path:
        return NotifySettings()
    try:
        return settings_in(_read("--notify-file", path).decode())
    except (BadNotifyFile, UnicodeDecodeError) as error:
        raise BadSettings(f"--notify-file: {error}") from error


def _read(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadSettings(f"{option}: {error}") from error


def _serve_metrics(address: str, metrics: Metrics, stack: AsyncExitStack) -> str:
    if not address:
        return ""
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), metrics.registry)
    except (OSError, ValueError) as error:
        raise BadSettings(f"--metrics-listen: cannot listen on {address}: {error}") from error
    stack.callback(server.server_close)
    stack.callback(thread.join)
    stack.callback(server.shutdown)
    return f"{host}:{server.server_port}"
