"""Who is compared with whom, and whom a release has served, whoever decides: counted exactly."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice

import pytest
from canary.policy.v1 import policy_pb2
from canary_engine.bucketing import bucket, prefix
from dev_stack.stack import CANARY, STABLE, Stack
from support.admin import Admin, admin_of
from support.exposures import counted_by
from support.stack import Client, client_of, running_stack

WITHIN_S = 90
PERCENTAGE, CONTROL = 20, 40
TESTER = {"name": "testers", "source": "header", "key": "x-tester", "exact": "yes"}
LATEST = {"name": "latest", "source": "header", "key": "x-latest", "exact": "yes"}
IS_TESTER = {"x-tester": "yes"}
# Is chosen as a tester, or by the rule that comes last, and drawn by no revision in between.
WAITS = {**IS_TESTER, "x-latest": "yes", "x-user-id": "who waits"}
DRAWN, STABLE_ONES, COMPARED, CHOSEN = 12, 20, 15, 5


@pytest.fixture(scope="module", params=["remote", "local", "alone"])
def decided_by(request: pytest.FixtureRequest, stack: Stack) -> Iterator[tuple[str, Stack]]:
    if request.param == "remote":
        yield "remote", stack
        return
    decider = "local" if request.param == "local" else "remote"
    with running_stack(decider=decider) as other:
        yield request.param, other


def users_between(salt: str, low: int, high: int, number: int) -> list[str]:
    """Users whose buckets lie there, in percent."""
    before = prefix(salt)
    names = (f"user-{n}" for n in count())
    inside = (u for u in names if low * 1_000 <= bucket(before, u) < high * 1_000)
    return list(islice(inside, number))


async def test_cohorts_and_exposure_are_counted_whoever_decides(
    decided_by: tuple[str, Stack],
) -> None:
    decider, stack = decided_by
    async with client_of(stack) as client:
        with admin_of(stack.admin_address) as admin:
            release = await released(admin, client)
        if decider == "alone":
            await asyncio.to_thread(stack.decision.kill)
        canary = await everybody_asks(client, release.salt)
        if decider == "alone":
            await asyncio.to_thread(stack.start_decision_service)
    with admin_of(stack.admin_address) as admin:
        found = await counted(admin, release.id)
        # Whoever waited for the rule is a tester as well.
        assert found.pop("chosen") > CHOSEN
        assert found == {"drawn": DRAWN, "control": COMPARED}
        users = {*canary, WAITS["x-user-id"]}
        assert len(users) == DRAWN + CHOSEN + 1
        redis = f"unix://{stack.redis_socket}"
        expected = counted_by(redis, admin.service_key, release.id, users)
        assert await exposed(admin, expected) == expected
        admin.end()


async def released(admin: Admin, client: Client) -> policy_pb2.Release:
    """A release that the gateway goes by, at its latest revision."""
    tester = {**TESTER, "variant": "canary"}
    admin("AddRule", rule=tester)
    admin.release(PERCENTAGE)
    admin("SetPercentage", percentage=PERCENTAGE, control=CONTROL)
    await got(client, CANARY)
    admin("SetRules", rules=[{**LATEST, "variant": "stable"}, tester])
    await got(client, STABLE)
    # A service that is killed forgets whom it served in the last second.
    await exposed(admin, 1)
    policy: policy_pb2.Policy = admin("GetPolicy", service_key=admin.service_key).policy
    return policy.release


async def got(client: Client, version: str) -> None:
    """Wait until who waits gets that version."""
    async with asyncio.timeout(WITHIN_S):
        while await client.version(WAITS) != version:
            pass


async def everybody_asks(client: Client, salt: str) -> set[str]:
    """Who got the canary."""
    drawn = users_between(salt, 0, PERCENTAGE, DRAWN)
    for user in drawn:
        assert await client.version({"x-user-id": user}) == CANARY
    for user in users_between(salt, PERCENTAGE, 100 - CONTROL, STABLE_ONES):
        assert await client.version({"x-user-id": user}) == STABLE
    for user in users_between(salt, 100 - CONTROL, 100, COMPARED):
        assert await client.version({"x-user-id": user}) == STABLE
    testers = [f"tester-{number}" for number in range(CHOSEN)]
    for tester in testers:
        assert await client.version({**IS_TESTER, "x-user-id": tester}) == CANARY
    return {*drawn, *testers}


async def counted(admin: Admin, release_id: str) -> Counter[str]:
    """Requests of the release by cohort, once all of each are there: they come bit by bit."""
    found: Counter[str] = Counter()
    # Nobody knows how often who waits has asked.
    expected = Counter(drawn=DRAWN, control=COMPARED, chosen=CHOSEN + 1)
    async with asyncio.timeout(WITHIN_S):
        while not found >= expected:
            found.clear()
            await asyncio.sleep(0.05)
            for version in admin("ListOutcomes", service_key=admin.service_key).outcomes:
                for cohort in version.cohorts if version.release_id == release_id else ():
                    found[policy_pb2.Cohort.Name(cohort.cohort)[7:].lower()] += cohort.requests
    return found


async def exposed(admin: Admin, expected: int) -> int:
    """How many users got the canary, once there are that many."""
    users = 0
    async with asyncio.timeout(WITHIN_S):
        while users < expected:
            await asyncio.sleep(0.05)
            answer = admin("GetExposure", service_key=admin.service_key)
            users = {e.variant: e.users for e in answer.exposures}[policy_pb2.VARIANT_CANARY]
    return users
