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
    """A server that answers while this is open, not serving until told so; "" for none."""
    healths = health.aio.HealthServicer()
    if not address:
        yield Health(healths, "")
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise BadSettings(f"--health-listen: cannot listen on {address}") from error
    host = address.rpartition(":")[0]
    told = Health(healths, address if address.startswith("unix:") else f"{host}:{port}")
    # The servicer says SERVING by itself, before anybody has told it anything.
    await told.tell(is_well=False)
    await server.start()
    try:
        yield told
    finally:
        await server.stop(0)
