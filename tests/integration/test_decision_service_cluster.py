"""Decision services on a Redis Cluster: they share everything, and outlive any one server of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from decision_svc.store.connection import slot_key
from structlog.testing import capture_logs
from support.calls import METERED, Calls, facts_of, ready_service, refused, service, until
from support.redis_cluster import MASTERS, RedisCluster, running_cluster

PATIENT = {"person_deadline_ms": 10_000, "store_deadline_ms": 10_000}
# So rarely compared that only an announcement can be what brought a change in time.
ANNOUNCED_ONLY = {"compare_every_ms": 3_600_000, **PATIENT}
SOON = {"compare_every_ms": 20, **PATIENT}
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def whole() -> Iterator[RedisCluster]:
    with running_cluster("--cluster-require-full-coverage", "no", appendonly=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(whole: RedisCluster) -> RedisCluster:
    whole.empty()
    return whole


@pytest.fixture
def keys(cluster: RedisCluster) -> list[str]:
    """A service key for each server; the first is on that of the index."""
    found: dict[int, str] = {}
    for number in range(1_000):
        name = f"shop-{number}"
        found.setdefault(cluster.servers.index(cluster.keeper(slot_key(name))), name)
    first = cluster.servers.index(cluster.keeper("canary:services"))
    return [found[(first + at) % MASTERS] for at in range(MASTERS)]


@asynccontextmanager
async def gone(cluster: RedisCluster, service_key: str) -> AsyncIterator[str]:
    """Its server is killed, and is back afterwards; gives where it was."""
    server = cluster.keeper(slot_key(service_key))
    server.kill()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(cluster.wait)


async def test_a_policy_is_written_decided_on_and_followed_by_the_other_replica(
    cluster: RedisCluster, keys: list[str]
) -> None:
    async with (
        ready_service(redis_url=cluster.url, **ANNOUNCED_ONLY) as one,
        ready_service(redis_url=cluster.url, **ANNOUNCED_ONLY) as other,
    ):
        for key in keys:
            revision = await one.release(0, key)
            stream = other.watch(key)
            while (await stream.read()).policy.revision < revision:
                pass
            for percentage, version in ((100, "v2"), (0, "v1")):
                revision = await one.change("SetPercentage", key, percentage=percentage)
                assert (await stream.read()).policy.revision == revision
                assert (await other.decide(key, **facts_of("u"))).version == version
            stream.cancel()
        asked = await other.admin.ListServices(admin_pb2.ListServicesRequest())
        assert sorted(service.service_key for service in asked.services) == sorted(keys)


async def test_members_and_profiles_are_those_of_every_replica(
    cluster: RedisCluster, keys: list[str]
) -> None:
    async with (
        ready_service(redis_url=cluster.url, **PATIENT) as one,
        ready_service(redis_url=cluster.url, **PATIENT) as other,
    ):
        for key in keys:
            await one.release(0, key)
            await one.segment("early", service_key=key, canary_eligible=True)
            criteria = {"tags": ["early"]}
            await one.segment(
                "tagged", service_key=key, canary_eligible=True, listed=False, criteria=criteria
            )
            revision = await one.change("AddMembers", key, segment="early", users=["u"])
            await until(partial(_rules, other, key, revision))
            assert await other.variant("u", key) == ("canary", "segment")
            assert await other.variant("w", key) == ("stable", "default")
        await one.profile("w", tags=["early"])
        for key in keys:
            await until(partial(_is_canary, other, key, "w"))


async def _rules(replica: Calls, key: str, revision: int) -> bool:
    return (await replica.decide(key)).policy_revision == revision


async def _is_canary(replica: Calls, key: str, user: str) -> bool:
    return await replica.variant(user, key) == ("canary", "segment")


async def test_a_batch_of_outcomes_of_services_on_every_server_counts_once(
    cluster: RedisCluster, keys: list[str]
) -> None:
    batch = pb.ReportOutcomesRequest(batch_id="a", series=[outcome(key) for key in keys])
    async with (
        ready_service(redis_url=cluster.url, **PATIENT) as one,
        ready_service(redis_url=cluster.url, **PATIENT) as other,
    ):
        for key in keys:
            revision = await one.release(100, key)
            await until(partial(_rules, other, key, revision))
        for replica in (one, other, one):
            await replica.decision.ReportOutcomes(batch)
        for key in keys:
            assert await requests(other, key) == 3


def outcome(service_key: str) -> pb.OutcomeSeries:
    """Three requests to the canary."""
    return pb.OutcomeSeries(
        service_key=service_key,
        version="v2",
        release_id="r",
        variant=policy_pb2.VARIANT_CANARY,
        statuses={200: 3},
        request=pb.LatencyHistogram(buckets=[7], counts=[3], sum_us=30),
    )


async def requests(replica: Calls, service_key: str) -> int:
    """How many requests there were by the outcomes that the replica shows."""
    request = admin_pb2.ListOutcomesRequest(service_key=service_key)
    return sum(one.requests for one in (await replica.admin.ListOutcomes(request)).outcomes)


async def test_with_a_server_gone_decisions_go_on_and_only_its_services_cannot_be_changed(
    cluster: RedisCluster, keys: list[str]
) -> None:
    _, lost, well = keys
    settings: dict[str, Any] = {**METERED, **SOON}
    async with (
        ready_service(redis_url=cluster.url, **settings) as shop,
        ready_service(redis_url=cluster.url, **settings) as other,
    ):
        revisions = [await shop.release(100, key) for key in keys]
        for key, revision in zip(keys, revisions, strict=True):
            await until(partial(_rules, other, key, revision))
        with capture_logs() as logs:
            async with gone(cluster, lost) as where:
                await until(lambda: _is_noticed(shop))
                for key in keys:
                    assert (await shop.decide(key, **facts_of("u"))).version == "v2"
                    assert (await shop.decide(key, **facts_of("stranger"))).version == "v2"
                with refused(UNAVAILABLE, where, slot_key(lost, "policy")):
                    await shop.change("SetPercentage", lost, percentage=1)
                with refused(UNAVAILABLE, where):
                    await shop.decision.ReportOutcomes(
                        pb.ReportOutcomesRequest(batch_id="a", series=[outcome(lost)])
                    )
                revision = await shop.change("SetPercentage", well, percentage=0)
                await until(lambda: _rules(other, well, revision))
                followed = await shop.admin.FollowReleases(admin_pb2.FollowReleasesRequest())
                assert {one.service_key: one.more_after > 0 for one in followed.releases} == {
                    key: key == lost for key in keys
                }
                assert await shop.metric("canary_store_up") == 0
                assert not await shop.is_serving()
                assert await shop.is_serving(""), "gateways may go on asking"
            await until(shop.is_serving)
        (line,) = [line for line in logs if line["event"].startswith("store lost")][:1]
        assert line["error"] == f"no answer about 1 service keys: {lost}"
        revision = await shop.change("SetPercentage", lost, percentage=0)
        await until(lambda: _rules(other, lost, revision))
        await shop.decision.ReportOutcomes(
            pb.ReportOutcomesRequest(batch_id="a", series=[outcome(lost)])
        )
        assert await requests(other, lost) == 3


async def _is_noticed(replica: Calls) -> bool:
    return await replica.metric("canary_store_up") == 0


async def test_with_the_server_of_the_index_gone_decisions_go_on_and_nothing_can_be_changed(
    cluster: RedisCluster, keys: list[str]
) -> None:
    index, _, well = keys
    async with ready_service(redis_url=cluster.url, **METERED, **SOON) as shop:
        for key in keys:
            await shop.release(100, key)
        async with gone(cluster, index) as where:
            await until(lambda: _is_noticed(shop))
            for key in keys:
                assert (await shop.decide(key, **facts_of("u"))).version == "v2"
            with refused(UNAVAILABLE, where, "canary:services"):
                await shop.change("SetPercentage", well, percentage=0)
        await until(shop.is_serving)
        revision = await shop.change("SetPercentage", well, percentage=0)
        await until(lambda: _rules(shop, well, revision))


async def test_a_service_that_is_started_while_a_server_is_gone_waits_for_its_policies(
    cluster: RedisCluster, keys: list[str]
) -> None:
    _, lost, well = keys
    async with ready_service(redis_url=cluster.url, **PATIENT) as before:
        for key in keys:
            await before.release(100, key)
    async with AsyncExitStack() as stack:
        async with gone(cluster, lost):
            late = service(redis_url=cluster.url_of_all, **METERED, **SOON)
            shop = await stack.enter_async_context(late)
            await until(lambda: _has_read(shop, well))
            assert not await shop.is_serving("")
        await until(lambda: shop.is_serving(""))
        assert (await shop.decide(lost, **facts_of("u"))).version == "v2"


async def _has_read(replica: Calls, service_key: str) -> bool:
    return await replica.metric("canary_policy_revision", service_key=service_key) > 0
