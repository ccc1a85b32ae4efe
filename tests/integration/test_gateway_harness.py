"""What the gateway's integration tests share: a scripted plugin server, upstreams, raw HTTP."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgpack
from aiohttp import web
from dev_gateway.app import Gateway
from dev_gateway.settings import Settings

WAIT_S = 10
PLUGIN = "canary-release"

PdkCall = tuple[str, list[Any]]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class FaultError(Exception):
    """An error that the plugin server answers with."""


class Server:
    """A unix-socket MessagePack-RPC server; `respond` gives the result of each call."""

    def __init__(self, path: Path, respond: Callable[[str, Any], Any]) -> None:
        self.path = path
        self.calls: list[list[Any]] = []
        self.connections: list[int] = []
        self._respond = respond
        self._writers: set[asyncio.StreamWriter] = set()
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._progress = asyncio.Condition()

    async def __aenter__(self) -> "Server":
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._talk, str(self.path))
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        self.path.unlink(missing_ok=True)

    async def seen(self, count: int) -> None:
        """Return when so many calls were answered."""
        async with asyncio.timeout(WAIT_S), self._progress:
            await self._progress.wait_for(lambda: len(self.calls) >= count)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        number = next(self._numbers)
        unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape")
        try:
            while data := await reader.read(65536):
                unpacker.feed(data)
                for message in unpacker:
                    writer.write(msgpack.packb(await self._answer(message, number)))
        except ConnectionError:
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, message: Any, connection: int) -> list[Any]:
        _, message_id, method, (argument,) = message
        answer: list[Any]
        try:
            result = self._respond(method, argument)
            if isinstance(result, Awaitable):
                result = await result
            answer = [1, message_id, None, result]
        except FaultError as fault:
            answer = [1, message_id, str(fault), None]
        async with self._progress:
            self.calls.append(message)
            self.connections.append(connection)
            self._progress.notify_all()
        return answer


@dataclass
class Script:
    """A plugin whose phases make a fixed list of PDK calls and remember what came back."""

    access: Sequence[PdkCall] = ()
    log: Sequence[PdkCall] = ()
    first_id: int = 0
    configs: list[dict[str, Any]] = field(default_factory=list)
    started: dict[int, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, list[Any]] = field(default_factory=lambda: {"access": [], "log": []})
    steps: list[str] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    _running: dict[int, tuple[str, int]] = field(default_factory=dict)

    def respond(self, method: str, argument: Any) -> Any:
        if method == "plugin.StartInstance":
            config = json.loads(argument["Config"])
            self.configs.append(config)
            instance_id = self.first_id + len(self.configs) - 1
            self.started[instance_id] = config
            return {"Name": argument["Name"], "Id": instance_id, "Config": config}
        if method == "plugin.HandleEvent":
            if argument["InstanceId"] not in self.started:
                raise FaultError(f"no plugin instance #{argument['InstanceId']}")
            event_id = len(self.events)
            self.events.append((argument["InstanceId"], argument["EventName"]))
            self._running[event_id] = (argument["EventName"], 0)
            return self._next(event_id)
        self.steps.append(method)
        event_id = argument["EventId"]
        phase, position = self._running[event_id]
        self.results[phase].append(argument.get("Data"))
        self._running[event_id] = (phase, position + 1)
        return self._next(event_id)

    def _next(self, event_id: int) -> dict[str, Any]:
        phase, position = self._running[event_id]
        calls = self.access if phase == "access" else self.log
        if position == len(calls):
            return {"Data": "ret", "EventId": event_id}
        method, args = calls[position]
        return {"Data": {"Method": method, "Args": args}, "EventId": event_id}


DEFAULT_FIELDS: list[dict[str, Any]] = [
    {"percentage": {"type": "number", "between": [0, 100], "default": 5}}
]


def query_command(
    tmp_path: Path,
    fields: Sequence[Mapping[str, Any]] = DEFAULT_FIELDS,
    phases: Sequence[str] = ("access", "log"),
    priority: int = 850,
) -> str:
    """A command that prints a plugin's description as kong-pdk does."""
    info = {
        "Name": PLUGIN,
        "Phases": list(phases),
        "Priority": priority,
        "Version": "0.1.0",
        "Schema": {
            "name": PLUGIN,
            "fields": [{"config": {"type": "record", "fields": list(fields)}}],
        },
    }
    path = tmp_path / "plugin-info.json"
    path.write_text(json.dumps([info]))
    return f"cat {path}"


