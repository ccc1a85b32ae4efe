"""What the store knows of users: read when needed, seen when changed, kept through an outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from redis.asyncio import Redis
from support.calls import (
    LIMIT_S,
    METERED,
    SHOP,
    Calls,
    a_rule,
    facts_of,
    ready_service,
    refused,
    until,
)
from support.redis_server import RedisServer, running_redis

CANARY, STABLE = "canary", "stable"
EARLY, VIP = (CANARY, "segment"), (STABLE, "segment")
NOT = (STABLE, "default")
# A slow machine must not make an answer of a healthy store too late.
PATIENT = {"person_deadline_ms": 10_000, "store_deadline_ms": 10_000}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis(appendonly=True) as server:
        yield server


@pytest.fixture
async def shop(redis: RedisServer) -> AsyncIterator[Calls]:
    async with ready_service(redis_url=redis.url, **PATIENT) as calls:
        await prepare(calls)
        yield calls


async def prepare(shop: Calls, percentage: float = 0) -> None:
    """A release with an eligible listed segment, its only member being ``listed``."""
    await shop.release(percentage)
    await shop.segment("early", canary_eligible=True)
    await shop.change("AddMembers", segment="early", users=["listed"])


async def protect(shop: Calls) -> None:
    premium = policy_pb2.Criteria(tiers=["premium"])
    await shop.segment("vip", listed=False, criteria=premium)


async def test_membership_in_redis_decides(shop: Calls) -> None:
    assert await shop.variant("listed") == EARLY
    assert await shop.variant("other") == NOT


async def test_a_member_who_is_added_or_removed_is_so_for_the_next_decision(shop: Calls) -> None:
    for _ in range(3):
        assert await shop.variant("u") == NOT
        await shop.change("AddMembers", segment="early", users=["u"])
        assert await shop.variant("u") == EARLY
        await shop.change("RemoveMembers", segment="early", users=["u"])


async def test_a_segment_that_is_removed_and_put_again_has_no_members(shop: Calls) -> None:
    assert await shop.variant("listed") == EARLY
    await shop.change("RemoveSegment", name="early")
    assert await shop.variant("listed") == NOT
    await shop.segment("early", canary_eligible=True)
    assert await shop.variant("listed") == NOT


async def test_a_profile_that_changes_is_seen_though_a_copy_was_still_fresh(shop: Calls) -> None:
    await protect(shop)
    assert await shop.variant("listed") == EARLY

    async def is_protected() -> bool:
        return await shop.variant("listed") == VIP

    await shop.profile("listed", tier="premium")
    await until(is_protected)
    remove = admin_pb2.RemoveProfileRequest(user="listed", actor="a", reason="b")
    await shop.admin.RemoveProfile(remove)

    async def is_free() -> bool:
        return await shop.variant("listed") == EARLY

    await until(is_free)


async def test_a_write_that_bypasses_the_service_is_seen_when_the_copy_is_old(
    redis: RedisServer,
) -> None:
    async with ready_service(redis_url=redis.url, person_max_age_s=1, **PATIENT) as shop:
        await prepare(shop)
        assert await shop.variant("u") == NOT
        async with Redis.from_url(redis.url) as client:
            await client.sadd(f"canary:{{{SHOP}}}:members:early", "u")

        async def is_early() -> bool:
            return await shop.variant("u") == EARLY

        await until(is_early)  # with the usual age, it would wait for a minute


async def test_a_user_whom_an_earlier_stage_decides_needs_no_store(redis: RedisServer) -> None:
    # Nothing but a broken promise could make this decision wait for ever.
    settings = PATIENT | {"person_deadline_ms": 60_000}
    async with ready_service(redis_url=redis.url, **settings) as shop:
        await prepare(shop)
        await shop.change("AddRule", rule=a_rule())
        redis.freeze()
        try:
            async with asyncio.timeout(10):
                found = await shop.decide(headers={"x-user-id": "u", "x-canary-test": "true"})
        finally:
            redis.thaw()
        assert (found.matched, found.degraded) == ("testers", False)


async def store_is_down(shop: Calls) -> None:
    async def is_down() -> bool:
        return not await shop.is_serving()

    await until(is_down)


@pytest.mark.parametrize("max_age_s", [60, 0])
async def test_known_users_keep_their_variant_while_redis_is_gone(
    max_age_s: int, redis: RedisServer
) -> None:
    users = ["listed", *(f"u{i}" for i in range(50))]
    async with ready_service(redis_url=redis.url, person_max_age_s=max_age_s, **PATIENT) as shop:
        await prepare(shop, 50)
        await protect(shop)
        await shop.profile("u7", tier="premium")
        before = {user: await shop.decide(**facts_of(user)) for user in users}
        redis.kill()
        for _ in range(2):
            for user in users:
                assert await shop.decide(**facts_of(user)) == before[user]
            await store_is_down(shop)
        assert before["u7"].matched == "vip"


async def test_unknown_users_are_degraded_and_protected_only_where_the_policy_protects(
    redis: RedisServer,
) -> None:
    async with ready_service(redis_url=redis.url, **METERED, **PATIENT) as shop:
        await prepare(shop, 100)
        redis.kill()
        found = await shop.decide(**facts_of("new-1"))
        assert (found.variant, found.degraded) == (policy_pb2.VARIANT_CANARY, True)
        await store_is_down(shop)
        found = await shop.decide(**facts_of("new-2"))
        assert (found.variant, found.degraded) == (policy_pb2.VARIANT_CANARY, True)
        assert await shop.metric("canary_decisions_degraded_total") == 2
        redis.start()
        await until(shop.is_serving)
        await protect(shop)
        redis.kill()
        for _ in range(2):
            found = await shop.decide(**facts_of("new-3"))
            assert (found.variant, found.degraded) == (policy_pb2.VARIANT_STABLE, True)
            await store_is_down(shop)
        anonymous = await shop.decide()
        assert not anonymous.degraded


async def test_a_frozen_store_costs_a_decision_no_more_than_the_deadline(
    redis: RedisServer,
) -> None:
    # The deadline is 10 ms; the store would take a minute.
    async with ready_service(redis_url=redis.url, store_deadline_ms=60_000) as shop:
        await prepare(shop)
        redis.freeze()
        try:
            for i in range(20):
                async with asyncio.timeout(LIMIT_S):
                    assert (await shop.decide(**facts_of(f"u{i}"))).degraded
        finally:
            redis.thaw()


async def test_an_outage_is_told_by_health_and_metric_and_refuses_writes(
    redis: RedisServer,
) -> None:
    async with ready_service(redis_url=redis.url, **METERED, **PATIENT) as shop:
        await prepare(shop)
        assert await shop.metric("canary_store_up") == 1
        before = await shop.policy()
        redis.kill()
        await store_is_down(shop)
        assert await shop.metric("canary_store_up") == 0
        assert await shop.is_serving("")
        assert await shop.is_serving("canary.decision.v1.DecisionService")
        assert not await shop.is_serving("canary.admin.v1.AdminService")
        unavailable = grpc.StatusCode.UNAVAILABLE
        with refused(unavailable):
            await shop.change("SetPercentage", percentage=100)
        with refused(unavailable):
            await shop.profile("u", tier="premium")
        with refused(unavailable):
            await shop.policy()
        assert (await shop.variant("u0"))[0] == STABLE
        redis.start()
        await until(shop.is_serving)
        assert await shop.metric("canary_store_up") == 1
        assert await shop.is_serving("canary.admin.v1.AdminService")
        assert await shop.policy() == before
        with refused(grpc.StatusCode.NOT_FOUND):
            await shop.admin.GetProfile(admin_pb2.GetProfileRequest(user="u"))


async def test_explain_says_what_decide_says_with_and_without_the_store(
    redis: RedisServer,
) -> None:
    async def agree(shop: Calls, user: str, **more: str) -> admin_pb2.ExplainResponse:
        decision = await shop.decide(headers={"x-user-id": user, **more})
        request = admin_pb2.ExplainRequest()
        request.request.service_key = SHOP
        request.request.headers.update({"x-user-id": user, **more})
        found: admin_pb2.ExplainResponse = await shop.admin.Explain(request)
        assert found.decision == decision
        assert [stage.reason for stage in found.stages] == [1, 9, *range(2, 9)]
        assert [s.reason for s in found.stages if s.decided] == [decision.reason]
        assert all(stage.finding for stage in found.stages)
        return found

    async with ready_service(redis_url=redis.url, **PATIENT) as shop:
        await prepare(shop, 50)
        await shop.change("AddRule", rule=a_rule())
        assert "is in-progress" in (await agree(shop, "listed")).in_force
        await agree(shop, "u1")
        await agree(shop, "u1", **{"x-canary-test": "true"})
        redis.kill()
        await store_is_down(shop)
        assert not (await agree(shop, "listed")).decision.degraded
        assert (await agree(shop, "stranger")).decision.degraded
        assert not (await agree(shop, "stranger", **{"x-canary-test": "true"})).decision.degraded


async def test_a_profile_that_is_garbage_counts_as_not_known_and_ends_no_stream(
    redis: RedisServer, shop: Calls
) -> None:
    async with Redis.from_url(redis.url) as client:
        await client.hset("canary:profile:spoiled", "custom", b"\xff{")
    found = await shop.decide(**facts_of("spoiled"))
    assert found.degraded
    assert await shop.variant("listed") == EARLY
