"""Gateways send what is read and no more, and a baseline whole only once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from redis.asyncio import Redis
from support.calls import (
    CANARY,
    SHOP,
    STABLE,
    Calls,
    a_baseline,
    a_rule,
    facts_of,
    ready_service,
    refused,
    until,
)
from support.redis_server import RedisServer

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ALL, NONE = a_baseline(100), a_baseline(0)


@pytest.fixture(params=["memory", "redis"])
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Calls]:
    url = ""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = f"{server.url}?db=1"
    # As long as a read of who a user is may take on a busy machine.
    patient = {"store_deadline_ms": 10_000, "person_deadline_ms": 10_000}
    async with ready_service(redis_url=url, **patient) as calls:
        yield calls
        if url:
            await _flush(url)


async def _flush(url: str) -> None:
    async with Redis.from_url(url) as client:
        await client.flushdb()


async def test_facts_chosen_by_reads_no_longer_in_force_are_asked_for_again(shop: Calls) -> None:
    await shop.release(100)
    await shop.change("SetRules", rules=[a_rule(variant=policy_pb2.VARIANT_STABLE)])
    answer = await shop.answer(reads_digest="0000000000000000", **facts_of("u1"))
    assert answer.resend.reads.headers == ["x-canary-test", "x-user-id"]
    assert answer.resend.reads.cookies == ["canary_id"]
    assert answer.resend.reads.consumer
    assert (answer.resend.reads.client_ip, answer.resend.reads.path) == (False, False)
    assert not answer.resend.baseline
    digest = answer.resend.reads.digest
    assert (await shop.decide(reads_digest=digest, **facts_of("u1"))).version == CANARY


async def test_a_rule_that_reads_more_makes_the_old_digest_stale(shop: Calls) -> None:
    await shop.release(100)
    before = (await shop.answer(reads_digest="?")).resend.reads.digest
    rule = a_rule("internal", source=policy_pb2.SOURCE_PATH, key="", exact="/internal")
    await shop.change("AddRule", rule=rule)
    answer = await shop.answer(reads_digest=before)
    assert answer.resend.reads.path


async def test_a_request_without_digest_is_decided_as_it_is(shop: Calls) -> None:
    await shop.release(100)
    assert (await shop.decide(**facts_of("u1"))).version == CANARY


async def test_a_baseline_known_by_hash_only_is_asked_for_once(shop: Calls) -> None:
    asked = await shop.answer(baseline_hash=ALL.hash, **facts_of("u1"))
    assert asked.resend.baseline
    whole = await shop.decide(baseline_hash=ALL.hash, baseline=ALL, **facts_of("u1"))
    assert whole.version == "declared"
    assert whole.policy_revision == 0
    assert await shop.decide(baseline_hash=ALL.hash, **facts_of("u2")) == (
        await shop.decide(baseline_hash=ALL.hash, baseline=ALL, **facts_of("u2"))
    )


async def test_a_baseline_under_another_hash_is_refused(shop: Calls) -> None:
    forged = pb.Baseline(hash=NONE.hash, policy=ALL.policy)
    with refused(INVALID, "baseline.hash", "SHA-256"):
        await shop.answer(baseline_hash=NONE.hash, baseline=forged)
    assert (await shop.answer(baseline_hash=NONE.hash)).resend.baseline


async def test_an_invalid_baseline_is_refused_field_by_field(shop: Calls) -> None:
    policy = policy_pb2.Policy(rules=[a_rule("bad", exact="", pattern="(")])
    with refused(INVALID, "service_key", "rules[0].pattern"):
        await shop.answer(baseline_hash="x", baseline=pb.Baseline(hash="x", policy=policy))


async def test_a_baseline_of_another_service_key_is_refused_rather_than_asked_for_for_ever(
    shop: Calls,
) -> None:
    other = a_baseline(100, "other")
    with refused(INVALID, "baseline_hash", "'other'"):
        await shop.answer(baseline_hash=other.hash, baseline=other)


async def test_two_gateways_with_different_baselines_each_follow_their_own(shop: Calls) -> None:
    for baseline in (ALL, NONE):
        await shop.decide(baseline_hash=baseline.hash, baseline=baseline)
    for user in ("u1", "u2", "u3"):
        found = [
            (await shop.decide(baseline_hash=baseline.hash, **facts_of(user))).version
            for baseline in (ALL, NONE)
        ]
        assert found == ["declared", ""]


async def test_a_baseline_is_never_stored(shop: Calls) -> None:
    await shop.decide(baseline_hash=ALL.hash, baseline=ALL)
    services = await shop.admin.ListServices(admin_pb2.ListServicesRequest())
    assert list(services.services) == []
    with refused(grpc.StatusCode.NOT_FOUND, SHOP):
        await shop.policy()


async def test_a_release_in_progress_rules_over_a_baseline_until_it_ends(shop: Calls) -> None:
    async def version() -> str:
        return (await shop.decide(baseline_hash=ALL.hash, **facts_of("u1"))).version

    await shop.decide(baseline_hash=ALL.hash, baseline=ALL)
    await shop.release(0)
    assert await version() == STABLE
    await shop.change("MoveRelease", move=admin_pb2.MOVE_ROLL_BACK)
    assert await version() == "declared"


async def test_under_a_baseline_stable_requests_go_to_the_stored_stable_version(
    shop: Calls,
) -> None:
    await shop.release(100)
    await shop.change("MoveRelease", move=admin_pb2.MOVE_PROMOTE)
    found = await shop.decide(baseline_hash=NONE.hash, baseline=NONE, **facts_of("u1"))
    assert (found.version, found.backend.upstream) == (CANARY, f"{SHOP}-{CANARY}")


async def test_the_digest_of_a_baseline_holds_for_that_baseline(shop: Calls) -> None:
    await shop.decide(baseline_hash=ALL.hash, baseline=ALL)
    asked = await shop.answer(baseline_hash=ALL.hash, reads_digest="?")
    digest = asked.resend.reads.digest
    assert (await shop.decide(baseline_hash=ALL.hash, reads_digest=digest)).variant


async def effective(shop: Calls) -> list[tuple[str, list[str], bool]]:
    request = admin_pb2.GetEffectivePolicyRequest(service_key=SHOP)
    answer = await shop.admin.GetEffectivePolicy(request)
    return [(p.baseline_hash, list(p.gateways), p.is_baseline) for p in answer.policies]


async def test_people_see_which_gateways_have_which_baseline_while_they_watch(
    shop: Calls,
) -> None:
    first = shop.watch(SHOP, gateway="kong-1", baselines=(ALL,))
    second = shop.watch(SHOP, gateway="kong-2", baselines=(NONE,))
    third = shop.watch(SHOP, gateway="kong-3", baselines=(NONE,))
    for stream in (first, second, third):
        await stream.read()
    listed = await shop.admin.ListBaselines(admin_pb2.ListBaselinesRequest(service_key=SHOP))
    found = {known.baseline.hash: list(known.gateways) for known in listed.baselines}
    assert found == {ALL.hash: ["kong-1"], NONE.hash: ["kong-2", "kong-3"]}
    assert {known.baseline.policy.SerializeToString() for known in listed.baselines} == {
        baseline.policy.SerializeToString() for baseline in (ALL, NONE)
    }
    assert sorted(await effective(shop)) == sorted(
        [(ALL.hash, ["kong-1"], True), (NONE.hash, ["kong-2", "kong-3"], True)]
    )
    third.cancel()

    async def is_gone() -> bool:
        return (NONE.hash, ["kong-2"], True) in await effective(shop)

    await until(is_gone)
    first.cancel()
    second.cancel()

    async def is_forgotten() -> bool:
        return await effective(shop) == [("", [], False)]

    await until(is_forgotten)


async def test_people_see_that_a_release_rules_over_a_baseline_and_why(shop: Calls) -> None:
    stream = shop.watch(SHOP, baselines=(ALL,))
    await stream.read()
    await shop.release(5)
    request = admin_pb2.GetEffectivePolicyRequest(service_key=SHOP)
    (found,) = (await shop.admin.GetEffectivePolicy(request)).policies
    assert (found.baseline_hash, found.is_baseline) == (ALL.hash, False)
    assert "is in-progress" in found.why
    assert found.policy.release.version == CANARY
    stream.cancel()


async def test_baselines_of_another_service_key_are_not_listed(shop: Calls) -> None:
    stream = shop.watch(SHOP, "other", baselines=(ALL, a_baseline(5, "other")))
    await stream.read()
    for key, count in (("", 2), ("other", 1), ("third", 0)):
        request = admin_pb2.ListBaselinesRequest(service_key=key)
        assert len((await shop.admin.ListBaselines(request)).baselines) == count
    stream.cancel()


async def test_a_watch_with_a_forged_baseline_is_refused(shop: Calls) -> None:
    with refused(INVALID, "SHA-256"):
        await shop.watch(SHOP, baselines=(pb.Baseline(hash="x", policy=ALL.policy),)).read()


async def explain(shop: Calls, **fields: object) -> admin_pb2.ExplainResponse:
    request = pb.DecideRequest(service_key=SHOP, headers={"x-user-id": "u1"}, **fields)  # type: ignore[arg-type]
    found: admin_pb2.ExplainResponse = await shop.admin.Explain(
        admin_pb2.ExplainRequest(request=request)
    )
    return found


async def test_explain_by_baseline_hash_says_what_decide_says(shop: Calls) -> None:
    decision = await shop.decide(baseline_hash=ALL.hash, baseline=ALL, **facts_of("u1"))
    found = await explain(shop, baseline_hash=ALL.hash)
    assert found.decision == decision
    assert "baseline rules" in found.in_force
    assert sorted(stage.reason for stage in found.stages) == list(range(1, 10))
    decided = [stage for stage in found.stages if stage.decided]
    assert [stage.reason for stage in decided] == [policy_pb2.REASON_PERCENTAGE]


async def test_explain_by_an_unknown_baseline_hash_says_so(shop: Calls) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "baseline_hash", NONE.hash):
        await explain(shop, baseline_hash=NONE.hash)
    found = await explain(shop, baseline_hash=NONE.hash, baseline=NONE)
    assert not found.decision.version


async def test_two_baselines_that_list_different_segments_do_not_share_what_is_known_of_a_user(
    shop: Calls,
) -> None:
    await shop.segment("early", canary_eligible=True)
    await shop.change("AddMembers", segment="early", users=["u1"])
    segments = {
        name: [{"name": name, "canary_eligible": True, "listed": True}]
        for name in ("late", "early")
    }
    late = a_baseline(0, segments=segments["late"])
    early = a_baseline(0, segments=segments["early"])
    assert not (await shop.decide(baseline_hash=late.hash, baseline=late, **facts_of("u1"))).matched
    found = await shop.decide(baseline_hash=early.hash, baseline=early, **facts_of("u1"))
    assert found.matched == "early"
