"""A shadow: decided by, counted, and without any effect on who gets what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_documents import to_message
from support.calls import SHOP, Calls, ready_service, refused

STABLE, CANARY = policy_pb2.VARIANT_STABLE, policy_pb2.VARIANT_CANARY
RULE, DEFAULT = policy_pb2.REASON_RULE, policy_pb2.REASON_DEFAULT
TESTERS = {
    "name": "testers", "source": "header", "key": "x-team", "exact": "qa", "variant": "canary",
}  # fmt: skip


def proposed(**more: Any) -> dict[str, Any]:
    return {
        "versions": [
            {"version": "v1", "status": "stable"},
            {"version": "v2", "status": "canary"},
        ],
        "release": {
            "id": "tried", "version": "v2", "status": "in-progress", "percentage": 0, "salt": "s",
        },
        "rules": [TESTERS],
        **more,
    }  # fmt: skip


@pytest.fixture
async def shop() -> AsyncIterator[Calls]:
    async with ready_service() as calls:
        await calls.release(0)
        yield calls


def a_policy(**more: Any) -> policy_pb2.Policy:
    return to_message(proposed(**more), policy_pb2.Policy)


async def decide(shop: Calls, **headers: str) -> tuple[int, int]:
    facts = {name.replace("_", "-"): value for name, value in headers.items()}
    decision = await shop.decide(headers=facts)
    return decision.variant, decision.reason


async def counts(shop: Calls) -> dict[tuple[int, int, int, int], int]:
    found = await shop.admin.GetShadow(pb.GetShadowRequest(service_key=SHOP))
    return {
        (c.in_force, c.in_force_reason, c.shadow, c.shadow_reason): c.requests for c in found.counts
    }


async def test_a_shadow_is_counted_and_acts_on_nobody(shop: Calls) -> None:
    assert await decide(shop, x_team="qa") == (STABLE, DEFAULT)
    await shop.change("SetShadow", policy=a_policy(), valid_s=60)
    for _ in range(3):
        assert await decide(shop, x_team="qa") == (STABLE, DEFAULT)
    assert await decide(shop, x_team="sales") == (STABLE, DEFAULT)
    assert await counts(shop) == {
        (STABLE, DEFAULT, CANARY, RULE): 3,
        (STABLE, DEFAULT, STABLE, DEFAULT): 1,
    }


async def test_what_the_shadow_reads_is_asked_of_gateways(shop: Calls) -> None:
    await shop.change("SetShadow", policy=a_policy(), valid_s=60)
    answer = await shop.answer(reads_digest="of another policy")
    assert "x-team" in answer.resend.reads.headers


async def test_another_shadow_begins_anew_and_none_has_no_counts(shop: Calls) -> None:
    await shop.change("SetShadow", policy=a_policy(), valid_s=60)
    await decide(shop, x_team="qa")
    await shop.change("SetShadow", policy=a_policy(rules=[]), valid_s=90)
    assert await counts(shop) == {}
    await shop.change("RemoveShadow")
    with refused(grpc.StatusCode.NOT_FOUND, "no shadow"):
        await counts(shop)


async def test_a_shadow_waits_for_nobody_s_membership(shop: Calls) -> None:
    """Whom the policy in force did not ask for may be protected, so the shadow says stable."""
    protected = {"name": "vip", "canary_eligible": False, "criteria": {"tiers": ["premium"]}}
    policy = a_policy(rules=[], segments=[protected])
    policy.release.percentage = 100
    await shop.change("SetShadow", policy=policy, valid_s=60)
    await decide(shop, x_user_id="somebody")
    assert await counts(shop) == {(STABLE, DEFAULT, STABLE, DEFAULT): 1}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"shadow": {"policy": {"service_key": SHOP}}}, "a shadow has none"),
        ({"service_key": "other"}, "give that of the policy"),
        ({"versions": []}, "is not registered"),
    ],
)
async def test_a_shadow_that_cannot_be_is_refused(
    shop: Calls, more: dict[str, Any], words: str
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, words):
        await shop.change("SetShadow", policy=a_policy(**more), valid_s=60)


async def test_a_shadow_is_for_a_month_at_most(shop: Calls) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "valid_s: give 1 to"):
        await shop.change("SetShadow", policy=a_policy(), valid_s=2**31)
