"""A gateway that wants to know the user hears what a decision was made with, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_documents import to_document
from redis.asyncio import Redis
from support.calls import SHOP, Calls, a_baseline, a_rule, facts_of, ready_service, until
from support.redis_server import RedisServer, running_redis

# A slow machine must not make an answer of a healthy store too late.
PATIENT = {"person_deadline_ms": 10_000, "store_deadline_ms": 10_000}


@pytest.fixture(params=["memory", "redis"])
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Calls]:
    url = ""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = f"{server.url}?db=2"
    async with ready_service(redis_url=url, **PATIENT) as calls:
        await prepare(calls)
        yield calls
        if url:
            async with Redis.from_url(url) as client:
                await client.flushdb()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis(appendonly=True) as server:
        yield server


async def prepare(shop: Calls) -> None:
    await shop.release(0)
    await shop.segment("early", canary_eligible=True)
    await shop.segment("late", canary_eligible=True)
    await shop.change("AddMembers", segment="early", users=["ann"])
    await shop.profile("ann", tier="premium", tags=["a"])


async def person(shop: Calls, **facts: Any) -> dict[str, Any] | None:
    """What the answer says of the user; None if it says nothing."""
    answer = await shop.answer(**{"want_person": True, **facts_of("ann"), **facts})
    assert answer.WhichOneof("answer") == "decision"
    return to_document(answer.person) if answer.HasField("person") else None


async def epoch(shop: Calls) -> str:
    return str((await shop.policy())["membership_epoch"])


async def streamed(shop: Calls, request: pb.DecideRequest) -> pb.DecideResponse:
    call = shop.decision.DecideStream()
    numbered = pb.NumberedRequest(id=7, request=request)
    await call.write(pb.DecideStreamRequest(requests=[numbered]))
    answers = await call.read()
    call.cancel()
    (found,) = answers.responses
    assert found.id == 7
    response: pb.DecideResponse = found.response
    return response


async def test_who_wants_the_person_gets_what_get_person_says(shop: Calls) -> None:
    expected = {
        "user": "ann",
        "is_known": True,
        "listed_in": ["early"],
        "looked_in": ["early", "late"],
        "membership_epoch": await epoch(shop),
        "profile": {"tier": "premium", "tags": ["a"]},
    }
    # The first reads the store, the others a copy.
    for _ in range(2):
        found = await person(shop)
        assert found is not None
        assert found | {"membership_epoch": str(found["membership_epoch"])} == expected
    asked = pb.GetPersonRequest(service_key=SHOP, user="ann")
    assert to_document(await shop.decision.GetPerson(asked)) == found
    request = pb.DecideRequest(service_key=SHOP, want_person=True, **facts_of("ann"))
    assert to_document((await streamed(shop, request)).person) == found


async def test_a_person_who_is_in_nothing_is_known_too(shop: Calls) -> None:
    found = await person(shop, **facts_of("stranger"))
    assert found is not None
    assert (found["user"], found["is_known"]) == ("stranger", True)
    assert "listed_in" not in found


async def test_who_does_not_want_the_person_pays_no_byte(shop: Calls) -> None:
    for _ in range(2):
        assert await person(shop, want_person=False) is None


async def test_a_decision_that_needs_no_person_says_nothing_of_one(shop: Calls) -> None:
    assert await person(shop, headers={}) is None
    await shop.change("AddRule", rule=a_rule())
    headers = {"x-user-id": "ann", "x-canary-test": "true"}
    assert await person(shop, headers=headers) is None
    assert await person(shop) is not None
    await shop.change("MoveRelease", move=admin_pb2.MOVE_PROMOTE)
    assert await person(shop) is None


async def test_the_user_is_the_one_whom_the_policy_in_force_names(shop: Calls) -> None:
    identity = policy_pb2.Identity(user_id_header="x-account")
    await shop.change("SetIdentity", identity=identity)
    found = await person(shop, headers={"x-account": "ann", "x-user-id": "bob"})
    assert found is not None
    assert found["user"] == "ann"
    assert await person(shop) is None


async def test_a_person_known_by_a_baseline_says_by_which_segments(shop: Calls) -> None:
    await shop.change("MoveRelease", move=admin_pb2.MOVE_PROMOTE)
    segments = [{"name": "early", "canary_eligible": True, "listed": True}]
    baseline = a_baseline(0, segments=segments)
    found = await person(shop, baseline_hash=baseline.hash, baseline=baseline)
    assert found is not None
    assert (found["listed_in"], found["looked_in"]) == (["early"], ["early"])
    assert "membership_epoch" not in found


async def test_a_change_of_members_changes_the_epoch_that_is_told(shop: Calls) -> None:
    before = await person(shop)
    await shop.change("RemoveMembers", segment="early", users=["ann"])
    after = await person(shop)
    assert before is not None
    assert after is not None
    assert int(before["membership_epoch"]) < int(after["membership_epoch"])
    assert "listed_in" not in after


async def test_resend_names_the_header_of_the_user_under_the_policy_in_force(shop: Calls) -> None:
    found = await shop.answer(reads_digest="?")
    assert found.resend.user_id_header == "x-user-id"
    await shop.change("SetIdentity", identity=policy_pb2.Identity(user_id_header="X-Account"))
    found = await shop.answer(reads_digest="?")
    assert found.resend.user_id_header == "x-account"
    assert "x-account" in found.resend.reads.headers


async def test_a_person_whom_nobody_knows_is_not_told_and_an_old_one_is_as_old(
    redis: RedisServer,
) -> None:
    async with ready_service(redis_url=redis.url, **PATIENT) as shop:
        await prepare(shop)
        assert "is_old" not in (await person(shop) or {})
        await shop.change("AddMembers", segment="late", users=["bob"])
        redis.kill()

        async def is_down() -> bool:
            return not await shop.is_serving()

        for _ in range(2):
            found = await person(shop)
            assert found is not None
            assert (found["is_old"], found["listed_in"]) == (True, ["early"])
            assert await person(shop, **facts_of("nobody")) is None
            asked = pb.GetPersonRequest(service_key=SHOP, user="nobody")
            assert not (await shop.decision.GetPerson(asked)).is_known
            await until(is_down)
