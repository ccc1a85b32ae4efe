"""The gateway as a process, next to a plugin process of the real kong-pdk."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.gateway import echo, named, upstream
from support.raw_http import fetch
from support.scripted_plugin import PLUGIN, Script, Server, query_command

START_S = 30

PLUGIN_SOURCE = """
Schema = [
    {"percentage": {"type": "number", "required": True, "between": [0, 100], "default": 5}},
    {"header": {"type": "string", "default": "x-canary-test"}},
]
version = "0.1.0"
priority = 850


class Plugin:
    def __init__(self, config):
        self.config = config

    def access(self, kong):
        headers, _ = kong.request.get_headers()
        kong.service.request.set_headers({"x-canary-percentage": str(self.config["percentage"])})
        kong.ctx.shared.set("seen", True)
        if self.config["header"] in headers:
            done, _ = kong.service.set_upstream("canary-upstream")
            kong.response.set_header("X-Set-Upstream", str(done))

    def log(self, kong):
        status, _ = kong.response.get_status()
        seen, _ = kong.ctx.shared.get("seen")
        kong.log.warn("log phase: ", status, " ", seen)
"""


class Process:
    """A child whose output lines can be waited for."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.lines: list[str] = []

    async def line_with(self, words: str) -> str:
        assert self.child.stdout is not None
        async with asyncio.timeout(START_S):
            while data := await self.child.stdout.readline():
                self.lines.append(data.decode().rstrip())
                if words in self.lines[-1]:
                    return self.lines[-1]
        raise AssertionError(f"never said '{words}': {self.lines}")

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.child.returncode is None:
            self.child.send_signal(number)
        await self.child.communicate()
        assert self.child.returncode is not None
        return self.child.returncode


@asynccontextmanager
async def process(*command: str) -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    running = Process(child)
    try:
        yield running
    finally:
        await running.end()


def gateway_command(path: Path, *more: str) -> Sequence[str]:
    return (
        sys.executable, "-m", "dev_gateway", "--proxy-listen", "127.0.0.1:0",
        "--declarative-config", str(path), *more,
    )  # fmt: skip


def write(path: Path, document: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps({"_format_version": "3.0", **document}))
    return path


def one_service(url: str, percentage: int, canary_port: int) -> dict[str, Any]:
    return {
        "services": [{"name": "s", "url": url, "routes": [{"name": "r", "paths": ["/"]}]}],
        "upstreams": [
            {"name": "canary-upstream", "targets": [{"target": f"127.0.0.1:{canary_port}"}]}
        ],
        "plugins": [{"name": PLUGIN, "config": {"percentage": percentage}}],
    }


async def ready_port(running: Process) -> int:
    return int((await running.line_with("ready on")).rpartition(":")[2])


@pytest.mark.parametrize("mode", [(), ("--gevent",)])
async def test_a_real_kong_pdk_plugin_works_and_signals_reload_and_stop(
    tmp_path: Path, mode: tuple[str, ...]
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / f"{PLUGIN}.py").write_text(PLUGIN_SOURCE)
    pdk = (sys.executable, "-c", "from kong_pdk.cli import start_server; start_server()")
    server = (*pdk, "-d", str(plugins), "-p", str(tmp_path), "--socket-name", "plugin.sock", "-vv")
    dump = tmp_path / "dump"
    dump.write_text(
        f"#!{sys.executable}\nimport sys\nfrom kong_pdk.cli import start_server\n"
        f"sys.argv = ['dump', '-d', {str(plugins)!r}, '--dump-all-plugins']\nstart_server()\n"
    )
    dump.chmod(0o755)
    async with (
        upstream(named("stable")) as stable,
        upstream(named("canary")) as canary,
        process(*server, *mode) as plugin,
    ):
        await plugin.line_with("started at path")
        path = write(tmp_path / "kong.yml", one_service("http://orders-v1", 5, canary))
        command = gateway_command(
            path,
            "--plugin-socket", str(tmp_path / "plugin.sock"),
            "--plugin-query-cmd", str(dump),
            "--resolve", f"orders-v1:127.0.0.1:{stable}",
        )  # fmt: skip
        async with process(*command) as running:
            port = await ready_port(running)
            plain = await fetch(port, "/")
            chosen = await fetch(port, "/", headers=[("X-Canary-Test", "true")])
            logged = await running.line_with("log phase: ")

            write(path, one_service("http://orders-v1", 25, canary))
            running.child.send_signal(signal.SIGHUP)
            await running.line_with("reloaded")
            reloaded = await fetch(port, "/")

            path.write_text("services: [")
            running.child.send_signal(signal.SIGHUP)
            await running.line_with("reload refused, the old configuration stays")
            kept = await fetch(port, "/")
            status = await running.end()
    assert "for development only" in running.lines[0]
    assert logged.endswith("log phase: 200 True")
    assert plain.echoed("x-canary-percentage") == ["5"]
    assert (plain.one("X-Served-By"), plain.all("X-Set-Upstream")) == ("stable", [])
    assert (chosen.one("X-Served-By"), chosen.one("X-Set-Upstream")) == ("canary", "True")
    assert [reply.echoed("x-canary-percentage") for reply in (reloaded, kept)] == [["25"], ["25"]]
    assert status == 0


async def test_everything_wrong_in_a_file_is_said_at_once_and_nothing_starts(
    tmp_path: Path,
) -> None:
    route = {"paths": ["/a"], "methodz": ["GET"], "snis": ["x"]}
    document = {
        "services": [{"name": "s", "url": "http://up.test", "retries": "5", "routes": [{}, route]}],
        "plugins": [{"name": "rate-limiting"}, {"name": PLUGIN, "config": {"percentage": 101}}],
        "certificates": [],
    }
    path = write(tmp_path / "kong.yml", document)
    query = ("--plugin-socket", "unused.sock", "--plugin-query-cmd", query_command(tmp_path))
    async with process(*gateway_command(path, *query)) as running:
        output, _ = await running.child.communicate()
    said = output.decode()
    for complaint in (
        "services[0].retries: expected an integer",
        "services[0].routes[1].methodz: unknown field",
        "services[0].routes[1].snis: not honoured by the development gateway",
        "plugins[0].name: plugin 'rate-limiting' not enabled",
        "plugins[1].config.percentage: value should be between 0 and 100",
        "certificates: not honoured by the development gateway",
    ):
        assert complaint in said
    assert running.child.returncode == 1
    assert "ready" not in said


async def test_sigterm_lets_the_request_under_way_finish(tmp_path: Path) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request: Any) -> Any:
        arrived.set()
        await go_on.wait()
        return await echo(request)

    script = Script(access=[("kong.request.get_method", [])])
    async with upstream(handle) as port, Server(tmp_path / "plugin.sock", script.respond):
        path = write(tmp_path / "kong.yml", one_service(f"http://127.0.0.1:{port}", 5, port))
        query = ("--plugin-query-cmd", query_command(tmp_path))
        socket = ("--plugin-socket", str(tmp_path / "plugin.sock"))
        async with process(*gateway_command(path, *socket, *query)) as running:
            listening = await ready_port(running)
            asking = asyncio.create_task(fetch(listening, "/"))
            await arrived.wait()
            running.child.send_signal(signal.SIGTERM)
            go_on.set()
            reply = await asking
            await running.child.communicate()
    assert reply.status == 200
    assert running.child.returncode == 0
    assert script.results["access"] == ["GET"]
