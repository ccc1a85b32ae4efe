"""Outcomes in Redis: any replica is told, all replicas show the same, an outage loses none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary_engine.model import Cohort
from decision_svc.app import Running
from support.heard_outcomes import (
    CANARY,
    counted,
    listed,
    outcomes,
    relaying,
    service,
    told,
)
from support.kong_side import KEY
from support.redis_server import RedisServer, running_redis
from support.waiting import WITHIN_S

DRAWN = CANARY._replace(cohort=Cohort.DRAWN)
SOON = {"compare_every_ms": 10}
# A store that is late on a slow machine is told of again, which is not what is tested.
PATIENT = {"person_deadline_ms": 10_000, "store_deadline_ms": 10_000}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "o.sock"


async def decide(running: Running) -> str:
    async with grpc.aio.insecure_channel(running.decision_address) as channel:
        stub = decision_pb2_grpc.DecisionServiceStub(channel)
        answer = await stub.Decide(pb.DecideRequest(service_key=KEY), timeout=WITHIN_S)
        return str(answer.WhichOneof("answer"))


async def test_gateways_that_tell_different_replicas_add_up(
    redis: RedisServer, tmp_path: Path
) -> None:
    settings = {"redis_url": redis.url, **SOON, **PATIENT}
    async with (
        service(**settings) as one,
        service(**settings) as other,
        outcomes(tmp_path / "a.sock", one.decision_address) as (first, a),
        outcomes(tmp_path / "b.sock", other.decision_address) as (second, b),
    ):
        await first.heard(a, 200, 200, 500, labels=DRAWN)
        await second.heard(b, 200, 404, labels=DRAWN)
        await told(first)
        await told(second)
        for running in (one, other):
            assert await counted(running, 5) == {"v2": {200: 3, 404: 1, 500: 1}}
            (cohort,) = (await listed(running))["v2"].cohorts
            assert (cohort.requests, cohort.errors) == (5, 1)


async def test_a_batch_that_is_repeated_to_the_next_replica_counts_once(
    redis: RedisServer, path: Path
) -> None:
    settings = {"redis_url": redis.url, **SOON, **PATIENT}
    async with (
        service(**settings) as one,
        service(**settings) as other,
        relaying(one.decision_address) as (relay, address),
        outcomes(path, address, other.decision_address) as (made, server),
    ):
        relay.lose_answers = 1_000
        await made.heard(server, 200, 500)
        await told(made)
        assert len(relay.seen) >= 3
        assert await counted(other, 2) == {"v2": {200: 1, 500: 1}}
        assert await counted(one, 2) == {"v2": {200: 1, 500: 1}}


async def test_outcomes_outlive_the_replica_that_was_told(redis: RedisServer, path: Path) -> None:
    async with (
        service(redis_url=redis.url, **PATIENT) as first,
        outcomes(path, first.decision_address) as (made, server),
    ):
        await made.heard(server, 200, 500)
        await told(made)
    async with service(redis_url=redis.url, **PATIENT) as second:
        assert await counted(second, 2) == {"v2": {200: 1, 500: 1}}


async def test_while_redis_is_gone_outcomes_wait_at_the_gateway_and_decisions_do_not(
    path: Path,
) -> None:
    with running_redis(appendonly=True) as redis:
        settings = {"redis_url": redis.url, **SOON, **PATIENT}
        async with (
            service(**settings) as running,
            outcomes(path, running.decision_address) as (made, server),
        ):
            await made.heard(server, 200)
            await told(made)
            redis.kill()
            for _ in range(3):
                await made.heard(server, 200, 503)
                await made.sender.flush()
                assert await decide(running) == "decision"
            assert made.sender.is_waiting
            assert made.troubles.counts["outcomes-unsent"] == 3
            redis.start()
            await told(made)
            assert await counted(running, 7) == {"v2": {200: 4, 503: 3}}


async def test_what_was_added_while_its_answer_was_late_is_not_added_again(path: Path) -> None:
    with running_redis() as redis:
        # Longer than a healthy store takes on a busy machine, and not as long as the sender waits.
        settings = {"redis_url": redis.url, "store_deadline_ms": 1_500, **SOON}
        async with (
            service(**settings) as running,
            outcomes(path, running.decision_address) as (made, server),
        ):
            await made.heard(server, 200)
            await told(made)  # the script is known there by now
            await made.heard(server, 503)
            # What Redis was sent while it was frozen it does when it goes on; nobody waits by then.
            redis.freeze()
            await made.sender.flush()
            assert made.sender.is_waiting
            redis.thaw()
            await told(made)
            assert await counted(running, 2) == {"v2": {200: 1, 503: 1}}


@pytest.mark.parametrize("look", ["ListOutcomes", "GetMetrics"])
async def test_a_window_longer_than_outcomes_are_kept_is_refused(
    redis: RedisServer, look: str
) -> None:
    request = getattr(admin_pb2, f"{look}Request")
    for settings, longest_s in (({}, 900), ({"redis_url": redis.url, **PATIENT}, 14_400)):
        async with (
            service(**settings) as running,
            grpc.aio.insecure_channel(running.admin_address) as channel,
        ):
            call = getattr(admin_pb2_grpc.AdminServiceStub(channel), look)
            await call(request(service_key=KEY, window_s=longest_s), timeout=WITHIN_S)
            with pytest.raises(grpc.aio.AioRpcError, match=f"at most {longest_s:,}"):
                await call(request(service_key=KEY, window_s=longest_s + 1), timeout=WITHIN_S)
