"""canary-controller: moves releases along their plans; several may run, one acts."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Mapping
from typing import Any

import canary_log
import click
import structlog
import uvloop

from canary_controller.app import assembled, run
from canary_controller.errors import BadSettings
from canary_controller.settings import Settings

DEFAULTS = Settings()
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod finds what its service account is known by."""


class Length(click.ParamType[float]):
    """A length of time in seconds, with or without its unit: 1s, 0.5s, 2."""

    name = "length"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number of seconds."""
        try:
            seconds = float(str(value).removesuffix("s"))
        except ValueError:
            self.fail(f"{value!r} is no length of time; write it like 1s", param, ctx)
        if not 0.05 <= seconds <= 60:
            self.fail("give 0.05s to 60s", param, ctx)
        return seconds


def cluster_of(environment: Mapping[str, str]) -> str:
    """The API server that a pod is told of; "" outside of a cluster."""
    host, port = (environment.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
    shown = f"[{host}]" if ":" in host else host
    return f"https://{shown}:{port or 443}" if host else ""


@click.command(context_settings={"auto_envvar_prefix": "CANARY_CONTROLLER"})
@click.option(
    "--admin",
    default=DEFAULTS.admin,
    help="Admin API of the decision service, host:port or unix:PATH.",
)
@click.option(
    "--holder",
    default=lambda: f"{socket.gethostname()}-{os.getpid()}",
    show_default="host and pid",
    help="Name of this controller; each of several needs its own.",
)
@click.option(
    "--look-every",
    "look_every_s",
    default="1s",
    type=Length(),
    help="How often every release is looked at.",
)
@click.option(
    "--lease-s",
    default=DEFAULTS.lease_s,
    type=click.IntRange(2, 300),
    help="After so many seconds another may go on when this one is gone.",
)
@click.option(
    "--call-deadline-ms",
    default=DEFAULTS.call_deadline_ms,
    type=click.IntRange(1),
    help="Longest wait for the admin API.",
)
@click.option("--token-file", default="", help="Token shown to the admin API; read at each call.")
@click.option("--tls-ca", default="", help="Authority (PEM) of the admin API's certificate.")
@click.option("--tls-cert", default="", help="Certificate (PEM) shown to the admin API.")
@click.option("--tls-key", default="", help="Its private key (PEM).")
@click.option(
    "--prometheus-url", default="", help="Server that answers the queries of plans; empty: none."
)
@click.option("--notify-file", default="", help="Channels over which people are told (YAML).")
@click.option(
    "--webhook-secret-file", default="", help="Secret that webhooks are signed with; empty: none."
)
@click.option("--reports-dir", default="", help="Where reports of releases that ended are kept.")
@click.option(
    "--istio-file", default="", help="Meshes that follow their releases (YAML); empty: none."
)
@click.option(
    "--kubernetes-url",
    default=lambda: cluster_of(os.environ),
    show_default="the pod's own cluster",
    help="API server that has the meshes' routes.",
)
@click.option(
    "--kubernetes-token-file",
    default=f"{SERVICE_ACCOUNT}/token",
    show_default=True,
    help="Token shown to it, read at each call; empty: none.",
)
@click.option(
    "--kubernetes-ca-file",
    default=f"{SERVICE_ACCOUNT}/ca.crt",
    show_default=True,
    help="Authority (PEM) of its certificate.",
)
@click.option(
    "--metrics-listen", default=DEFAULTS.metrics_listen, help="Address for Prometheus (HTTP)."
)
@click.option("--health-listen", default="", help="Address that answers health (gRPC).")
@click.option(
    "--log-level",
    default=DEFAULTS.log_level,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="What is logged, as JSON lines on standard error.",
)
def main(**options: Any) -> None:
    """Move releases along their plans: look, judge, step, tell people."""
    settings = Settings(**options)
    canary_log.configure(settings.log_level)
    collect_rarely()
    try:
        uvloop.run(_serve(settings))
    except BadSettings as error:
        raise click.UsageError(str(error)) from error


def collect_rarely() -> None:
    """Look for cycles a hundred times less often: a tick makes many values and hardly any of those.

    With a thousand releases this took a tenth of every tick.
    """
    gc.set_threshold(70_000, 20, 20)


async def _serve(settings: Settings) -> None:
    log = structlog.get_logger()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with assembled(settings) as running:
        log.info(
            "ready",
            holder=settings.holder,
            admin=settings.admin,
            metrics=running.metrics_address,
            **({"health": running.health.address} if running.health.address else {}),
        )
        await run(running, stop)
    log.info("stopped")


if __name__ == "__main__":
    main()
