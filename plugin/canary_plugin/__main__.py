"""canary-plugin-server: runs the plugin for Kong until SIGTERM; --dump is Kong's query command."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys

import click
import uvloop

from canary_plugin.app import Settings, running
from canary_plugin.outcomes.receiver import warn_of_short_queue
from canary_plugin.schema import plugin_info

log = logging.getLogger("canary_plugin")


@click.command(context_settings={"auto_envvar_prefix": "CANARY_PLUGIN", "show_default": True})
@click.option("--socket", "path", envvar="CANARY_PLUGIN_SOCKET", help="Unix socket for Kong.")
@click.option(
    "--decision-service",
    default="127.0.0.1:50051",
    help="Addresses of the decision service, separated by commas; tried in turn.",
)
@click.option(
    "--decider",
    default="remote",
    type=click.Choice(["remote", "local"]),
    help="Ask the service for every decision, or decide here by its policies.",
)
@click.option("--gateway", default=socket.gethostname, help="Name of this gateway, for people.")
@click.option("--socket-mode", default="0660", help="Permissions of the socket, octal.")
@click.option(
    "--outcomes",
    default="syslog",
    type=click.Choice(["syslog", "log", "off"]),
    help="Hear of outcomes by nginx's access log, by Kong's log phase (--dump must say it too), or"
    " not at all.",
)
@click.option(
    "--outcomes-socket",
    default="",
    help="Unix datagram socket for nginx's access log.  [default: outcomes.sock beside --socket]",
)
@click.option("--drain-s", default=5.0, help="Longest wait for requests at the end.")
@click.option("--dump", is_flag=True, help="Print what Kong must know of the plugin, and end.")
def main(
    path: str | None,
    decision_service: str,
    decider: str,
    gateway: str,
    socket_mode: str,
    outcomes: str,
    outcomes_socket: str,
    drain_s: float,
    dump: bool,
) -> None:
    """Run the Kong plugin canary-release."""
    if dump:
        click.echo(json.dumps(plugin_info(is_logging=outcomes == "log")))
        return
    if not path:
        raise click.UsageError("give --socket PATH, the one that Kong's pluginserver setting names")
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    settings = Settings(
        socket=path,
        decision_service=tuple(a.strip() for a in decision_service.split(",") if a.strip()),
        decider=decider,
        gateway=gateway,
        socket_mode=int(socket_mode, 8),
        outcomes=outcomes,
        outcomes_socket=outcomes_socket,
        drain_s=drain_s,
    )
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings):
        log.info("ready socket=%s", settings.socket)
        if settings.outcomes == "syslog":
            warn_of_short_queue()
        await stop.wait()
        log.info("draining")
    log.info("stopped")


if __name__ == "__main__":
    main()
