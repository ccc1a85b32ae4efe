"""Runs containers of a manifest as processes of this machine, and asks their probes.

What a container would have to itself, its paths and its ports, has a place here instead: each
mounted volume is a folder, each port a free one of the loopback interface, and every Service is
this machine. Everything else is as the manifest and the image's recipe say.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.manifests import PROGRAMS, Object, Pods, dockerfile, environment, of_kind, pods, secret
from support.redis_server import free_port

PATIENCE_S = 90.0
POLL_S = 0.02
BIN = Path(sys.executable).parent


class Node:
    """Where the pods of an overlay run; ended with everything it started."""

    def __init__(
        self, overlay: str, secrets: Mapping[str, Mapping[str, bytes]] | None = None
    ) -> None:
        self.overlay, self._secrets = overlay, secrets or {}
        # The path of a unix socket holds 107 bytes, which a test's own directory exceeds.
        self._folder = Path(tempfile.mkdtemp(prefix="node"))
        self._ports: dict[int, int] = {}
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def port(self, number: int) -> int:
        """What a port of a container is here."""
        return self._ports.setdefault(number, free_port())

    def run(self, workload: str, name: str) -> Container:
        """Start a container, and end it with the node unless it was ended before."""
        found = pods(self.overlay)[workload]
        container = Container(self, found, found.container(name))
        self._stack.enter_context(container.running())
        return container

    def mounts(self, found: Pods, container: Object) -> dict[str, Path]:
        """The folders of a container's volumes, filled with what the cluster would put there."""
        return {
            mount["mountPath"]: self._volume(found, mount["name"])
            for mount in container.get("volumeMounts", [])
            if mount["mountPath"] != "/tmp"
        }

    def _volume(self, found: Pods, name: str) -> Path:
        folder = self._folder / found.name / name
        folder.mkdir(parents=True, exist_ok=True)
        volumes: list[Object] = found.spec.get("volumes", [])
        volume = next((v for v in volumes if v["name"] == name), {})
        if "configMap" in volume:
            data = of_kind(self.overlay, "ConfigMap")[volume["configMap"]["name"]]["data"]
            for key, text in data.items():
                (folder / key).write_text(text)
        if "secret" in volume:
            shown = {item["key"] for item in volume["secret"].get("items", [])}
            for key, value in self.secret(volume["secret"]["secretName"]).items():
                if not shown or key in shown:
                    (folder / key).write_bytes(value)
        return folder

    def secret(self, name: str) -> Mapping[str, bytes]:
        """A Secret of the overlay, or of those that are given in place of a cluster's."""
        return self._secrets[name] if name in self._secrets else secret(self.overlay, name)

    def here(self, text: str, container: Object, mounts: Mapping[str, Path]) -> str:
        """A setting with its paths, ports and hosts as they are on this machine."""
        for path, folder in mounts.items():
            text = re.sub(re.escape(path) + r"(?![\w-])", str(folder), text)
        numbers = {p["containerPort"] for p in container.get("ports", [])}
        for service in of_kind(self.overlay, "Service").values():
            host = service["metadata"]["name"]
            text, asked = re.subn(rf"(?<![\w-]){host}:(?=\d)", "127.0.0.1:", text)
            numbers |= {p["port"] for p in service["spec"]["ports"]} if asked else set()
        for number in numbers:
            text = re.sub(rf"(?<!\d){number}(?!\d)", str(self.port(number)), text)
        return text.replace("0.0.0.0", "127.0.0.1")


