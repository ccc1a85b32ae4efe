"""The command line: flags in, one listener, signals as Kong takes them."""

import asyncio
import ipaddress
import logging
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import uvloop

from dev_gateway.access_log import AccessLog
from dev_gateway.address import Network, is_ip, split_host_port
from dev_gateway.app import Gateway
from dev_gateway.errors import ConfigError, GatewayError
from dev_gateway.pdk.surroundings import NOTICE as NOTICE_LEVEL
from dev_gateway.proxy import LogHook, RealIp
from dev_gateway.settings import KONG_PATIENCE_S, Settings

NOTICE = (
    "canary-dev-gateway stands in for Kong 3.9.1 on a developer's machine: "
    "for development only, never for real traffic"
)


@click.command()
@click.option(
    "--declarative-config",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Kong's declarative file, YAML or JSON; read again on SIGHUP.",
)
@click.option(
    "--proxy-listen",
    default="127.0.0.1:8000",
    show_default=True,
    help="Address to listen on; port 0 takes a free one and prints it.",
)
@click.option(
    "--plugin-socket",
    type=click.Path(path_type=Path),
    help="Unix socket of the plugin process.",
)
@click.option("--plugin-query-cmd", help="Command that prints the plugin's description.")
@click.option(
    "--plugin-timeout-s",
    default=KONG_PATIENCE_S,
    show_default=True,
    help="How long a call to the plugin process may take.",
)
@click.option(
    "--trusted-ips",
    multiple=True,
    help="Addresses or networks whose forwarded headers are believed; repeat or use commas.",
)
@click.option(
    "--real-ip-header",
    default="X-Real-IP",
    show_default=True,
    help="Where a trusted peer says who the client is.",
)
@click.option(
    "--real-ip-recursive", is_flag=True, help="Skip trusted addresses in the header, too."
)
@click.option(
    "--resolve",
    multiple=True,
    metavar="HOST:IP[:PORT]",
    help="Address of a name, and another port for it if given; repeat for more.",
)
@click.option(
    "--access-log",
    metavar="SYSLOG",
    help="As nginx_proxy_access_log: 'syslog:server=unix:PATH,nohostname,tag=TAG NAME'.",
)
@click.option("--log-format", metavar="FORMAT", help="As nginx_http_log_format: \"NAME 'FORMAT'\".")
@click.option(
    "--drain-s", default=10.0, show_default=True, help="How long stopping waits for requests."
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
)
def main(
    declarative_config: Path,
    proxy_listen: str,
    plugin_socket: Path | None,
    plugin_query_cmd: str | None,
    plugin_timeout_s: float,
    trusted_ips: tuple[str, ...],
    real_ip_header: str,
    real_ip_recursive: bool,
    resolve: tuple[str, ...],
    access_log: str | None,
    log_format: str | None,
    drain_s: float,
    log_level: str,
) -> None:
    """A stand-in for Kong OSS 3.9.1 on a developer's machine. For development only."""
    if (plugin_socket is None) != (plugin_query_cmd is None):
        raise click.UsageError("--plugin-socket and --plugin-query-cmd go together")
    host, port = read_listen(proxy_listen)
    settings = Settings(
        declarative_config=declarative_config,
        host=host,
        port=port,
        plugin_socket=plugin_socket,
        plugin_query_command=plugin_query_cmd,
        plugin_patience_s=plugin_timeout_s,
        real_ip=RealIp(
            trusted=tuple(read_networks(trusted_ips)),
            header=real_ip_header,
            is_recursive=real_ip_recursive,
        ),
        resolve=dict(read_override(item) for item in resolve),
        drain_s=drain_s,
    )
    hooks = read_access_log(access_log, log_format)
    start_logging(log_level)
    sys.exit(uvloop.run(run(settings, hooks)))


def start_logging(level: str) -> None:
    logging.addLevelName(NOTICE_LEVEL, "NOTICE")
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s [%(levelname)s] %(name)s: %(message)s",
    )


def read_listen(given: str) -> tuple[str, int]:
    """The address in a flag like '127.0.0.1:8000'."""
    host, port = split_host_port(given)
    if port is None:
        raise click.BadParameter("expected HOST:PORT", param_hint="--proxy-listen")
    return host, port


def read_networks(given: Iterable[str]) -> Iterable[Network]:
    """The networks in flags like '10.0.0.0/8,127.0.0.1'."""
    for item in given:
        for part in item.split(","):
            try:
                yield ipaddress.ip_network(part.strip(), strict=False)
            except ValueError as fault:
                raise click.BadParameter(str(fault), param_hint="--trusted-ips") from fault


def read_override(given: str) -> tuple[str, tuple[str, int | None]]:
    """The name and its address in a flag like 'orders-v1:127.0.0.1:9102'."""
    name, _, address = given.partition(":")
    ip, port = split_host_port(address)
    if not name or not is_ip(ip):
        raise click.BadParameter(f"expected HOST:IP[:PORT], got '{given}'", param_hint="--resolve")
    return name, (ip, port)


def read_access_log(destination: str | None, log_format: str | None) -> list[LogHook]:
    """What writes the access log, if one is asked for."""
    if destination is None and log_format is None:
        return []
    try:
        return [AccessLog(destination or "", log_format or "")]
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--access-log, --log-format") from fault


async def run(settings: Settings, log_hooks: Sequence[LogHook] = ()) -> int:
    """Serve until told to stop; the exit status."""
    print(NOTICE, flush=True)
    gateway = Gateway(settings, log_hooks=log_hooks)
    try:
        await gateway.start()
    except ConfigError as refused:
        for complaint in refused.complaints:
            print(complaint, file=sys.stderr)
        return 1
    except (GatewayError, OSError) as fault:
        print(fault, file=sys.stderr)
        return 1
    print(f"ready on {settings.host}:{gateway.port}", flush=True)
    await _serve_until_stopped(gateway)
    return 0


async def _serve_until_stopped(gateway: Gateway) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    reloads: set[asyncio.Task[bool]] = set()

    def reload() -> None:
        task = loop.create_task(gateway.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await stopping.wait()
    await gateway.stop()


if __name__ == "__main__":
    main()
