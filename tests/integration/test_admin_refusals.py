"""INVALID_ARGUMENT names every field and what to do, and nothing is changed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2 as pb
from canary.decision.v1 import decision_pb2
from canary.policy.v1 import policy_pb2
from google.protobuf.message import Message
from support.calls import CANARY, SHOP, Calls, a_change, a_rule, ready_service, refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT
TEN_MEGABYTES = "x" * 10_000_000


@pytest.fixture
async def shop() -> AsyncIterator[Calls]:
    """A service with a release in progress, which no test here changes."""
    async with ready_service() as calls:
        await calls.release(5)
        before = await calls.policy()
        yield calls
        assert await calls.policy() == before
        assert len(await calls.changes()) == before["revision"]


@pytest.mark.parametrize(
    "percentage",
    [math.nan, math.inf, -math.inf, -1.0, -0.001, 0.0001, 100.001, 1e300, 5e-324, 0.1 + 0.2],
)
async def test_a_percentage_that_is_no_step_from_0_to_100_is_refused(
    percentage: float, shop: Calls
) -> None:
    words = ("percentage", "0 to 100 in steps of 0.001")
    with refused(INVALID, *words):
        await shop.change("SetPercentage", percentage=percentage)
    with refused(INVALID, *words):
        await shop.change("StartRelease", "other", version=CANARY, percentage=percentage)
    with refused(INVALID, "flags[0].percentage"):
        await shop.change("PutFlag", flag=policy_pb2.Flag(name="f", percentage=percentage))
    with refused(INVALID, "segments[0].percentage"):
        await shop.segment("s", canary_eligible=True, percentage=percentage)


async def test_every_wrong_field_of_every_rule_is_named_at_once(shop: Calls) -> None:
    rules = [
        a_rule("fine"),
        a_rule("fine", exact="", pattern="(["),
        a_rule("", key="authorization"),
        a_rule("ip", source=policy_pb2.SOURCE_IP, key="", exact="", cidrs=["10.0.0.1/8", "nets"]),
        a_rule("both", one_of=["a"]),
        a_rule("nowhere", variant=policy_pb2.VARIANT_UNSPECIFIED),
        a_rule("path", source=policy_pb2.SOURCE_PATH, exact="/x"),
        a_rule("future", source=99),
        a_rule("blank key", key="a b"),
    ]
    with refused(
        INVALID,
        "'fine' is taken by rules[0]",
        "rules[1].pattern",
        "rules[2].name",
        "rules[2].key: authorization never leaves the gateway",
        "rules[3].cidrs[0]",
        "write 10.0.0.0/8",
        "rules[3].cidrs[1]",
        "rules[4]: give exactly one of",
        "rules[5].variant",
        "rules[6].key",
        "rules[7].source",
        "rules[8].key",
    ):
        await shop.change("SetRules", rules=rules)


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        ("SetWhitelist", {"whitelist": policy_pb2.Whitelist(ips=["1.2.3"])}, "whitelist.ips[0]"),
        ("SetWhitelist", {"whitelist": policy_pb2.Whitelist(users=[""])}, "whitelist.users[0]"),
        ("AddToWhitelist", {"entries": policy_pb2.Whitelist(ips=["::1/64"])}, "whitelist.ips[0]"),
        ("RegisterVersion", {"version": policy_pb2.Version()}, "versions[2].version"),
        (
            "RegisterVersion",
            {"version": policy_pb2.Version(version="v9", status=policy_pb2.VERSION_STATUS_STABLE)},
            "only one may be stable",
        ),
        (
            "RegisterVersion",
            {
                "version": policy_pb2.Version(
                    version="v9", backend=policy_pb2.Backend(upstream="u", host="h", port=70_000)
                )
            },
            "versions[2].backend.port",
        ),
        ("PutSegment", {"segment": policy_pb2.Segment(name="x")}, "segments[0].criteria"),
        ("PutFlag", {"flag": policy_pb2.Flag(name="f", segments=["x"])}, "flags[0].segments"),
        (
            "SetBucketing",
            {
                "bucketing": policy_pb2.Bucketing(
                    hash_on=[policy_pb2.HashKey(source=policy_pb2.SOURCE_PATH)], cookie="a b"
                )
            },
            "bucketing.cookie",
        ),
        (
            "SetIdentity",
            {"identity": policy_pb2.Identity(user_id_header="Cookie")},
            "identity.user_id_header",
        ),
        (
            "SetCompatibility",
            {"compatibility": policy_pb2.Compatibility(rules=[policy_pb2.CompatibilityRule()])},
            "compatibility.rules[0].from",
        ),
    ],
)
async def test_a_wrong_field_is_named(
    method: str, fields: dict[str, Any], words: str, shop: Calls
) -> None:
    with refused(INVALID, words):
        await shop.change(method, **fields)


@pytest.mark.parametrize("key", ["", " ", "a\nb", " shop", "k" * 129])
async def test_a_service_key_that_is_no_name_is_refused(key: str, shop: Calls) -> None:
    with refused(INVALID, "service_key"):
        await shop.change("SetRules", key, rules=[a_rule()])


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        ("RegisterVersion", {"version": policy_pb2.Version(version=TEN_MEGABYTES)}, "versions[2]"),
        ("AddRule", {"rule": a_rule(exact=TEN_MEGABYTES)}, "rules[0].exact"),
        ("AddRule", {"rule": a_rule(exact="", pattern=TEN_MEGABYTES)}, "rules[0].pattern"),
        ("SetRules", {"rules": [a_rule(TEN_MEGABYTES)] * 2}, "rules[0].name"),
        ("RemoveRule", {"name": TEN_MEGABYTES}, "there is no rule"),
        ("StartRelease", {"version": TEN_MEGABYTES}, "in-progress"),
        ("AddMembers", {"segment": TEN_MEGABYTES, "users": ["u"]}, "there is no segment"),
    ],
)
async def test_a_value_of_ten_megabytes_is_refused_in_a_few_words(
    method: str, fields: dict[str, Any], words: str, shop: Calls
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.change(method, **fields)
    text = caught.value.details() or ""
    assert caught.value.code() in (
        INVALID, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION
    )  # fmt: skip
    assert words in text
    assert len(text) < 5_000


async def test_ten_megabytes_as_actor_or_reason_are_refused(shop: Calls) -> None:
    change = pb.Change(service_key=SHOP, actor=TEN_MEGABYTES, reason=TEN_MEGABYTES)
    with refused(INVALID, "actor", "reason"):
        await shop.admin.SetRules(pb.SetRulesRequest(change=change))


async def test_many_complaints_in_chinese_still_reach_the_client(shop: Calls) -> None:
    rules = [a_rule(f"规则{i}", key="不是名字" * 10) for i in range(500)]
    with refused(INVALID, "problems: rules[0].key", "不是名字"):
        await shop.change("SetRules", rules=rules)
    with refused(INVALID, "problems: rules[0].pattern"):
        await shop.change(
            "SetRules", rules=[a_rule(f"%{i}", exact="", pattern="(%" * 300) for i in range(99)]
        )


def with_unknown_field(message: Message) -> bytes:
    """The message with field number 9999, a varint, at its end."""
    return message.SerializeToString() + b"\xf8\xf0\x04\x01"


async def test_a_field_the_protos_do_not_know_is_refused_at_any_depth(shop: Calls) -> None:
    whole = pb.SetRulesRequest(change=a_change(), rules=[a_rule()])
    deep = pb.SetRulesRequest(change=a_change(), rules=[a_rule()])
    deep.rules[0].MergeFromString(with_unknown_field(a_rule()))
    admin = grpc.aio.insecure_channel(shop.running.admin_address)
    async with admin:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = admin.unary_unary("/canary.admin.v1.AdminService/SetRules")
        with refused(INVALID, "unknown field number 9999"):
            await call(with_unknown_field(whole))
        with refused(INVALID, "rules[0]: unknown field number 9999"):
            await call(deep.SerializeToString())


async def test_a_time_that_no_calendar_knows_is_refused(shop: Calls) -> None:
    version = policy_pb2.Version(version="v9")
    version.build_date.seconds = 1 << 60
    with refused(INVALID, "build_date"):
        await shop.change("RegisterVersion", version=version)
    request = decision_pb2.DecideRequest(service_key=SHOP)
    asked = pb.ExplainRequest(request=request)
    asked.at.seconds = 1 << 60
    with refused(INVALID, "at"):
        await shop.admin.Explain(asked)
    profile = policy_pb2.Profile(user="u")
    profile.registered_at.nanos = -5
    with refused(INVALID, "registered_at"):
        await shop.admin.PutProfile(pb.PutProfileRequest(profile=profile, actor="a", reason="b"))


async def test_a_profile_says_every_wrong_field(shop: Calls) -> None:
    profile = policy_pb2.Profile(user="u" * 129, tier="t" * 129, tags=[""])
    request = pb.PutProfileRequest(profile=profile, actor="a", reason="b")
    with refused(INVALID, "profile.user", "profile.tier", "profile.tags[0]"):
        await shop.admin.PutProfile(request)
