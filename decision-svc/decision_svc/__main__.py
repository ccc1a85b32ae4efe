"""canary-decision-svc: runs the decision service until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import canary_log
import click
import structlog
import uvloop

from decision_svc.app import running
from decision_svc.errors import BadSettings
from decision_svc.settings import Settings

DEFAULTS = Settings()


@click.command(context_settings={"auto_envvar_prefix": "CANARY", "show_default": True})
@click.option("--listen", default=DEFAULTS.listen, help="Address for gateways (gRPC).")
@click.option("--admin-listen", default=DEFAULTS.admin_listen, help="Address for people (gRPC).")
@click.option(
    "--metrics-listen", default=DEFAULTS.metrics_listen, help="Address for Prometheus (HTTP)."
)
@click.option(
    "--redis-url",
    default=DEFAULTS.redis_url,
    help="Store, e.g. redis://host:6379/0, unix:///path or, for a cluster, "
    "redis+cluster://host:6379,host:6379; empty: memory, lost at the end.",
)
@click.option(
    "--store-deadline-ms",
    default=DEFAULTS.store_deadline_ms,
    type=click.IntRange(1),
    help="Longest wait for the store in a write.",
)
@click.option(
    "--person-deadline-ms",
    default=DEFAULTS.person_deadline_ms,
    type=click.IntRange(1),
    help="Longest wait for a user's membership in a decision.",
)
@click.option(
    "--person-max-age-s",
    default=DEFAULTS.person_max_age_s,
    type=click.IntRange(0),
    help="Age at which a copy of a user's membership and profile is read anew.",
)
@click.option(
    "--compare-every-ms",
    default=DEFAULTS.compare_every_ms,
    type=click.IntRange(10),
    help="How often revisions are compared with the store's.",
)
@click.option(
    "--keep-exposed-users",
    is_flag=True,
    default=DEFAULTS.keep_exposed_users,
    help="Keep who was served by a release, hashed, not only how many.",
)
@click.option(
    "--drain-s",
    default=DEFAULTS.drain_s,
    type=click.FloatRange(0),
    help="Longest wait for calls in progress at the end.",
)
@click.option(
    "--log-level",
    default=DEFAULTS.log_level,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="What is logged, as JSON lines on standard error.",
)
@click.option(
    "--override-key",
    default=DEFAULTS.override_key,
    help="Private key (PEM, Ed25519) that overrides are signed with, the same for every replica; "
    "empty: none are signed.",
)
@click.option(
    "--access-file",
    default=DEFAULTS.access_file,
    help="Whose tokens, certificates and JWTs are believed, and their roles (YAML); read again "
    "when it changes.",
)
@click.option(
    "--insecure",
    is_flag=True,
    default=DEFAULTS.insecure,
    help="Ask nobody for credentials; only where every address is loopback or unix.",
)
@click.option(
    "--tls-cert",
    default=DEFAULTS.tls_cert,
    help="Certificate (PEM) of both gRPC ports; read again when it changes.",
)
@click.option("--tls-key", default=DEFAULTS.tls_key, help="Its private key (PEM).")
@click.option(
    "--tls-client-ca",
    default=DEFAULTS.tls_client_ca,
    help="Authority (PEM) whose certificate every client must then have.",
)
@click.option(
    "--health-listen",
    default=DEFAULTS.health_listen,
    help="One more address (gRPC, without TLS) that answers health and nothing else.",
)
def main(**options: Any) -> None:
    """Decide where requests go: stable or canary."""
    settings = Settings(**options)
    canary_log.configure(settings.log_level)
    try:
        uvloop.run(_serve(settings))
    except BadSettings as error:
        raise click.UsageError(str(error)) from error


async def _serve(settings: Settings) -> None:
    log = structlog.get_logger()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if not settings.redis_url:
        log.warning("no --redis-url: policies are kept in memory and lost at the end")
    if settings.insecure:
        log.warning("--insecure: whoever reaches these addresses may do everything")
    async with running(settings) as addresses:
        log.info(
            "ready",
            decision=addresses.decision_address,
            admin=addresses.admin_address,
            metrics=addresses.metrics_address,
            **({"health": addresses.health_address} if addresses.health_address else {}),
        )
        await stop.wait()
        log.info("draining", up_to_s=settings.drain_s)
    log.info("stopped")


if __name__ == "__main__":
    main()
