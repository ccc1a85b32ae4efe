"""A release steered by the admin API, as users behind the gateway see it."""

from __future__ import annotations

import asyncio
import statistics

from dev_stack.processes import wait_until
from dev_stack.stack import CANARY, STABLE, Stack
from support.admin import Admin
from support.stack import PATIENCE_S, Client, share, until_release_rules

# The service would find the change by itself, unannounced, only after many more.
ANSWERS = 10
TESTER = {"name": "testers", "source": "header", "key": "x-tester", "exact": "yes"}


async def becomes(client: Client, headers: dict[str, str], version: str, path: str = "") -> None:
    """Wait until a request gets ``version``."""
    async with asyncio.timeout(PATIENCE_S):
        while await client.version(headers, path or "/api/v1/hello") != version:
            pass


async def test_a_release_rules_over_the_baseline_and_gives_it_back(
    client: Client, admin: Admin
) -> None:
    declared = {"x-canary-test": "true"}
    assert await client.version(declared) == CANARY
    admin.release(0)
    await becomes(client, declared, STABLE)
    admin.end()
    await becomes(client, declared, CANARY)


async def test_raising_only_adds_users_and_lowering_only_removes_them(
    client: Client, admin: Admin
) -> None:
    users = [f"raise-{number}" for number in range(400)]
    admin.release(100)
    await becomes(client, {"x-user-id": "raise-0"}, CANARY)
    everybody = {user for user, v in (await client.versions(users)).items() if v == CANARY}
    before = everybody
    for percentage in (60, 30, 10, 0):
        admin("SetPercentage", percentage=percentage)
        leaves = next(user for user in sorted(before) if explained(admin, user) == STABLE)
        await becomes(client, {"x-user-id": leaves}, STABLE)
        now = {user for user, v in (await client.versions(users)).items() if v == CANARY}
        assert now < before
        before = now
    assert (everybody, before) == (set(users), set())


def explained(admin: Admin, user: str) -> str:
    """The version that the newest revision gives a user."""
    request = {"service_key": admin.service_key, "headers": {"x-user-id": user}}
    return str(admin("Explain", request=request).decision.version)


async def test_rules_segments_and_profiles_steer_users(client: Client, admin: Admin) -> None:
    admin.release(0)
    admin("AddRule", rule={**TESTER, "variant": "canary"})
    await becomes(client, {"x-tester": "yes"}, CANARY)

    admin("PutSegment", segment={"name": "friends", "canary_eligible": True, "listed": True})
    admin("AddMembers", segment="friends", users=["ann", "张三"])
    await becomes(client, {"x-user-id": "ann"}, CANARY)
    assert await client.version({"x-user-id": "eve"}) == STABLE

    admin(
        "PutSegment",
        segment={"name": "premium", "criteria": {"tiers": ["premium"]}},
    )
    profile = {"user": "ann", "tier": "premium"}
    admin("PutProfile", profile=profile, actor="tester", reason="test")
    await becomes(client, {"x-user-id": "ann"}, STABLE)


async def test_a_consumer_is_whitelisted_and_a_stranger_is_refused_by_kong(
    client: Client, orders: Admin
) -> None:
    orders.release(0)
    orders("AddToWhitelist", entries={"consumers": ["alice"]})
    await becomes(client, {"apikey": "alice-key"}, CANARY, "/orders/1")
    assert await client.version({"apikey": "bob-key"}, "/orders/1") == STABLE
    status, _, _ = await client.get("/orders/1")
    assert status == 401


async def test_a_version_whose_upstream_is_missing_is_never_reached_and_nobody_notices(
    client: Client, admin: Admin, stack: Stack
) -> None:
    admin("RegisterVersion", version={"version": "v9", "backend": {"upstream": "no-such-upstream"}})
    admin("StartRelease", version="v9", percentage=100)
    wait_until(lambda: "no-backend" in _after_asking(stack), PATIENCE_S, "the fall to stable")


def _after_asking(stack: Stack) -> str:
    import http.client

    connection = http.client.HTTPConnection(stack.gateway.address, timeout=PATIENCE_S)
    connection.request("GET", "/api/v1/hello", headers={"x-user-id": "u"})
    answer = connection.getresponse()
    assert answer.status == 200
    answer.read()
    connection.close()
    return stack.plugin.output()


async def test_a_change_is_visible_at_the_gateway_within_a_tenth_of_a_second(
    client: Client, admin: Admin
) -> None:
    admin.release(0)
    user = {"x-user-id": "quick"}
    await becomes(client, user, STABLE)
    seen_after = []
    for percentage, version in [(100, CANARY), (0, STABLE)] * 4:
        await asyncio.to_thread(admin, "SetPercentage", percentage=percentage)
        answers = 0
        async with asyncio.timeout(PATIENCE_S):
            while await client.version(user) != version:
                answers += 1
        seen_after.append(answers)
    # In answers, one after the other, of which a tenth of a second has room for more: where the
    # machine is busy they take longer too. The median, for it may be so at any moment.
    assert statistics.median(seen_after) <= ANSWERS


async def test_a_release_at_half_gives_half_the_users_the_canary(
    client: Client, admin: Admin
) -> None:
    admin.release(50, salt="half")
    await until_release_rules(client)
    found = await client.versions(f"half-{number}" for number in range(600))
    assert 0.4 < share(found) < 0.6
