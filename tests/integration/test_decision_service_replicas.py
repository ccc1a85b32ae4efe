"""Replicas on one store agree: by announcement, by comparison, after outages and backups."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2
from decision_svc.settings import Settings
from redis.asyncio import Redis
from structlog.testing import capture_logs
from support.calls import (
    METERED,
    SHOP,
    STABLE,
    Calls,
    facts_of,
    ready_service,
    refused,
    service,
    until,
)
from support.redis_server import RedisServer, running_redis

PATIENT = {"person_deadline_ms": 10_000, "store_deadline_ms": 10_000}
# So rarely compared that only an announcement can be what brought a change in time.
ANNOUNCED_ONLY = {"compare_every_ms": 3_600_000, **PATIENT}
POLICY = f"canary:{{{SHOP}}}:policy"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis(appendonly=True) as server:
        yield server


@asynccontextmanager
async def two(redis: RedisServer, **settings: Any) -> AsyncIterator[tuple[Calls, Calls]]:
    async with (
        ready_service(redis_url=redis.url, **settings) as one,
        ready_service(redis_url=redis.url, **settings) as other,
    ):
        yield one, other


async def reaches(replica: Calls, revision: int, key: str = SHOP) -> None:
    """Decisions of the replica are made by that revision."""

    async def is_there() -> bool:
        return (await replica.decide(key)).policy_revision == revision

    await until(is_there)


async def write_directly(redis: RedisServer, document: dict[str, Any]) -> None:
    """Replace the stored policy like a program that announces nothing."""
    async with Redis.from_url(redis.url) as client:
        script = "redis.call('HSET', KEYS[1], 'revision', ARGV[1], 'document', ARGV[2])"
        await client.eval(script, 1, POLICY, document["revision"], json.dumps(document))


async def at_100(shop: Calls, revision: int) -> dict[str, Any]:
    """The stored policy with its release at 100 %, as another revision."""
    policy = await shop.policy()
    return policy | {"release": policy["release"] | {"percentage": 100}, "revision": revision}


async def test_a_change_on_one_replica_is_announced_to_the_other(redis: RedisServer) -> None:
    async with two(redis, **ANNOUNCED_ONLY) as (one, other):
        # An announcement that arrives shows that the other listens.
        revision = await one.release(0)
        stream = other.watch(SHOP)
        while (await stream.read()).policy.revision < revision:
            pass
        for percentage, version in ((100, "v2"), (0, STABLE)):
            revision = await one.change("SetPercentage", percentage=percentage)
            assert (await stream.read()).policy.revision == revision
            assert (await other.decide(**facts_of("u"))).version == version
        stream.cancel()


async def test_a_member_added_on_one_replica_is_one_on_the_other(redis: RedisServer) -> None:
    async with two(redis, **PATIENT) as (one, other):
        await one.release(0)
        revision = await one.segment("early", canary_eligible=True)
        await reaches(other, revision)
        assert await other.variant("u") == ("stable", "default")
        await one.change("AddMembers", segment="early", users=["u"])
        await reaches(other, revision + 1)
        assert await other.variant("u") == ("canary", "segment")


async def test_a_profile_put_on_one_replica_is_seen_on_the_other(redis: RedisServer) -> None:
    async with two(redis, **PATIENT) as (one, other):
        await one.release(0)
        await reaches(other, await one.segment("early", canary_eligible=True))
        assert await other.variant("u") == ("stable", "default")
        criteria = {"tags": ["early"]}
        revision = await one.segment(
            "tagged", canary_eligible=True, listed=False, criteria=criteria
        )
        await reaches(other, revision)
        assert await other.variant("u") == ("stable", "default")
        await one.profile("u", tags=["early"])

        async def is_tagged() -> bool:
            return await other.variant("u") == ("canary", "segment")

        await until(is_tagged)


async def test_a_change_that_was_never_announced_is_found_within_a_second(
    redis: RedisServer,
) -> None:
    # So often it compares; how late a slow machine lets it is not what is tested.
    assert Settings().compare_every_ms < 1_000
    async with ready_service(redis_url=redis.url, **PATIENT) as shop:
        await shop.release(0)
        await write_directly(redis, await at_100(shop, 4))
        await reaches(shop, 4)
        assert (await shop.decide(**facts_of("u"))).version == "v2"


async def test_a_change_announced_while_the_subscription_was_broken_is_found(
    redis: RedisServer,
) -> None:
    async with two(redis, **PATIENT) as (one, other):
        await reaches(other, await one.release(0))
        for percentage in range(1, 6):
            async with Redis.from_url(redis.url) as client:
                await client.client_kill_filter(_type="pubsub")
            await reaches(other, await one.change("SetPercentage", percentage=percentage))


async def test_after_an_outage_a_replica_catches_up_with_what_another_one_changed(
    redis: RedisServer,
) -> None:
    async with two(redis, **PATIENT) as (one, other):
        await one.release(0)
        await reaches(other, await one.segment("early", canary_eligible=True))
        assert await other.variant("u") == ("stable", "default")
        redis.kill()

        async def is_down() -> bool:
            return not await other.is_serving()

        await until(is_down)
        assert await other.variant("u") == ("stable", "default")
        redis.start()
        await until(one.is_serving)
        revision = await one.change("AddMembers", segment="early", users=["u"])
        await reaches(other, revision)
        await until(other.is_serving)
        assert await other.variant("u") == ("canary", "segment")


async def test_a_service_that_is_started_before_its_store_serves_once_that_comes() -> None:
    with running_redis() as server:
        server.stop()
        async with service(redis_url=server.url, **METERED, **PATIENT) as shop:
            for name in ("", "canary.store", "canary.decision.v1.DecisionService"):
                assert not await shop.is_serving(name)
            unavailable = grpc.StatusCode.UNAVAILABLE
            with refused(unavailable, "no policy was read"):
                await shop.decide(**facts_of("u"))
            with refused(unavailable, "no policy was read"):
                await shop.admin.ListServices(admin_pb2.ListServicesRequest())
            with refused(unavailable):
                await shop.register(STABLE)
            assert await shop.metric("canary_decision_errors_total", code="UNAVAILABLE") == 1
            server.start()
            await until(shop.is_serving)
            assert await shop.is_serving("")
            assert (await shop.decide(**facts_of("u"))).reason
            assert await shop.register(STABLE) == 1


async def test_a_store_that_was_set_back_is_followed_and_that_is_logged(
    redis: RedisServer,
) -> None:
    async with ready_service(redis_url=redis.url, **PATIENT) as shop:
        revision = await shop.release(0)
        await shop.change("SetPercentage", percentage=1)
        with capture_logs() as logs:
            await write_directly(redis, await at_100(shop, revision))
            await reaches(shop, revision)
        assert (await shop.decide(**facts_of("u"))).version == "v2"
        assert [line["log_level"] for line in logs if line["event"] == "store was set back"] == [
            "warning"
        ]
        assert await shop.change("SetPercentage", percentage=2) == revision + 1
        await reaches(shop, revision + 1)


async def test_a_backup_that_was_written_on_to_the_same_revision_is_followed(
    redis: RedisServer,
) -> None:
    async with ready_service(redis_url=redis.url, **PATIENT) as shop:
        revision = await shop.release(0)
        await write_directly(redis, await at_100(shop, revision))
        redis.restart()

        async def is_followed() -> bool:
            return (await shop.decide(**facts_of("u"))).version == "v2"

        await until(is_followed)


async def test_policies_gone_from_the_store_go_on_ruling_here(redis: RedisServer) -> None:
    async with ready_service(redis_url=redis.url, **METERED, **PATIENT) as shop:
        await shop.release(100)
        async with Redis.from_url(redis.url) as client:
            await client.flushall()

        async def is_noticed() -> bool:
            return await shop.metric("canary_stored_policies_lost") == 1

        await until(is_noticed)
        assert (await shop.decide(**facts_of("u"))).version == "v2"


@pytest.mark.parametrize(
    "spoiled",
    [
        {"rules": [{"name": "x"}], "revision": 9},
        {"service_key": "other", "revision": 9},
        {"unheard_of": True, "revision": 9},
    ],
)
async def test_of_an_invalid_stored_policy_the_last_good_one_is_kept_and_it_counts_once(
    spoiled: dict[str, Any], redis: RedisServer
) -> None:
    settings = {"compare_every_ms": 10, **METERED, **PATIENT}
    async with ready_service(redis_url=redis.url, **settings) as shop:
        await shop.release(100)
        await shop.register("v1", "healthy")
        good = await shop.policy()
        with capture_logs() as logs:
            await write_directly(redis, good | spoiled)
            await is_refused(shop)
            # The comparison goes round again and again meanwhile.
            for percentage in range(5):
                await shop.register(f"v{percentage + 2}", "healthy")
                await reaches(shop, percentage + 2, "healthy")
        assert (await shop.decide(**facts_of("u"))).policy_revision == 3
        assert (await shop.decide("other", **facts_of("u"))).policy_revision == 0
        assert await shop.metric("canary_stored_policies_refused_total") == 1
        refusals = [line for line in logs if line["event"] == "stored policy is invalid"]
        assert [line["service_key"] for line in refusals] == [SHOP]
        for call in (shop.policy(), shop.change("SetPercentage", percentage=1)):
            with refused(grpc.StatusCode.DATA_LOSS, f"the stored policy of '{SHOP}' is"):
                await call
        await write_directly(redis, good | {"revision": 10})
        await reaches(shop, 10)


async def is_refused(shop: Calls) -> None:
    async def is_so() -> bool:
        return await shop.metric("canary_stored_policies_refused_total") > 0

    await until(is_so)


async def test_a_stored_policy_that_is_not_even_json_does_not_look_like_a_lost_store(
    redis: RedisServer,
) -> None:
    async with ready_service(redis_url=redis.url, **METERED, **PATIENT) as shop:
        await shop.release(100)
        async with Redis.from_url(redis.url) as client:
            await client.hset(POLICY, mapping={"revision": 9, "document": "{"})
        await is_refused(shop)
        await shop.register("v1", "healthy")
        assert await shop.is_serving()
        assert (await shop.decide(**facts_of("u"))).version == "v2"
