"""Controllers are killed at any moment, on a real service and Redis: one goes on, none errs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from canary.admin.v1 import admin_pb2 as pb
from canary.decision.v1 import decision_pb2 as decision_pb
from canary.policy.v1 import policy_pb2 as policy_pb
from canary_documents import to_message
from dev_stack.gateways import command
from dev_stack.processes import Process
from redis import Redis
from support.calls import SHOP, Calls, a_change, ready_service
from support.redis_server import RedisServer, running_redis

STEPS = (1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0)
PLAN: dict[str, Any] = {
    "steps": [{"weight": weight, "hold": "2s"} for weight in STEPS],
    "check_interval": "1s",
}
VERSIONS = [{"version": "v1", "status": "stable"}, {"version": "v2"}]
WITHIN_S = 240.0
LOOK_EVERY_S = 0.05
KILLS = 12


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def shop(redis: RedisServer) -> AsyncIterator[Calls]:
    with Redis.from_url(redis.url) as client:
        client.flushall()
    # Controllers that start keep the machine busy, and a late store is not what is tested.
    async with ready_service(redis_url=redis.url, store_deadline_ms=10_000) as calls:
        document = {"plan": PLAN, "versions": VERSIONS}
        policy = to_message(document, policy_pb.Policy)
        await calls.admin.Apply(pb.ApplyRequest(change=a_change(), policy=policy))
        await calls.admin.StartRelease(pb.StartReleaseRequest(change=a_change(), version="v2"))
        yield calls


def a_controller(calls: Calls, folder: Path, name: str) -> Process:
    """A controller that looks often and is missed soon."""
    options = ("--holder", name, "--look-every", "0.2s", "--lease-s", "2", "--metrics-listen", "")
    run = command("canary_controller", "--admin", calls.running.admin_address, *options)
    return Process(name, run, folder / f"{name}.log", ready_word='"ready"')


@asynccontextmanager
async def traffic(calls: Calls, errors: int = 0) -> AsyncIterator[None]:
    """A gateway that tells of requests again and again; so many of 20 of the canary's fail."""
    release = (await calls.policy())["release"]["id"]

    async def tell() -> None:
        for number in count():
            await report(calls, f"batch-{number}", release, errors)
            await asyncio.sleep(0.1)  # what is simulated, not a wait for something

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def report(calls: Calls, batch_id: str, release: str, errors: int) -> None:
    sides = (
        ("v2", policy_pb.VARIANT_CANARY, policy_pb.COHORT_DRAWN, errors),
        ("v1", policy_pb.VARIANT_STABLE, policy_pb.COHORT_CONTROL, 0),
    )
    series = [
        decision_pb.OutcomeSeries(
            service_key=SHOP,
            version=version,
            variant=variant,
            release_id=release,
            cohort=cohort,
            statuses={200: 20 - failed, 500: failed} if failed else {200: 20},
            request=decision_pb.LatencyHistogram(buckets=[300], counts=[20], sum_us=8_000),
        )
        for version, variant, cohort, failed in sides
    ]
    request = decision_pb.ReportOutcomesRequest(batch_id=batch_id, series=series)
    await calls.decision.ReportOutcomes(request)


async def kill_at_random(controllers: list[Process], chance: Random, calls: Calls) -> None:
    """Kill one after another until there were enough kills or the release is over."""
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0.0, 3.0))  # the random moment
        victim = chance.choice(controllers)
        victim.kill()
        await asyncio.to_thread(victim.start)
        if await status(calls) != "in-progress":
            return


async def status(calls: Calls) -> str:
    return str((await calls.policy())["release"]["status"])


async def ended(calls: Calls) -> None:
    """Wait for the end of the release."""
    async with asyncio.timeout(WITHIN_S):
        while await status(calls) == "in-progress":  # noqa: ASYNC110 - another process ends it
            await asyncio.sleep(LOOK_EVERY_S)


async def history(calls: Calls) -> list[dict[str, Any]]:
    """The release at every revision of it, oldest first."""
    newest = (await calls.policy())["revision"]
    found = []
    for revision in range(1, newest + 1):
        request = pb.GetPolicyRequest(service_key=SHOP, revision=revision)
        policy = (await calls.admin.GetPolicy(request)).policy
        if policy.HasField("release"):
            found.append(policy.release)
    return [
        {"weight": r.percentage, "fence": r.fence, "since": r.weight_since.ToDatetime()}
        for r in found
    ]


def check(releases: list[dict[str, Any]]) -> None:
    """One step after the other, each held, by controllers of which none acts after a newer one."""
    fences = [release["fence"] for release in releases]
    assert fences == sorted(fences)
    for before, after in pairwise(releases):
        if after["weight"] > before["weight"]:
            assert after["weight"] == min(w for w in STEPS if w > before["weight"])
            if before["weight"]:
                assert (after["since"] - before["since"]).total_seconds() >= 2


@pytest.mark.parametrize("seed", range(2))
async def test_a_good_release_is_promoted_step_by_step_whoever_is_killed(
    shop: Calls, tmp_path: Path, seed: int
) -> None:
    await run(shop, tmp_path, seed, errors=0)
    assert await status(shop) == "completed"
    releases = await history(shop)
    check(releases)
    assert [r["weight"] for r in releases if r["weight"]][: len(STEPS)] == list(STEPS)


async def test_a_bad_release_is_rolled_back_whoever_is_killed(shop: Calls, tmp_path: Path) -> None:
    await run(shop, tmp_path, 7, errors=10)
    assert await status(shop) == "rolled-back"
    check(await history(shop))


async def run(shop: Calls, folder: Path, seed: int, errors: int) -> None:
    controllers = [a_controller(shop, folder, name) for name in ("one", "other")]
    try:
        for controller in controllers:
            await asyncio.to_thread(controller.start)
        async with traffic(shop, errors):
            await kill_at_random(controllers, Random(seed), shop)
            await ended(shop)
    finally:
        for controller in controllers:
            controller.kill()