def settings(tmp_path: Path, document: Mapping[str, Any], **more: Any) -> Settings:
    path = tmp_path / "kong.yml"
    path.write_text(json.dumps({"_format_version": "3.0", **document}))
    if "plugin_query_command" not in more:
        more["plugin_query_command"] = query_command(tmp_path)
    more.setdefault("plugin_socket", tmp_path / "plugin.sock")
    return Settings(declarative_config=path, **more)


@asynccontextmanager
async def gateway(
    tmp_path: Path, document: Mapping[str, Any], **more: Any
) -> AsyncIterator[Gateway]:
    running = Gateway(settings(tmp_path, document, **more))
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


@asynccontextmanager
async def upstream(handler: Handler) -> AsyncIterator[int]:
    """An HTTP server in this process; its port."""
    server = web.Server(handler)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield int(listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        await server.shutdown(timeout=0.01)


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """Says what arrived."""
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": [[name, value] for name, value in request.headers.items()],
            "body": body.decode("latin-1"),
        }
    )


@dataclass(frozen=True)
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known.lower() == name.lower()]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    def json(self) -> Any:
        return json.loads(self.body)

    def echoed(self, name: str) -> list[str]:
        """The values of a header as the echoing upstream got them."""
        pairs = cast(list[list[str]], self.json()["headers"])
        return [value for known, value in pairs if known.lower() == name.lower()]


async def fetch(
    port: int,
    target: str = "/",
    *,
    method: str = "GET",
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    host: str = "gateway.test",
) -> Reply:
    """One request on a connection of its own, bytes as given (latin-1)."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return await send(port, "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)


async def send(port: int, data: bytes) -> Reply:
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            return await read_reply(reader, is_head=data.startswith(b"HEAD "))
        finally:
            writer.close()
            await writer.wait_closed()


async def read_reply(reader: asyncio.StreamReader, *, is_head: bool = False) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in head[1:-2])]
    given = {name.lower(): value for name, value in headers}
    if is_head or status in (204, 304):
        body = b""
    elif "content-length" in given:
        body = await reader.readexactly(int(given["content-length"]))
    elif given.get("transfer-encoding") == "chunked":
        body = b"".join([chunk async for chunk in read_chunks(reader)])
    else:
        body = await reader.read()
    return Reply(status, headers, body)


async def read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)


@dataclass
class Stage:
    """A gateway with the plugin on its only service, and two upstreams that say who they are."""

    gateway: Gateway
    server: Server
    script: Script
    stable_port: int
    canary_port: int

    @property
    def port(self) -> int:
        return self.gateway.port


def named(name: str) -> Handler:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        reply = cast(web.Response, await echo(request))
        reply.headers["X-Served-By"] = name
        return reply

    return handle


@asynccontextmanager
async def stage(
    tmp_path: Path, script: Script, *, service: Mapping[str, Any] | None = None, **more: Any
) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        stable = await stack.enter_async_context(upstream(named("stable")))
        canary = await stack.enter_async_context(upstream(named("canary")))
        server = await stack.enter_async_context(Server(tmp_path / "plugin.sock", script.respond))
        document = {
            "services": [
                {
                    "name": "orders",
                    **(service or {"url": f"http://orders.test:{stable}"}),
                    "routes": [{"name": "orders-route", "paths": ["/orders"]}],
                    "plugins": [{"name": PLUGIN}],
                }
            ],
            "upstreams": [
                {"name": "canary-upstream", "targets": [{"target": f"127.0.0.1:{canary}"}]}
            ],
        }
        more.setdefault("resolve", {"orders.test": ("127.0.0.1", None)})
        running = await stack.enter_async_context(gateway(tmp_path, document, **more))
        yield Stage(running, server, script, stable, canary)


async def test_the_scripted_server_answers_what_its_script_says(tmp_path: Path) -> None:
    script = Script(access=[("kong.request.get_method", [])])
    async with stage(tmp_path, script) as staged:
        reply = await fetch(staged.port, "/orders/1")
    assert reply.one("X-Served-By") == "stable"
    assert script.results["access"] == ["GET"]