class Container:
    """One container's process."""

    def __init__(self, node: Node, found: Pods, container: Object) -> None:
        self._node, self._manifest = node, container
        mounts = node.mounts(found, container)
        self.here: Callable[[str], str] = lambda text: node.here(text, container, mounts)
        """A text with the container's paths, ports and hosts as they are on this machine."""
        told = environment(node.overlay, container)
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            if reference := source.get("secretKeyRef"):
                told[variable["name"]] = node.secret(reference["name"])[reference["key"]].decode()
            if source.get("fieldRef") == {"fieldPath": "metadata.name"}:
                told[variable["name"]] = f"{found.name}-0"
        self.environment = {name: self.here(value) for name, value in told.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """The process, ended at the end."""
        path = f"{BIN}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            self._command(),
            env={**os.environ, **self.environment, "PATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        """End it as the kubelet does; no effect if it has ended."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()

    def _command(self) -> list[str]:
        manifest = self._manifest
        command: list[str] = manifest.get("command") or _entrypoint(manifest)
        words = [_expanded(word, self.environment) for word in manifest.get("args", [])]
        program, *more = [*command, *words]
        found = shutil.which(program, path=f"{BIN}:{os.environ['PATH']}")
        assert found, f"{program} is not here"
        return [found, *(self.here(word) for word in more)]

    def succeeds(self, kind: str) -> bool:
        """Ask one of its probes, once. It is given up no sooner than this machine, which may be
        busy, would need.
        """
        probe = self._manifest[kind]
        (way,) = probe.keys() & _WAYS.keys()
        return _WAYS[way](self, probe[way], max(float(probe.get("timeoutSeconds", 1)), PATIENCE_S))

    def wait_for(self, kind: str) -> None:
        """Ask one of its probes until it succeeds; fails if that takes too long, or it ends."""
        self._wait(lambda: self.succeeds(kind), kind)

    def wait_for_metric(self, line: str) -> None:
        """Read its metrics until they have this line; fails likewise."""
        self._wait(lambda: line in self._metrics().splitlines(), line)

    def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert self._process.poll() is None, f"it ended with {self._process.returncode}"
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:g} s"
            time.sleep(POLL_S)

    def _metrics(self) -> str:
        address = f"http://127.0.0.1:{self.port('metrics')}/metrics"
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            text: bytes = answer.read()
        return text.decode()

    def port(self, port: int | str) -> int:
        """What a port, by name or number, is here."""
        named = {p["name"]: p["containerPort"] for p in self._manifest["ports"]}
        return self._node.port(named.get(port, port))

    def by_http(self, asked: Mapping[str, Any], timeout_s: float) -> bool:
        """Whether a page is answered with a status below 400."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(asked["port"]), timeout_s)
        try:
            connection.request("GET", asked["path"])
            return 200 <= connection.getresponse().status < 400
        except OSError:
            return False
        finally:
            connection.close()

    def by_grpc(self, asked: Mapping[str, Any], timeout_s: float) -> bool:
        """Whether gRPC health says SERVING."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port(asked['port'])}") as channel:
            request = health_pb2.HealthCheckRequest(service=asked.get("service", ""))
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def by_tcp(self, asked: Mapping[str, Any], timeout_s: float) -> bool:
        """Whether a connection is taken."""
        try:
            socket.create_connection(("127.0.0.1", self.port(asked["port"])), timeout_s).close()
        except OSError:
            return False
        return True

    def by_command(self, asked: Mapping[str, Any], timeout_s: float) -> bool:
        """Whether a command ends well."""
        command = [self.here(word) for word in asked["command"]]
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment, "PATH": f"{BIN}:{os.environ['PATH']}"},
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        return done.returncode == 0


_WAYS: dict[str, Callable[[Container, Mapping[str, Any], float], bool]] = {
    "httpGet": Container.by_http,
    "grpc": Container.by_grpc,
    "tcpSocket": Container.by_tcp,
    "exec": Container.by_command,
}


def _entrypoint(container: Object) -> list[str]:
    lines = dockerfile(container["image"]).splitlines()
    for line in (line for line in lines if line.startswith("ENTRYPOINT ")):
        found: list[str] = json.loads(line.removeprefix("ENTRYPOINT "))
        return found
    return [PROGRAMS[container["name"]]]


def _expanded(word: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), word)
