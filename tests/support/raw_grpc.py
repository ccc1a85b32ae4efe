"""A real gRPC server whose one method is a stream of bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

METHOD = "/test.Echo/Stream"
Serve = Callable[[AsyncIterator[bytes], Any], Awaitable[None]]


async def echo(messages: AsyncIterator[bytes], context: Any) -> None:
    await context.send_initial_metadata((("x-some", "metadata"),))
    async for message in messages:
        await context.write(message)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, serve: Serve, method: str) -> None:
        self._serve, self._method = serve, method

    def service(self, details: Any) -> Any:
        if details.method != self._method:
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)


@asynccontextmanager
async def serving(
    serve: Serve = echo, listen: str = "127.0.0.1:0", *, method: str = METHOD, **options: int
) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    """A real gRPC server, and its address."""
    server = grpc.aio.server(
        options=[("grpc.so_reuseport", 0), *((f"grpc.{n}", v) for n, v in options.items())]
    )
    server.add_generic_rpc_handlers([_Handlers(serve, method)])
    port = server.add_insecure_port(listen)
    await server.start()
    try:
        yield server, listen.replace(":0", f":{port}") if port > 1 else listen
    finally:
        await server.stop(0)
