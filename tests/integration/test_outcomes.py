"""From the gateway's socket to the service's memory: exact, whatever fails between them."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary.policy.v1 import policy_pb2
from canary_engine.model import Variant
from canary_engine.outcomes import Labels
from support.heard_outcomes import CANARY, counted, listed, outcomes, relaying, service, told
from support.kong_side import KEY, Kong
from support.nginx import nginx
from support.operators import administering
from support.plugin_stage import PATIENT, SEED, plugin
from support.service import NOWHERE, running_service
from support.waiting import WITHIN_S, until

STABLE = Labels(KEY, "v1", Variant.STABLE, "r1")
SOON: dict[str, Any] = {"outcomes": "syslog", "outcomes_every_s": 0.05}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "o.sock"


async def test_what_arrives_at_the_socket_is_what_the_service_counts(path: Path) -> None:
    sent = [(200, 404, 500)[n % 3] for n in range(1_000)]
    async with service() as running, outcomes(path, running.decision_address) as (made, server):
        await made.heard(server, *sent)
        await made.heard(server, 200, 502, labels=STABLE)
        await told(made)
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
        await told(made)
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
        await told(made)
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
            await told(made)
            assert await counted(second, 10) == {"v2": {200: 5, 503: 5}}


async def test_a_dead_service_is_left_for_the_next(path: Path) -> None:
    async with (
        service() as running,
        outcomes(path, NOWHERE, running.decision_address) as (made, server),
    ):
        await made.heard(server, 200)
        await told(made)
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
        await told(made)
        assert await counted(running, 2) == {"v2": {200: 1, 201: 1}}


async def test_service_keys_that_nobody_declares_make_no_series(path: Path) -> None:
    nobody = CANARY._replace(service_key="nobody")
    async with service() as running, outcomes(path, running.decision_address) as (made, server):
        await made.heard(server, 200, labels=nobody)
        await made.heard(server, 200)
        assert await counted(running, 1, told_by=made) == {"v2": {200: 1}}
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
    never: dict[str, Any] = {"outcomes": "syslog", "outcomes_every_s": 3_600.0}
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
    settings: dict[str, Any] = {"outcomes": "log", "outcomes_every_s": 0.05}
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
