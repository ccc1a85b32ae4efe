"""Gateways before the same upstream, each with another plugin or none, and load on them by wrk."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from dev_stack.gateways import DevGateway, Gateway, NoKong, PluginServer, RealKong, find_kong
from dev_stack.processes import Process

from harness.policies import SERVICE_KEY
from harness.servers import EMPTY_PLUGIN, PDK_SERVER, outcomes_socket
from harness.service import BASELINES

SCRIPT = Path(__file__).with_name("visitors.lua")


class EmptyPlugin(PluginServer):
    """kong-pdk's server, as a gateway knows it."""

    @property
    def query_command(self) -> str:
        """The command that describes the plugin."""
        folder = str(EMPTY_PLUGIN)
        return shlex.join([PDK_SERVER, "-d", folder, "-p", folder, "--dump-all-plugins"])


def gateway_kind() -> type[DevGateway] | type[RealKong]:
    """A real Kong if there is one on PATH."""
    try:
        find_kong()
    except NoKong:
        return DevGateway
    return RealKong


@contextmanager
def upstream(run_dir: Path) -> Iterator[str]:
    """The upstream; its address."""
    command = [sys.executable, str(BASELINES / "upstream.py")]
    process = Process("upstream", command, run_dir / "upstream.log", ready_word="ready ")
    address = process.start().split()[1]
    try:
        yield address
    finally:
        process.stop()


@contextmanager
def gateway(
    run_dir: Path, upstream_address: str, server: PluginServer, plugin: str
) -> Iterator[Gateway]:
    """A gateway whose only route has the plugin of that name, or none."""
    run_dir.mkdir()
    declarative = run_dir / "kong.yml"
    declarative.write_text(yaml.safe_dump(_declared(upstream_address, plugin)))
    kind = gateway_kind()
    started = kind(run_dir, declarative, server, "127.0.0.1:0")
    if isinstance(started, RealKong):
        started._environment["KONG_PLUGINS"] = f"bundled,{plugin or 'empty'}"
        # wrk speaks to few connections for long.
        started._environment["KONG_NGINX_HTTP_KEEPALIVE_REQUESTS"] = "1000000"
    started.start()
    try:
        yield started
    finally:
        started.stop()


def _declared(upstream_address: str, plugin: str) -> dict[str, Any]:
    targets = [{"target": upstream_address}]
    config = {"service_key": SERVICE_KEY} if plugin == "canary-release" else {}
    return {
        "_format_version": "3.0",
        "services": [{"name": "shop", "url": "http://shop-v1:80"}],
        "routes": [{"name": "shop", "service": "shop", "paths": ["/"]}],
        "upstreams": [{"name": name, "targets": targets} for name in ("shop-v1", "shop-v2")],
        "plugins": [{"name": plugin, "route": "shop", "config": config}] if plugin else [],
    }


def known(kind: type[PluginServer], path: Path, outcomes: str = "off") -> PluginServer:
    """What a gateway must know of the plugin server at ``path``."""
    return kind(socket=path, outcomes=outcomes, outcomes_socket=outcomes_socket(path))


def has_wrk() -> bool:
    """Whether load can be made."""
    return shutil.which("wrk") is not None


def load(address: str, connections: int, seconds: int) -> float:
    """Requests a second, by wrk. Raises SystemExit if a response is no 200."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT)]
    done = subprocess.run(
        [*command, f"http://{address}/"], capture_output=True, text=True, check=True
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if rate is None or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"requests failed:\n{done.stdout}")
    return float(rate[1])
