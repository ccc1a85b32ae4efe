"""canary-plugin-server: runs the plugin for Kong until SIGTERM; --dump is Kong's query command."""

from __future__ import annotations

import json
import os
import socket
import sys

import click

from canary_plugin.credentials import CredentialFiles, Credentials
from canary_plugin.listener import is_inherited

WARM_UP_S = 2.0
# Kong waits for a worker that replaces a dead one; a successor has time.
REPLACEMENT_WARM_UP_S = 0.5


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
@click.option(
    "--metrics-listen",
    default="127.0.0.1:9465",
    help="HOST:PORT where Prometheus asks; port 0 is any free one, '' is nowhere.",
)
@click.option("--token-file", default="", help="File with the token for the decision service.")
@click.option(
    "--tls-ca", default="", help="TLS: authority (PEM) that signed the service's certificate."
)
@click.option("--tls-cert", default="", help="TLS: our certificate (PEM).")
@click.option("--tls-key", default="", help="TLS: its private key (PEM).")
@click.option("--drain-s", default=5.0, help="Longest wait for requests at the end.")
@click.option(
    "--exit-with-parent", is_flag=True, help="End when the parent does: for Kong's start command."
)
@click.option(
    "--supervisor/--no-supervisor",
    default=True,
    help="Keep a worker running for ever, or be it.",
)
@click.option("--dump", is_flag=True, help="Print what Kong must know of the plugin, and end.")
@click.option("--worker", is_flag=True, hidden=True, help="Be a supervisor's worker.")
@click.option("--socket-fd", default=-1, hidden=True)
@click.option("--channel-fd", type=int, hidden=True)
@click.option("--predecessor-fd", type=int, hidden=True)
@click.option("--restarts", default=0, hidden=True)
def main(
    path: str | None,
    decision_service: str,
    decider: str,
    gateway: str,
    socket_mode: str,
    outcomes: str,
    outcomes_socket: str,
    metrics_listen: str,
    token_file: str,
    tls_ca: str,
    tls_cert: str,
    tls_key: str,
    drain_s: float,
    exit_with_parent: bool,
    supervisor: bool,
    dump: bool,
    worker: bool,
    socket_fd: int,
    channel_fd: int | None,
    predecessor_fd: int | None,
    restarts: int,
) -> None:
    """Run the Kong plugin canary-release."""
    # Imported where they are needed: neither Kong's query nor the supervisor should carry grpc.
    if dump:
        from canary_plugin.schema import plugin_info

        click.echo(json.dumps(plugin_info(is_logging=outcomes == "log")))
        return
    mode = int(socket_mode, 8)
    is_supervisor = supervisor and not worker
    if not path and not (is_supervisor and is_inherited(os.environ)):
        raise click.UsageError("give --socket PATH, the one that Kong's pluginserver setting names")
    shown = CredentialFiles(token=token_file, ca=tls_ca, certificate=tls_cert, key=tls_key)
    try:
        Credentials(shown)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if is_supervisor:
        from canary_plugin.supervisor import Supervisor, worker_command

        supervised = Supervisor(
            worker_command(sys.argv[1:]),
            path or "",
            mode,
            drain_s=drain_s,
            exit_with_parent=exit_with_parent,
        )
        sys.exit(supervised.run())
    assert path
    from canary_plugin.app import Settings
    from canary_plugin.worker import work

    settings = Settings(
        socket=path,
        decision_service=tuple(a.strip() for a in decision_service.split(",") if a.strip()),
        decider=decider,
        gateway=gateway,
        socket_mode=mode,
        outcomes=outcomes,
        outcomes_socket=outcomes_socket,
        metrics_listen=metrics_listen,
        drain_s=drain_s,
        socket_fd=socket_fd,
        restarts=restarts,
        credentials=shown,
        warm_up_s=REPLACEMENT_WARM_UP_S if restarts and predecessor_fd is None else WARM_UP_S,
    )
    work(settings, channel_fd, predecessor_fd)


if __name__ == "__main__":
    main()
