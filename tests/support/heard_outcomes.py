"""Outcomes from the gateway's socket to what a service has counted, without the plugin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary_engine.model import Variant
from canary_engine.outcomes import Labels
from canary_plugin.outcomes.aggregate import Aggregate
from canary_plugin.outcomes.ledger import Ledger
from canary_plugin.outcomes.receiver import Receiver
from canary_plugin.outcomes.sender import Sender
from canary_plugin.troubles import Troubles
from decision_svc.app import Running

from support.kong_side import KEY
from support.nginx import Nginx, nginx
from support.operators import administering
from support.service import running_service
from support.spy import Spy
from support.waiting import WITHIN_S, until

CANARY = Labels(KEY, "v2", Variant.CANARY, "r1")


class Relay(Spy):
    """Stands before a service and loses reports, or only the answers to them."""

    def __init__(self, real: str) -> None:
        super().__init__(real)
        self.lose_reports = self.lose_answers = 0

    @property
    def seen(self) -> list[str]:
        """The batches that came, each as often as it came."""
        return [report.batch_id for report in self.reports]

    async def ReportOutcomes(  # noqa: N802
        self, request: pb.ReportOutcomesRequest, context: Any
    ) -> pb.ReportOutcomesResponse:
        if self.lose_reports:
            self.lose_reports -= 1
            self.reports.append(request)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "lost on the way there")
        answer = await super().ReportOutcomes(request, context)
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "lost on the way back")
        return answer


@asynccontextmanager
async def relaying(real: str) -> AsyncIterator[tuple[Relay, str]]:
    """A relay and its address."""
    async with Relay(real) as relay:
        yield relay, relay.address


@asynccontextmanager
async def service(**settings: Any) -> AsyncIterator[Running]:
    """A service that knows the service key."""
    async with running_service(**settings) as running, administering(running) as admin:
        await admin.do("RegisterVersion", version={"version": "v1", "status": "stable"})
        yield running


async def listed(running: Running, key: str = KEY) -> dict[str, admin_pb2.VersionOutcomes]:
    async with grpc.aio.insecure_channel(running.admin_address) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        request = admin_pb2.ListOutcomesRequest(service_key=key, window_s=900)
        answer = await stub.ListOutcomes(request, timeout=WITHIN_S)
        return {o.version: o for o in answer.outcomes}


async def counted(
    running: Running, requests: int, *, versions: int = 0, told_by: Outcomes | None = None
) -> dict[str, dict[int, int]]:
    """Statuses by version, once there are that many, which somebody may have to be made to tell."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            if told_by is not None:
                await told_by.sender.flush()
            found = await listed(running)
            enough = sum(o.requests for o in found.values()) >= requests
            if enough and len(found) >= versions:
                return {version: dict(o.statuses) for version, o in found.items()}
            await asyncio.sleep(0.01)


class Outcomes:
    """The plugin server's part of it, without the plugin."""

    def __init__(self, *addresses: str) -> None:
        self._channels = [grpc.aio.insecure_channel(a) for a in addresses]
        stubs = [decision_pb2_grpc.DecisionServiceStub(c) for c in self._channels]
        self.troubles = Troubles(monotonic)
        self.aggregate = Aggregate(monotonic)
        self.ledger = Ledger(self.aggregate, self.troubles, monotonic)
        self.sender = Sender(stubs, self.aggregate, self.ledger, self.troubles, "test")

    async def heard(self, server: Nginx, *statuses: int, labels: Labels = CANARY) -> None:
        """Let requests be labelled, and their outcomes arrive."""
        for status in statuses:
            await server.log(self.ledger.expect(labels), status)
        await until(lambda: len(self.ledger) == 0, "all lines")

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


async def told(made: Outcomes) -> None:
    """Let the sender go on until everything is acknowledged: a busy machine lets some be late."""
    async with asyncio.timeout(WITHIN_S):
        while len(made.aggregate) or made.sender.is_waiting:
            await made.sender.flush()


@asynccontextmanager
async def outcomes(path: Path, *addresses: str) -> AsyncIterator[tuple[Outcomes, Nginx]]:
    made = Outcomes(*addresses)
    try:
        with Receiver(made.ledger.hear).open(str(path), 0o600), nginx(path) as server:
            yield made, server
    finally:
        await made.close()
