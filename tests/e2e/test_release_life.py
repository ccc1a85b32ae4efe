"""Whole lives of releases, each step seen in real requests through the gateway."""

from __future__ import annotations

import asyncio

from canary.policy.v1 import policy_pb2
from dev_stack.stack import CANARY, STABLE
from support.admin import Admin
from support.stack import PATH, PATIENCE_S, Client, share, until_release_rules

USERS = [f"life-{number}" for number in range(600)]
FIRST = USERS[:40]


async def served(client: Client, users: list[str], path: str = PATH) -> set[str]:
    """Those of the users who get the canary."""
    found = await client.versions(users, path=path)
    return {user for user, version in found.items() if version == CANARY}


async def until_served(client: Client, admin: Admin) -> set[str]:
    """The same, once the gateway goes by the newest revision."""
    foretold = {user for user in USERS if explained(admin, user) == CANARY}
    async with asyncio.timeout(PATIENCE_S):
        # A change is nearly always at the gateway when the first ones have seen it.
        for users in (FIRST, USERS):
            while (found := await served(client, users)) != foretold.intersection(users):
                pass
    return found


def explained(admin: Admin, user: str) -> str:
    request = {"service_key": admin.service_key, "headers": {"x-user-id": user}}
    return str(admin("Explain", request=request).decision.version)


async def test_a_version_is_registered_started_raised_and_promoted(
    client: Client, admin: Admin
) -> None:
    started = admin.release(5, salt="life")
    await until_release_rules(client)
    few = await until_served(client, admin)
    assert 0.01 < len(few) / len(USERS) < 0.1
    admin("SetPercentage", percentage=25)
    more = await until_served(client, admin)
    assert few < more
    assert 0.18 < len(more) / len(USERS) < 0.33
    admin("MoveRelease", move="promote")
    policy = admin("GetPolicy", service_key=admin.service_key).policy
    status = {v.version: v.status for v in policy.versions}
    assert (status[STABLE], status[CANARY]) == (
        policy_pb2.VERSION_STATUS_DEPRECATED,
        policy_pb2.VERSION_STATUS_STABLE,
    )
    # No release is in force any more, so that the baseline rules, and stable is the new version.
    async with asyncio.timeout(PATIENCE_S):
        for users in (FIRST, USERS):
            while share(await client.versions(users)) < 1:
                pass
    # Going back over a promotion gives the same people the canary again, and only them.
    admin("Revert", revision=started)
    assert few == await until_served(client, admin)


async def test_a_release_is_halted_resumed_and_rolled_back(client: Client, admin: Admin) -> None:
    admin.release(50, salt="life")
    await until_release_rules(client)
    half = await until_served(client, admin)
    assert 0.4 < len(half) / len(USERS) < 0.6
    admin("MoveRelease", move="halt")
    assert await until_served(client, admin) == set()
    # What the baseline would give the canary gets stable too: the release is halted, not over.
    assert await client.version({"x-canary-test": "true"}) == STABLE
    admin("MoveRelease", move="resume")
    assert await until_served(client, admin) == half
    found = admin("HaltAll", actor="tester", reason="test").services
    assert [(halted.service_key, halted.trouble) for halted in found] == [(admin.service_key, "")]
    assert await until_served(client, admin) == set()
    admin("MoveRelease", move="roll-back")
    async with asyncio.timeout(PATIENCE_S):
        while await client.version({"x-canary-test": "true"}) != CANARY:
            pass
    stable = {s.service_key: s.stable_version for s in admin("ListServices").services}
    assert stable[admin.service_key] == STABLE


async def test_rolling_back_a_release_in_progress_gives_every_user_stable(
    client: Client, plain_baseline: Admin
) -> None:
    path = "/private/x"
    plain_baseline.release(50, salt="life")
    async with asyncio.timeout(PATIENCE_S):
        half: set[str] = set()
        # The same twice: the release has reached the gateway whole.
        while not half or half != await served(client, USERS, path):
            half = await served(client, USERS, path)
    assert 0.4 < len(half) / len(USERS) < 0.6
    plain_baseline("MoveRelease", move="roll-back")
    async with asyncio.timeout(PATIENCE_S):
        while await served(client, sorted(half), path):
            pass
    # Nobody's baseline gives the canary here: stable is what the rollback gave.
    found = await client.versions(USERS, path=path)
    assert set(found.values()) == {STABLE}
    policy = plain_baseline("GetPolicy", service_key=plain_baseline.service_key).policy
    assert policy.release.status == policy_pb2.RELEASE_STATUS_ROLLED_BACK
