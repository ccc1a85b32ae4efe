"""The whole product as processes: Redis, services, plugin server, two versions, gateway."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from canaryctl.signing_key import write_key

from dev_stack.gateways import GATEWAYS, Gateway, PluginServer, command
from dev_stack.processes import Process, alone_in

ROOT = Path(__file__).resolve().parents[2]
SERVICE_KEY = "yyc3-xy-api-service"
STABLE_UPSTREAM = "yyc3-xy-api"
CANARY_UPSTREAM = "canary.yyc3-xy-api"
STABLE, CANARY = "v1.2.3", "v1.3.0"
ANY_PORT = "127.0.0.1:0"


def declared(addresses: Mapping[str, str]) -> dict[str, Any]:
    """The gateway's file: kong/kong.yml with the two versions at ``addresses``."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "kong" / "kong.yml").read_text())
    document["upstreams"] = [
        {"name": name, "targets": [{"target": addresses[version]}]}
        for name, version in ((STABLE_UPSTREAM, STABLE), (CANARY_UPSTREAM, CANARY))
    ]
    return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to start and where it listens; port 0 is any free port."""

    run_dir: Path
    gateway: str = "dev"
    proxy_listen: str = ANY_PORT
    admin_listen: str = ANY_PORT
    decision_listen: str = ANY_PORT
    metrics_listen: str = ANY_PORT
    stable_listen: str = ANY_PORT
    canary_listen: str = ANY_PORT
    declare: Callable[[Mapping[str, str]], dict[str, Any]] = declared
    persistent: bool = False
    outcomes: str = "syslog"
    decider: str = "remote"
    controller: tuple[str, ...] | None = None
    """Options of the controller, if there is one."""


class Stack:
    """Starts everything in the order of need and stops it in the reverse order.

    There is one at a time in a run_dir: a second one would take its sockets and data. Each part can
    be stopped, killed and started again alone; it comes back on its address.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        run_dir = plan.run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        self.redis_socket = run_dir / "redis.sock"
        self.plugin_socket = run_dir / "plugin.sock"
        self.outcomes_socket = run_dir / "outcomes.sock"
        self.declarative = run_dir / "kong.yml"
        self.override_key = run_dir / "override.pem"
        self.decision_address = plan.decision_listen
        self.admin_address = plan.admin_listen
        self.metrics_address = plan.metrics_listen
        self.redis = self._redis()
        self.plugin: Process
        self.decision: Process
        self.controller: Process
        self.upstreams: dict[str, Process] = {}
        self.upstream_addresses = {STABLE: plan.stable_listen, CANARY: plan.canary_listen}
        self.gateway: Gateway = GATEWAYS[plan.gateway](
            run_dir,
            self.declarative,
            PluginServer(
                socket=self.plugin_socket,
                outcomes=plan.outcomes,
                outcomes_socket=self.outcomes_socket,
            ),
            plan.proxy_listen,
        )
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._exit.enter_context(alone_in(self.plan.run_dir))
            self.start_redis()
            self.start_decision_service()
            self.start_plugin_server()
            for version in (STABLE, CANARY):
                self.start_upstream(version)
            self.write_declarative()
            self._exit.callback(lambda: self.gateway.stop())
            self.gateway.start()
            if self.plan.controller is not None:
                self.start_controller()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exit.close()

    def start_redis(self) -> None:
        """Start Redis; what it kept is there again."""
        self._exit.callback(self.redis.stop)
        self.redis.start()

    def start_decision_service(self) -> None:
        """Start the decision service."""
        if not self.override_key.exists():
            write_key(str(self.override_key))
        self.decision = self._process(
            "decision-service",
            command(
                "decision_svc",
                "--insecure",
                "--listen",
                self.decision_address,
                "--admin-listen",
                self.admin_address,
                "--metrics-listen",
                self.metrics_address,
                "--redis-url",
                f"unix://{self.redis_socket}",
                "--override-key",
                str(self.override_key),
            ),
            '"ready"',
        )
        self._exit.callback(lambda: self.decision.stop())
        ready = json.loads(self.decision.start())
        self.decision_address = ready["decision"]
        self.admin_address = ready["admin"]
        self.metrics_address = ready["metrics"]

    def start_plugin_server(self) -> None:
        """Start the plugin server."""
        self.plugin = self._process(
            "plugin-server",
            command(
                "canary_plugin",
                "--socket",
                str(self.plugin_socket),
                "--decision-service",
                self.decision_address,
                "--decider",
                self.plan.decider,
                "--outcomes",
                self.plan.outcomes,
                "--outcomes-socket",
                str(self.outcomes_socket),
                "--metrics-listen",
                ANY_PORT,
            ),
            "ready socket=",
        )
        self._exit.callback(lambda: self.plugin.stop())
        self.plugin.start()

    def start_controller(self, *options: str) -> None:
        """Start the controller, with options besides the plan's."""
        self.controller = self._process(
            "controller",
            command(
                "canary_controller",
                "--admin",
                self.admin_address,
                "--metrics-listen",
                ANY_PORT,
                *(self.plan.controller or ()),
                *options,
            ),
            '"ready"',
        )
        self._exit.callback(lambda: self.controller.stop())
        self.controller.start()

    def start_upstream(self, version: str, *options: str) -> None:
        """Start a sample version of the service being released; ``options`` make it a bad one."""
        process = self._process(
            f"upstream-{version}",
            [
                *command("sample_upstream"),
                "--listen",
                self.upstream_addresses[version],
                "--version",
                version,
                *options,
            ],
            "ready ",
            {"PYTHONPATH": str(ROOT / "examples")},
        )
        self.upstreams[version] = process
        self._exit.callback(process.stop)
        self.upstream_addresses[version] = process.start().split()[1]

    def write_declarative(self) -> None:
        """Write the gateway's file: the plan's, with the versions' addresses filled in."""
        document = self.plan.declare(self.upstream_addresses)
        # Moved into place, for a gateway may be reading it.
        fresh = self.declarative.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(document, sort_keys=False))
        fresh.rename(self.declarative)

    def _redis(self) -> Process:
        server = shutil.which("redis-server")
        if server is None:
            raise RuntimeError("redis-server is missing: apt-get install redis-server")
        keep = "yes" if self.plan.persistent else "no"
        data = self.plan.run_dir / "redis"
        data.mkdir(exist_ok=True)
        return self._process(
            "redis",
            [
                server,
                "--port",
                "0",
                "--unixsocket",
                str(self.redis_socket),
                "--dir",
                str(data),
                "--appendonly",
                keep,
                "--save",
                "",
                "--daemonize",
                "no",
            ],
            "eady to accept connections",
        )

    def _process(
        self,
        name: str,
        arguments: list[str],
        ready_word: str,
        environment: dict[str, str] | None = None,
    ) -> Process:
        log = self.plan.run_dir / f"{name}.log"
        return Process(name, arguments, log, ready_word=ready_word, environment=environment)
