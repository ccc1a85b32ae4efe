"""From the gateway's socket to the service's memory: exact, whatever fails between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary.policy.v1 import policy_pb2
from canary_engine.model import Variant
from canary_engine.outcomes import Labels
from canary_plugin.outcomes.aggregate import Aggregate
from canary_plugin.outcomes.ledger import Ledger
from canary_plugin.outcomes.receiver import Receiver
from canary_plugin.outcomes.sender import Sender
from canary_plugin.troubles import Troubles
from decision_svc.app import Running
from integration.test_plugin_harness import KEY, PATIENT, SEED, administering, plugin, until
from support.kong_side import Kong
from support.service import running_service

CANARY = Labels(KEY, "v2", Variant.CANARY, "r1")
STABLE = Labels(KEY, "v1", Variant.STABLE, "r1")
SOON = {"outcomes": "syslog", "outcomes_every_s": 0.05}
WITHIN_S = 20.0


class Relay(decision_pb2_grpc.DecisionServiceServicer):
    """Stands before a service and loses reports, or only the answers to them."""

    def __init__(self, real: str) -> None:
        self._channel = grpc.aio.insecure_channel(real)
        self._stub = decision_pb2_grpc.DecisionServiceStub(self._channel)
        self.lose_reports = self.lose_answers = 0
        self.seen: list[str] = []

    async def close(self) -> None:
        await self._channel.close()

    async def ReportOutcomes(  # noqa: N802
        self, request: pb.ReportOutcomesRequest, context: Any
    ) -> pb.ReportOutcomesResponse:
        self.seen.append(request.batch_id)
        if self.lose_reports:
            self.lose_reports -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "lost on the way there")
        answer = await self._stub.ReportOutcomes(request, timeout=WITHIN_S)
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "lost on the way back")
        return answer  # type: ignore[no-any-return]


@asynccontextmanager
async def relaying(real: str) -> AsyncIterator[tuple[Relay, str]]:
    relay, server = Relay(real), grpc.aio.server()
    decision_pb2_grpc.add_DecisionServiceServicer_to_server(relay, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield relay, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
        await relay.close()


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
    running: Running, requests: int, *, versions: int = 0
) -> dict[str, dict[int, int]]:
    """Statuses by version, once there are that many."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = await listed(running)
            enough = sum(o.requests for o in found.values()) >= requests
            if enough and len(found) >= versions:
                return {version: dict(o.statuses) for version, o in found.items()}
            await asyncio.sleep(0.01)


