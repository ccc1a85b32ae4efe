"""Answers gRPC health for whoever watches over the process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from canary_controller.errors import BadSettings


class Health:
    """Says whether releases are seen to; ``address`` is where."""

    def __init__(self, healths: health.aio.HealthServicer, address: str) -> None:
        self._healths, self.address = healths, address

    async def tell(self, *, is_well: bool) -> None:
        """Answer so from now on."""
        status = health_pb2.HealthCheckResponse
        await self._healths.set("", status.SERVING if is_well else status.NOT_SERVING)


@asynccontextmanager
async def serving_health(address: str) -> AsyncIterator[Health]:
    """A server that answers while this is open; "" for none."""
    healths = health.aio.HealthServicer()
    if not address:
        yield Health(healths, "")
        return
    # It would say that all is well before the first tick.
    await Health(healths, "").tell(is_well=False)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise BadSettings(f"--health-listen: cannot listen on {address}") from error
    await server.start()
    host = address.rpartition(":")[0]
    try:
        yield Health(healths, address if address.startswith("unix:") else f"{host}:{port}")
    finally:
        await server.stop(0)
