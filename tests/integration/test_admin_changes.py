"""Every admin write: a revision that says who and why, applied whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_engine import parse
from decision_svc.store.protocol import ChangeRecord
from decision_svc.store.redis import RedisStore
from support.calls import CANARY, SHOP, STABLE, Calls, a_change, a_rule, ready_service, refused
from support.redis_server import RedisServer, running_redis

ABORTED = grpc.StatusCode.ABORTED
MOVE_ROLL_BACK, MOVE_PROMOTE = pb.MOVE_ROLL_BACK, pb.MOVE_PROMOTE
START, PROMOTE = policy_pb2.APPROVED_MOVE_START, policy_pb2.APPROVED_MOVE_PROMOTE


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Calls]:
    if request.param == "memory":
        async with ready_service() as calls:
            yield calls
        return
    with running_redis() as server:
        async with ready_service(redis_url=server.url, store_deadline_ms=10_000) as calls:
            yield calls


@dataclass(frozen=True, kw_only=True)
class Write:
    """An admin write that a prepared policy accepts, and words of its summary."""

    method: str
    fields: dict[str, Any] = field(default_factory=dict)
    summary: str
    is_repeatable: bool = False
    """Whether the same write again changes nothing and is fine."""

    def __str__(self) -> str:
        return self.method


RULES = [a_rule("one"), a_rule("two", exact="yes")]
WRITES = [
    Write(
        method="RegisterVersion",
        fields={"version": policy_pb2.Version(version="v3", git_commit="abc")},
        summary="register version v3",
        is_repeatable=True,
    ),
    Write(
        method="DeprecateVersion",
        fields={"version": "old"},
        summary="deprecate version old",
        is_repeatable=True,
    ),
    Write(method="RemoveVersion", fields={"version": "old"}, summary="remove version old"),
    Write(
        method="SetPercentage",
        fields={"percentage": 12.345},
        summary="set percentage to 12.345 %",
        is_repeatable=True,
    ),
    Write(
        method="MoveRelease",
        fields={"move": MOVE_ROLL_BACK},
        summary="roll back release",
    ),
    Write(method="Revert", fields={"revision": 2}, summary="revert to revision 2"),
    Write(
        method="SetGuards",
        fields={"guards": policy_pb2.Guards(approvals=policy_pb2.ApprovalRules(start=True))},
        summary="set guards; freezes: none",
        is_repeatable=True,
    ),
    Write(
        method="SetShadow",
        fields={"policy": policy_pb2.Policy()},
        summary="set a shadow for 86,400 s",
    ),
    Write(method="SetRules", fields={"rules": RULES}, summary="set 2 rules", is_repeatable=True),
    Write(
        method="AddRule",
        fields={"rule": a_rule("first"), "position": 0},
        summary="add rule first",
    ),
    Write(method="RemoveRule", fields={"name": "kept"}, summary="remove rule kept"),
    Write(
        method="SetWhitelist",
        fields={"whitelist": policy_pb2.Whitelist(ips=["10.0.0.0/8"])},
        summary="set the whitelist",
        is_repeatable=True,
    ),
    Write(
        method="AddToWhitelist",
        fields={"entries": policy_pb2.Whitelist(users=["u1"], consumers=["c1"])},
        summary="add to the whitelist",
        is_repeatable=True,
    ),
    Write(
        method="RemoveFromWhitelist",
        fields={"entries": policy_pb2.Whitelist(users=["kept"])},
        summary="remove from the whitelist",
    ),
    Write(
        method="PutSegment",
        fields={"segment": policy_pb2.Segment(name="早鸟", listed=True, canary_eligible=True)},
        summary="put segment 早鸟",
        is_repeatable=True,
    ),
    Write(method="RemoveSegment", fields={"name": "kept"}, summary="remove segment kept"),
    Write(
        method="AddMembers",
        fields={"segment": "kept", "users": ["u1", "u2"]},
        summary="add 2 members to kept",
    ),
    Write(
        method="RemoveMembers",
        fields={"segment": "kept", "users": ["kept"]},
        summary="remove 1 members from kept",
    ),
    Write(
        method="PutFlag",
        fields={"flag": policy_pb2.Flag(name="new-cart", enabled=True, percentage=5)},
        summary="put flag new-cart",
        is_repeatable=True,
    ),
    Write(method="RemoveFlag", fields={"name": "kept"}, summary="remove flag kept"),
    Write(
        method="SetBucketing",
        fields={"bucketing": policy_pb2.Bucketing(cookie="sid")},
        summary="set how hash keys are found",
        is_repeatable=True,
    ),
    Write(
        method="SetIdentity",
        fields={"identity": policy_pb2.Identity(user_id_header="X-Uid")},
        summary="set how users are found",
        is_repeatable=True,
    ),
    Write(
        method="SetCompatibility",
        fields={"compatibility": policy_pb2.Compatibility(header="x-api")},
        summary="set compatibility rules",
        is_repeatable=True,
    ),
    Write(
        method="SetOverrides",
        fields={"header": "x-tester", "cookie": "tester"},
        summary="set where overrides are looked for",
        is_repeatable=True,
    ),
]
STARTED = Write(
    method="StartRelease",
    fields={"version": CANARY, "percentage": 5},
    summary="start release of v2 at 5 %",
)

ELSEWHERE = {
    "Approve",
    "WithdrawApproval",
    "CreateOverride",
    "RevokeOverride",
    "Apply",
    "RemoveShadow",
    "TickChecklist",
}
"""Writes that need more than one answer; each has tests in the file about its area."""


async def prepare(shop: Calls, key: str) -> int:
    """A policy that has one of everything; its revision."""
    await shop.release(5, key)
    await shop.register("old", key)
    await shop.change("AddRule", key, rule=a_rule("kept"))
    await shop.change("SetWhitelist", key, whitelist=policy_pb2.Whitelist(users=["kept"]))
    await shop.segment("kept", service_key=key)
    await shop.change("AddMembers", key, segment="kept", users=["kept"])
    return await shop.change("PutFlag", key, flag=policy_pb2.Flag(name="kept"))


async def members(shop: Calls, key: str, segment: str = "kept") -> list[str]:
    names = [found["name"] for found in (await shop.policy(key)).get("segments", [])]
    if segment not in names:
        return []
    request = pb.ListMembersRequest(service_key=key, segment=segment)
    return sorted((await shop.admin.ListMembers(request)).users)


async def state(shop: Calls, key: str) -> Any:
    """All that a write could change."""
    return await shop.policy(key), await members(shop, key), await shop.changes(key)


async def check_write(shop: Calls, write: Write, key: str, before: int) -> None:
    old = await state(shop, key)
    for wrong in (0, before - 1, before + 1, -1):
        with refused(ABORTED, key, str(before)):
            await shop.change(write.method, key, expected=wrong, **write.fields)
    assert await state(shop, key) == old
    started = datetime.now(UTC) - timedelta(seconds=1)
    revision = await shop.change(write.method, key, expected=before, **write.fields)
    assert revision == before + 1
    assert (await shop.policy(key))["revision"] == revision
    newest = (await shop.changes(key))[0]
    said = (newest.revision, newest.actor, newest.reason, newest.summary)
    assert said == (revision, "ada", "a test", write.summary)
    assert started <= newest.at.ToDatetime(tzinfo=UTC) <= datetime.now(UTC)
    assert await shop.policy(key, before) == old[0]


async def test_every_write_makes_one_revision_that_says_who_when_why_and_what(
    shop: Calls,
) -> None:
    for number, write in enumerate(WRITES):
        key = f"{SHOP}-{number}"
        before = await prepare(shop, key)
        await check_write(shop, write, key, before)
        if write.is_repeatable:
            assert await shop.change(write.method, key, **write.fields) == before + 1, write
            assert len(await shop.changes(key)) == before + 1
    await shop.register(CANARY)
    await check_write(shop, STARTED, SHOP, 1)


def test_the_writes_above_are_all_there_are() -> None:
    service = pb.DESCRIPTOR.services_by_name["AdminService"]
    with_change = {m.name for m in service.methods if "change" in m.input_type.fields_by_name}
    assert with_change - ELSEWHERE == {write.method for write in [*WRITES, STARTED]}


async def test_every_write_wants_to_know_who_and_why() -> None:
    async with ready_service() as shop:
        before = await prepare(shop, SHOP)
        for write in [*WRITES, STARTED]:
            request = getattr(pb, write.method + "Request")
            for actor, reason in (("", "why"), ("who", ""), (" ", "\t"), ("x" * 1_001, "why")):
                change = pb.Change(service_key=SHOP, actor=actor, reason=reason)
                missing = [
                    name
                    for name, text in (("actor", actor), ("reason", reason))
                    if not 0 < len(text.strip()) <= 1_000
                ]
                with refused(grpc.StatusCode.INVALID_ARGUMENT, *missing):
                    call = getattr(shop.admin, write.method)
                    await call(request(change=change, **write.fields))
        assert (await shop.policy())["revision"] == before


async def test_expecting_revision_zero_means_that_there_must_be_no_policy(shop: Calls) -> None:
    assert await shop.change("SetRules", expected=0, rules=RULES) == 1
    with refused(ABORTED, "revision 1, not 0"):
        await shop.change("SetRules", expected=0, rules=[])
    with refused(ABORTED, "revision 0, not 1"):
        await shop.change("SetRules", "other", expected=1, rules=RULES)
    with refused(grpc.StatusCode.NOT_FOUND, "other"):
        await shop.policy("other")


async def test_writers_who_expect_nothing_all_succeed_and_none_is_overwritten(
    shop: Calls,
) -> None:
    names = [f"rule-{i}" for i in range(8)]
    revisions = await asyncio.gather(*(shop.change("AddRule", rule=a_rule(name)) for name in names))
    assert sorted(revisions) == list(range(1, 9))
    assert sorted(rule["name"] for rule in (await shop.policy())["rules"]) == names


async def test_of_writers_who_expect_the_same_revision_exactly_one_wins(shop: Calls) -> None:
    await shop.register(STABLE)
    found = await asyncio.gather(
        *(shop.change("AddRule", expected=1, rule=a_rule(f"rule-{i}")) for i in range(8)),
        return_exceptions=True,
    )
    lost = [error for error in found if isinstance(error, grpc.aio.AioRpcError)]
    assert [error.code() for error in lost] == [ABORTED] * 7
    (winner,) = (i for i, revision in enumerate(found) if revision == 2)
    rules = [rule["name"] for rule in (await shop.policy())["rules"]]
    assert rules == [f"rule-{winner}"]


async def test_writers_on_two_replicas_overwrite_nobody(redis: RedisServer) -> None:
    url = f"{redis.url}?db=2"
    deadline = {"store_deadline_ms": 10_000}
    async with (
        ready_service(redis_url=url, **deadline) as one,
        ready_service(redis_url=url, **deadline) as two,
    ):
        await asyncio.gather(
            *(
                replica.change("AddToWhitelist", entries=policy_pb2.Whitelist(users=[f"{n}-{i}"]))
                for n, replica in enumerate((one, two))
                for i in range(4)
            )
        )
        users = (await one.policy())["whitelist"]["users"]
        assert sorted(users) == sorted(f"{n}-{i}" for n in (0, 1) for i in range(4))
        assert [change.revision for change in await two.changes()] == list(range(8, 0, -1))


async def test_a_change_rules_the_next_decision_of_the_same_replica(shop: Calls) -> None:
    await shop.release(0)
    for percentage, version in ((100, CANARY), (0, STABLE), (100, CANARY)):
        await shop.change("SetPercentage", percentage=percentage)
        assert (await shop.decide(headers={"x-user-id": "u1"})).version == version


async def test_a_completed_release_makes_its_version_stable_in_one_revision(shop: Calls) -> None:
    before = await shop.release(50)
    await shop.change("MoveRelease", move=MOVE_PROMOTE)
    policy = await shop.policy()
    assert policy["revision"] == before + 1
    assert {v["version"]: v["status"] for v in policy["versions"]} == {
        STABLE: "deprecated",
        CANARY: "stable",
    }
    assert policy["release"]["status"] == "completed"
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "completed"):
        await shop.change("SetPercentage", percentage=1)


async def test_a_build_can_be_registered_again_after_its_release(shop: Calls) -> None:
    version = policy_pb2.Version(version=CANARY, git_commit="abc")
    version.build_date.FromJsonString("2026-03-01T12:00:00.5Z")
    await shop.register(STABLE, status=policy_pb2.VERSION_STATUS_STABLE)
    await shop.change("RegisterVersion", version=version)
    await shop.change("StartRelease", version=CANARY, percentage=5)
    last = await shop.change("MoveRelease", move=MOVE_PROMOTE)
    assert await shop.change("RegisterVersion", version=version) == last
    version.git_commit = "def"
    with refused(grpc.StatusCode.ALREADY_EXISTS, CANARY, "another build"):
        await shop.change("RegisterVersion", version=version)


@pytest.mark.parametrize(
    ("method", "fields", "code", "words"),
    [
        ("StartRelease", {"version": CANARY, "percentage": 1}, "FAILED_PRECONDITION", "promote it"),
        ("DeprecateVersion", {"version": STABLE}, "FAILED_PRECONDITION", "stable"),
        ("RemoveVersion", {"version": CANARY}, "FAILED_PRECONDITION", "canary"),
        ("RemoveVersion", {"version": "v9"}, "NOT_FOUND", "'v9'"),
        ("AddRule", {"rule": a_rule("kept")}, "ALREADY_EXISTS", "'kept'"),
        ("AddRule", {"rule": a_rule("x"), "position": 9}, "INVALID_ARGUMENT", "position"),
        ("RemoveRule", {"name": "x"}, "NOT_FOUND", "there is: kept"),
        (
            "RemoveFromWhitelist",
            {"entries": policy_pb2.Whitelist(users=["kept", "x"])},
            "NOT_FOUND",
            "whitelist.users does not hold x",
        ),
        ("RemoveSegment", {"name": "x"}, "NOT_FOUND", "'x'"),
        ("AddMembers", {"segment": "x", "users": ["u"]}, "NOT_FOUND", "'x'"),
        ("AddMembers", {"segment": "kept", "users": []}, "INVALID_ARGUMENT", "users"),
        ("AddMembers", {"segment": "kept", "users": ["u", ""]}, "INVALID_ARGUMENT", "users[1]"),
        ("AddMembers", {"segment": "kept", "users": ["u"] * 10_001}, "INVALID_ARGUMENT", "10,000"),
        ("RemoveFlag", {"name": "x"}, "NOT_FOUND", "'x'"),
        ("MoveRelease", {}, "INVALID_ARGUMENT", "move: give one of pause, resume"),
        ("MoveRelease", {"move": 99}, "INVALID_ARGUMENT", "move"),
        ("MoveRelease", {"move": pb.MOVE_RESUME}, "FAILED_PRECONDITION", "allowed are: raise"),
        ("Revert", {}, "INVALID_ARGUMENT", "revision"),
        ("Revert", {"revision": 99}, "NOT_FOUND", "no revision 99"),
        ("Approve", {"version": "v2"}, "INVALID_ARGUMENT", "move: give one of start"),
        ("Approve", {"move": START, "version": "v9"}, "NOT_FOUND", "no version 'v9'"),
        ("Approve", {"move": START, "valid_s": 2_592_001}, "INVALID_ARGUMENT", "30 days"),
        ("Approve", {"move": PROMOTE, "percentage": 1}, "INVALID_ARGUMENT", "percentage"),
        ("WithdrawApproval", {"id": "a-0"}, "NOT_FOUND", "no approval 'a-0'"),
        (
            "RegisterVersion",
            {"version": policy_pb2.Version(version="v3", status=policy_pb2.VERSION_STATUS_CANARY)},
            "INVALID_ARGUMENT",
            "when its release starts",
        ),
        ("StartRelease", {"version": CANARY, "strategy": 99}, "INVALID_ARGUMENT", "strategy"),
    ],
)
async def test_what_stands_in_the_way_is_said_and_nothing_changes(
    method: str, fields: dict[str, Any], code: str, words: str
) -> None:
    async with ready_service() as shop:
        await prepare(shop, SHOP)
        old = await state(shop, SHOP)
        with refused(grpc.StatusCode[code], words):
            await shop.change(method, **fields)
        assert await state(shop, SHOP) == old


async def test_changes_are_listed_newest_first_and_page_by_page(shop: Calls) -> None:
    for i in range(5):
        await shop.register(f"v{i}")
    assert [c.revision for c in await shop.changes()] == [5, 4, 3, 2, 1]
    assert [c.revision for c in await shop.changes(before_revision=4, limit=2)] == [3, 2]
    assert await shop.changes(before_revision=1) == []
    with refused(grpc.StatusCode.NOT_FOUND, "service_key", "'other' has no policy"):
        await shop.changes("other")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "limit"):
        await shop.changes(limit=1_001)


async def test_members_are_listed_page_by_page_and_go_with_their_segment(shop: Calls) -> None:
    await shop.segment("many")
    users = {f"用户-{i}" for i in range(2_500)}
    await shop.change("AddMembers", segment="many", users=users)
    found: set[str] = set()
    token = ""
    while True:
        request = pb.ListMembersRequest(service_key=SHOP, segment="many", page_token=token)
        page = await shop.admin.ListMembers(request)
        assert page.total == len(users)
        found |= set(page.users)
        token = page.next_page_token
        if not token:
            break
    assert found == users
    await shop.change("RemoveSegment", name="many")
    await shop.segment("many")
    assert await members(shop, SHOP, "many") == []


async def test_a_made_up_page_token_is_the_clients_mistake(redis: RedisServer) -> None:
    async with ready_service(redis_url=redis.url, store_deadline_ms=10_000) as shop:
        await shop.segment("many")
        request = pb.ListMembersRequest(service_key=SHOP, segment="many", page_token="made up")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "page_token"):
            await shop.admin.ListMembers(request)


async def test_a_profile_is_put_shown_replaced_and_forgotten(shop: Calls) -> None:
    await shop.profile("用户", tier="premium", tags=["a", "b"], custom={"plan": "gold"})
    found = (await shop.admin.GetProfile(pb.GetProfileRequest(user="用户"))).profile
    assert (found.tier, list(found.tags), dict(found.custom)) == (
        "premium",
        ["a", "b"],
        {"plan": "gold"},
    )
    await shop.profile("用户", region="华东")
    found = (await shop.admin.GetProfile(pb.GetProfileRequest(user="用户"))).profile
    assert (found.tier, found.region) == ("", "华东")
    await shop.admin.RemoveProfile(pb.RemoveProfileRequest(user="用户", actor="a", reason="b"))
    with refused(grpc.StatusCode.NOT_FOUND, "用户"):
        await shop.admin.GetProfile(pb.GetProfileRequest(user="用户"))


async def test_profile_writes_want_to_know_whose_who_and_why(shop: Calls) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    with refused(invalid, "actor", "reason"):
        await shop.admin.PutProfile(pb.PutProfileRequest(profile=policy_pb2.Profile(user="u")))
    with refused(invalid, "actor", "reason"):
        await shop.admin.RemoveProfile(pb.RemoveProfileRequest(user="u"))
    with refused(invalid, "user"):
        await shop.admin.PutProfile(pb.PutProfileRequest(actor="a", reason="b"))
    with refused(invalid, "user"):
        await shop.admin.RemoveProfile(pb.RemoveProfileRequest(actor="a", reason="b"))


async def test_services_are_listed_with_their_stable_version_and_release(shop: Calls) -> None:
    await shop.release(5)
    await shop.register("v9", "商城")
    listed = (await shop.admin.ListServices(pb.ListServicesRequest())).services
    assert [(s.service_key, s.revision, s.stable_version) for s in listed] == [
        (SHOP, 3, STABLE),
        ("商城", 1, ""),
    ]
    assert listed[0].release.version == CANARY
    assert not listed[1].HasField("release")


async def test_ten_thousand_versions_are_stored_decided_and_added_to(redis: RedisServer) -> None:
    versions = [{"version": f"v{i}"} for i in range(9_999)]
    document = parse.document(
        parse.policy({"service_key": "many", "revision": 1, "versions": versions})
    )
    at = datetime(2026, 3, 1, tzinfo=UTC)
    record = ChangeRecord(revision=1, actor="ada", at=at, reason="test", summary="import")
    store = RedisStore.connect(redis.url, timeout_s=10)
    await store.save("many", document, record)
    await store.aclose()
    async with ready_service(redis_url=redis.url, store_deadline_ms=10_000) as shop:
        assert await shop.register("latest", "many") == 2
        assert len((await shop.policy("many"))["versions"]) == 10_000
        assert await shop.change("StartRelease", "many", version="latest", percentage=100) == 3
        assert (await shop.decide("many", headers={"x-user-id": "u"})).version == "latest"


async def test_names_in_chinese_work_everywhere(shop: Calls) -> None:
    key = "商城服务"
    change = a_change(key)
    change.actor, change.reason = "张伟", "第一次发布"
    version = policy_pb2.Version(version="版本一")
    await shop.admin.RegisterVersion(pb.RegisterVersionRequest(change=change, version=version))
    await shop.change("StartRelease", key, version="版本一", percentage=100)
    await shop.change("AddRule", key, rule=a_rule("规则", exact="是"))
    found = await shop.decide(key, headers={"x-canary-test": "是"})
    assert (found.version, found.matched) == ("版本一", "规则")
    first = (await shop.changes(key))[-1]
    assert (first.actor, first.reason) == ("张伟", "第一次发布")
