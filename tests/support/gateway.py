"""The development gateway in the test's own process, and upstreams that say what reached them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aiohttp import web
from dev_gateway.app import Gateway
from dev_gateway.settings import Settings

from support.scripted_plugin import PLUGIN, Script, Server, query_command

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


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
