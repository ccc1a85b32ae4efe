"""The gateway in front: the development gateway, or a real Kong from PATH."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from canary_plugin.outcomes.lines import LOG_FORMAT, access_log

from dev_stack.processes import NotReady, Process, wait_until

KONG_SERIES = "3.9"


def command(name: str, *arguments: str) -> list[str]:
    """One of this project's commands, run by this interpreter."""
    return [sys.executable, "-m", name, *arguments]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginServer:
    """What a gateway must know of the plugin server."""

    socket: Path
    outcomes: str
    """How it hears of outcomes: syslog, log (phase) or off."""
    outcomes_socket: Path

    @property
    def query_command(self) -> str:
        """The command that describes the plugin."""
        return shlex.join(command("canary_plugin", "--dump", "--outcomes", self.outcomes))

    @property
    def access_log(self) -> str:
        """Where the access log goes; "" if nobody listens."""
        return access_log(str(self.outcomes_socket)) if self.outcomes == "syslog" else ""


class Gateway(Protocol):
    """What the stack needs of a gateway."""

    name: str
    address: str

    def start(self) -> None:
        """Start it and wait until it serves. Raises NotReady."""
        ...

    def reload(self) -> None:
        """Read the declarative file again."""
        ...

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        ...

    def kill(self) -> None:
        """End it without notice and wait until it is gone."""
        ...

    def log(self) -> str:
        """What it has logged since it was started."""
        ...


class DevGateway:
    """The development gateway."""

    name = "dev"

    def __init__(self, run_dir: Path, declarative: Path, plugin: PluginServer, listen: str) -> None:
        self.address = listen
        self._run_dir = run_dir
        self._arguments = (
            *_access_log_flags(plugin),
            "--declarative-config", str(declarative),
            "--plugin-socket", str(plugin.socket),
            "--plugin-query-cmd", plugin.query_command,
            "--trusted-ips", "127.0.0.1",
            "--real-ip-header", "X-Forwarded-For",
        )  # fmt: skip
        self._process: Process | None = None

    def start(self) -> None:
        listen = ("--proxy-listen", self.address)
        self._process = Process(
            "gateway",
            command("dev_gateway", *self._arguments, *listen),
            self._run_dir / "gateway.log",
            ready_word="ready on ",
        )
        self.address = self._process.start().rpartition(" ")[2]

    def reload(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGHUP)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def log(self) -> str:
        return self._process.output() if self._process else ""


def _access_log_flags(plugin: PluginServer) -> tuple[str, ...]:
    if not plugin.access_log:
        return ()
    return ("--access-log", plugin.access_log, "--log-format", LOG_FORMAT)


class NoKong(RuntimeError):  # noqa: N818 - it says what is the matter
    """There is no Kong of the right series on PATH."""


def find_kong() -> str:
    """Path of the ``kong`` on PATH. Raises NoKong, saying what to do."""
    found = shutil.which("kong")
    if found is None:
        raise NoKong(f"no kong on PATH: install Kong Gateway {KONG_SERIES} and put it there")
    answer = subprocess.run([found, "version"], capture_output=True, text=True, check=False)
    version = answer.stdout.strip()
    if not version.startswith(KONG_SERIES):
        raise NoKong(f"{found} is {version or 'silent about its version'}, not {KONG_SERIES}")
    return found


class RealKong:
    """A real Kong, DB-less, in a prefix of its own."""

    name = "kong"

    def __init__(self, run_dir: Path, declarative: Path, plugin: PluginServer, listen: str) -> None:
        self._kong = find_kong()
        self._prefix = run_dir / "kong"
        host, _, port = listen.rpartition(":")
        self.address = listen if port != "0" else f"{host}:{_free_port(host)}"
        self._environment = {
            "KONG_PREFIX": str(self._prefix),
            "KONG_DATABASE": "off",
            "KONG_DECLARATIVE_CONFIG": str(declarative),
            "KONG_PROXY_LISTEN": self.address,
            "KONG_ADMIN_LISTEN": "off",
            "KONG_ADMIN_GUI_LISTEN": "off",
            "KONG_STATUS_LISTEN": "off",
            "KONG_NGINX_WORKER_PROCESSES": "1",
            "KONG_ANONYMOUS_REPORTS": "off",
            "KONG_TRUSTED_IPS": "127.0.0.1",
            "KONG_REAL_IP_HEADER": "X-Forwarded-For",
            "KONG_PROXY_ACCESS_LOG": "off",
            "KONG_PLUGINS": "bundled,canary-release",
            "KONG_PLUGINSERVER_NAMES": "canary",
            "KONG_PLUGINSERVER_CANARY_SOCKET": str(plugin.socket),
            "KONG_PLUGINSERVER_CANARY_QUERY_CMD": plugin.query_command,
            "KONG_LOG_LEVEL": "notice",
        }
        if plugin.access_log:
            self._environment["KONG_NGINX_HTTP_LOG_FORMAT"] = LOG_FORMAT
            # "off" would switch off the other log too.
            self._environment["KONG_PROXY_ACCESS_LOG"] = plugin.access_log
        if os.geteuid() == 0:
            # Workers as nobody could not open the plugin server's socket.
            self._environment["KONG_NGINX_USER"] = "root root"

    def start_plugin_server_by(self, command: str) -> None:
        """From the next start on, Kong starts the plugin server itself."""
        self._environment["KONG_PLUGINSERVER_CANARY_START_CMD"] = command

    def start(self) -> None:
        self._run("start")
        host, _, port = self.address.rpartition(":")
        wait_until(lambda: _answers(host, int(port)), 30, "kong")

    def reload(self) -> None:
        self._run("reload")

    def stop(self) -> None:
        if (self._prefix / "pids" / "nginx.pid").exists():
            self._run("stop")

    def kill(self) -> None:
        """Kong's master and workers share a process group of the master's session."""
        pid_file = self._prefix / "pids" / "nginx.pid"
        pid = int(pid_file.read_text())
        workers = _children(pid)
        for victim in (pid, *workers):
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not any(map(_exists, (pid, *workers))), 15, "kong's end")
        pid_file.unlink()

    def log(self) -> str:
        return (self._prefix / "logs" / "error.log").read_text(errors="replace")

    def _run(self, verb: str) -> None:
        done = subprocess.run(
            [self._kong, verb, "-p", str(self._prefix)],
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotReady(f"kong {verb} failed:\n{done.stdout}\n{done.stderr}")


GATEWAYS: dict[str, type[DevGateway] | type[RealKong]] = {"dev": DevGateway, "kong": RealKong}


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


def _exists(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
