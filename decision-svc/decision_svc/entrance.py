"""Who may call, as the settings say: what lets calls in, and keeps its files in force."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import structlog

from decision_svc.access import insecure
from decision_svc.access.files import AccessFiles
from decision_svc.access.gate import Gate
from decision_svc.access.jwt import Fetcher
from decision_svc.access.reload import Reloading, Source
from decision_svc.access.tls import TlsFiles
from decision_svc.errors import BadAccess, BadSettings
from decision_svc.follower import cancel
from decision_svc.metrics import Metrics
from decision_svc.rpc.admission import Admission
from decision_svc.settings import Settings

log = structlog.get_logger()


def guarded(
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


def _utc_now() -> datetime:
    return datetime.now(UTC)
