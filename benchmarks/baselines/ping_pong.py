"""A gRPC stream that answers every message with an empty one: what any stream costs at least."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

METHOD = "/bench.PingPong/Stream"


async def _stream(messages: AsyncIterator[bytes], context: Any) -> None:
    await context.send_initial_metadata(())  # says that the stream stands
    async for _ in messages:
        await context.write(b"")


class _Handlers(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(_stream) if details.method == METHOD else None


async def main() -> None:
    """Serve on a free port, named on standard output, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([_Handlers()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(0.1)


if __name__ == "__main__":
    uvloop.run(main())