class Nginx:
    """Writes to the socket as nginx does, but waits while it is full."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(path)

    async def log(self, decision: str, status: int = 200, seconds: str = "0.010") -> None:
        line = f'<190>Nov 23 21:36:22 canary: {status} {seconds} "{seconds}" "{decision}"'
        await self.send(line.encode())

    async def send(self, datagram: bytes) -> None:
        async with asyncio.timeout(WITHIN_S):
            while True:
                with contextlib.suppress(BlockingIOError):
                    self._socket.send(datagram)
                    return
                await asyncio.sleep(0)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def nginx(path: Path | str) -> Iterator[Nginx]:
    made = Nginx(str(path))
    try:
        yield made
    finally:
        made.close()


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


@asynccontextmanager
async def outcomes(path: Path, *addresses: str) -> AsyncIterator[tuple[Outcomes, Nginx]]:
    made = Outcomes(*addresses)
    try:
        with Receiver(made.ledger.hear).open(str(path), 0o600), nginx(path) as server:
            yield made, server
    finally:
        await made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "o.sock"


async def test_what_arrives_at_the_socket_is_what_the_service_counts(path: Path) -> None:
    sent = [(200, 404, 500)[n % 3] for n in range(1_000)]
    async with service() as running, outcomes(path, running.decision_address) as (made, server):
        await made.heard(server, *sent)
        await made.heard(server, 200, 502, labels=STABLE)
        await made.sender.flush()
        found = await counted(running, 1_002)
        assert found == {"v2": Counter(sent), "v1": {200: 1, 502: 1}}
        answer = (await listed(running))["v2"]
        assert (answer.variant, answer.errors) == (policy_pb2.VARIANT_CANARY, sent.count(500))
        assert abs(answer.request.p95_ms - 10) <= 0.02 * 10
        assert abs(answer.upstream.p50_ms - 10) <= 0.02 * 10


async def test_a_batch_whose_answer_is_lost_counts_once(path: Path) -> None:
    async with (
        service() as running,
        relaying(running.decision_address) as (relay, address),
        outcomes(path, address) as (made, server),
    ):
        relay.lose_answers, relay.lose_reports = 2, 0
        await made.heard(server, 200, 200)
        await made.sender.flush()
        await made.heard(server, 500)  # gathers behind the batch that is not acknowledged
        await made.sender.flush()
        await made.sender.flush()
        await made.sender.flush()
        assert await counted(running, 3) == {"v2": {200: 2, 500: 1}}
        assert len(set(relay.seen)) == 2


async def test_a_batch_that_never_arrived_is_sent_again(path: Path) -> None:
    async with (
        service() as running,
        relaying(running.decision_address) as (relay, address),
        outcomes(path, address) as (made, server),
    ):
        relay.lose_reports = 2
        await made.heard(server, 200)
        for _ in range(3):
            await made.sender.flush()
        assert await counted(running, 1) == {"v2": {200: 1}}


async def test_the_same_batch_from_anybody_counts_once() -> None:
    series = pb.OutcomeSeries(
        service_key=KEY,
        version="v2",
        variant=policy_pb2.VARIANT_CANARY,
        statuses={200: 3},
        request=pb.LatencyHistogram(buckets=[7], counts=[3], sum_us=9),
    )
    batch = pb.ReportOutcomesRequest(batch_id="b", series=[series])
    async with service() as running:
        async with grpc.aio.insecure_channel(running.decision_address) as channel:
            stub = decision_pb2_grpc.DecisionServiceStub(channel)
            for _ in range(3):
                await stub.ReportOutcomes(batch, timeout=WITHIN_S)
        assert await counted(running, 1) == {"v2": {200: 3}}


async def test_while_the_service_is_down_outcomes_wait(path: Path) -> None:
    async with service() as first:
        address = first.decision_address
    async with outcomes(path, address) as (made, server):
        for _ in range(5):
            await made.heard(server, 200, 503)
            await made.sender.flush()
        assert made.troubles.counts["outcomes-unsent"] == 5
        async with service(listen=address) as second:
            async with asyncio.timeout(WITHIN_S):
                while len(made.aggregate) or made.sender.is_waiting:
                    await made.sender.flush()
            assert await counted(second, 10) == {"v2": {200: 5, 503: 5}}


async def test_a_dead_service_is_left_for_the_next(path: Path) -> None:
    async with (
        service() as running,
        outcomes(path, "unix:/nonexistent/service", running.decision_address) as (made, server),
    ):
        await made.heard(server, 200)
        for _ in range(4):
            await made.sender.flush()
        assert await counted(running, 1) == {"v2": {200: 1}}


async def test_outcomes_wait_for_a_service_key_to_be_declared(path: Path) -> None:
    async with (
        running_service() as running,
        outcomes(path, running.decision_address) as (made, server),
    ):
        await made.heard(server, 200)
        await made.sender.flush()
        async with administering(running) as admin:
            await admin.do("RegisterVersion", version={"version": "v1", "status": "stable"})
        await made.heard(server, 201)
        await made.sender.flush()
        assert await counted(running, 2) == {"v2": {200: 1, 201: 1}}


async def test_service_keys_that_nobody_declares_make_no_series(path: Path) -> None:
    nobody = CANARY._replace(service_key="nobody")
    async with service() as running, outcomes(path, running.decision_address) as (made, server):
        await made.heard(server, 200, labels=nobody)
        await made.heard(server, 200)
        await made.sender.flush()
        assert await counted(running, 1) == {"v2": {200: 1}}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await listed(running, "nobody")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"batch_id": ""}, "batch_id"),
        ({"series": [{"variant": 0}]}, "series[0].variant"),
        ({"series": [{"variant": 1, "statuses": {200: 1}}]}, "series[0].request"),
        ({"series": [{"variant": 1, "statuses": {1_000: 0}}]}, "series[0].statuses"),
        ({"series": [{"variant": 1, "upstream": {"buckets": [1]}}]}, "series[0].upstream"),
        (
            {"series": [{"variant": 1, "upstream": {"buckets": [9_999], "counts": [1]}}]},
            "series[0].upstream.buckets",
        ),
    ],
)
async def test_a_report_that_makes_no_sense_is_refused(
    fields: dict[str, Any], complaint: str
) -> None:
    async with (
        running_service() as running,
        grpc.aio.insecure_channel(running.decision_address) as channel,
    ):
        stub = decision_pb2_grpc.DecisionServiceStub(channel)
        request = pb.ReportOutcomesRequest(**({"batch_id": "b"} | fields))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ReportOutcomes(request, timeout=WITHIN_S)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in (refused.value.details() or "")


def socket_of(kong: Kong) -> Path:
    return Path(kong.path).with_name("outcomes.sock")


async def test_the_plugin_server_hears_of_what_its_plugin_labelled() -> None:
    async with (
        running_service() as running,
        plugin(running.decision_address, **SOON) as (kong, troubles),
    ):
        instance = await kong.start(SEED | PATIENT)
        with nginx(socket_of(kong)) as server:
            for status in (200, 200, 503):
                event = await kong.access(instance, {"x-canary-test": "true"})
                assert event.told["x-canary-service"] == KEY
                await server.log(event.told["x-canary-decision"], status)
            assert await counted(running, 3) == {"canary": {200: 2, 503: 1}}
        assert not troubles.counts


async def test_lines_that_never_come_are_counted_as_lost() -> None:
    async with (
        running_service() as running,
        plugin(running.decision_address, **SOON, outcomes_grace_s=0.2) as (kong, troubles),
    ):
        instance = await kong.start(SEED | PATIENT)
        await kong.access(instance, {"x-canary-test": "true"})
        await until(lambda: troubles.counts["outcome-lost"] == 1)
        await counted(running, 0, versions=1)
        found = (await listed(running))["canary"]
        assert (found.requests, found.lost) == (0, 1)


async def test_what_was_heard_is_told_at_the_end_and_what_was_not_is_lost(path: Path) -> None:
    async with service() as running, outcomes(path, running.decision_address) as (made, server):
        await made.heard(server, 200)
        made.ledger.expect(CANARY)
        await made.sender.close()
        assert await counted(running, 1) == {"v2": {200: 1}}
        assert (await listed(running))["v2"].lost == 1


async def test_a_plugin_server_that_ends_tells_what_it_has_heard() -> None:
    never = {"outcomes": "syslog", "outcomes_every_s": 3_600.0}
    async with running_service() as running:
        async with plugin(running.decision_address, **never) as (kong, _):
            instance = await kong.start(SEED | PATIENT)
            async with administering(running) as admin, asyncio.timeout(WITHIN_S):
                event = await kong.access(instance, {"x-canary-test": "true"})
                while not await admin.baselines():  # noqa: ASYNC110 - another server
                    await asyncio.sleep(0.01)
            with nginx(socket_of(kong)) as server:
                await server.log(event.told["x-canary-decision"])
        async with administering(running) as admin:
            await admin.do("RegisterVersion", version={"version": "v1", "status": "stable"})
        assert await counted(running, 1) == {"canary": {200: 1}}


async def test_the_log_phase_is_the_other_way() -> None:
    settings = {"outcomes": "log", "outcomes_every_s": 0.05}
    async with (
        running_service() as running,
        plugin(running.decision_address, **settings) as (kong, _),
    ):
        instance = await kong.start(SEED | PATIENT)
        event = await kong.access(instance, {"x-canary-test": "true"})
        said = (
            '{"response":{"status":503},"latencies":{"request":12,"proxy":7},"request":'
            f'{{"headers":{{"x-canary-decision":"{event.told["x-canary-decision"]}"}}}}}}'
        )
        logged = await kong.event(instance, {"kong.log.serialize": said}, phase="log")
        assert (logged.methods, logged.end) == (["log.serialize"], "ret")
        assert await counted(running, 1) == {"canary": {503: 1}}
        assert not socket_of(kong).exists()
