"""The golden cases: a rule of the engine that changes makes one fail, and it says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Any

import pytest
from canary.decision.v1 import decision_pb2
from canary.policy.v1 import policy_pb2
from canary_documents import to_message
from canary_engine import bucketing, parse, reads
from canary_engine.decide import CompiledPolicy, Finding, decide, explain
from canary_engine.facts import first_reader
from canary_engine.model import (
    NOBODY,
    Anonymous,
    Decision,
    Person,
    PersonNeeded,
    Profile,
    Reason,
    Request,
    Source,
    Strategy,
    Variant,
)
from support.golden import THEMES, decision_document, golden

MASK = 0xFFFF_FFFF
WAYS = ("exact", "one_of", "pattern", "cidrs")


@cache
def compiled(theme: str, policy: str) -> CompiledPolicy:
    return CompiledPolicy(parse.policy(golden(theme)["policies"][policy]))


def every_case(
    is_wanted: Callable[[dict[str, Any]], bool] = lambda case: True,
) -> pytest.MarkDecorator:
    cases = [
        pytest.param(theme, case, id=f"{theme}: {case['name']}")
        for theme in THEMES
        for case in golden(theme)["cases"]
        if is_wanted(case)
    ]
    return pytest.mark.parametrize(("theme", "case"), cases)


def request_of(document: Mapping[str, Any]) -> Request:
    return Request(**{**document, "flags": tuple(document.get("flags", ()))})


def person_of(document: Mapping[str, Any] | None) -> Person:
    """What the store knows of the user; an absent document is a user it knows nothing of."""
    if document is None:
        return NOBODY
    profile = dict(document.get("profile", {}))
    if "registered_at" in profile:
        profile["registered_at"] = datetime.fromisoformat(profile["registered_at"])
    profile["tags"] = frozenset(profile.get("tags", ()))
    return Person(
        listed_in=frozenset(document.get("listed_in", ())),
        profile=Profile(**profile),
        is_known=document.get("is_known", True),
    )


def difference(
    theme: str, case: Mapping[str, Any], got: Mapping[str, Any], findings: tuple[Finding, ...]
) -> str:
    """Why a case fails: what was expected, what came, and what every stage says."""
    expected = case["decision"]
    changed = [name for name in {**expected, **got} if expected.get(name) != got.get(name)]
    request = json.dumps(case["request"], ensure_ascii=False)
    return "\n".join(
        [
            f"golden case {case['name']!r} (tests/data/golden/{theme}.json)",
            *(f"  {n}: expected {expected.get(n)!r}, got {got.get(n)!r}" for n in changed),
            f"  policy {case['policy']!r}, request {request}",
            "  the stages say:",
            *(f"  {'->' if f.decided else '  '} {f.reason}: {f.finding}" for f in findings),
        ]
    )


@every_case()
def test_golden_case(theme: str, case: dict[str, Any]) -> None:
    policy = compiled(theme, case["policy"])
    now = datetime.fromisoformat(golden(theme)["now"])
    decision, findings = explain(
        policy, request_of(case["request"]), person_of(case.get("person")), now
    )
    got = decision_document(decision)
    if got != case["decision"]:
        pytest.fail(difference(theme, case, got, findings), pytrace=False)


@every_case()
def test_golden_case_is_decided_alike_when_the_person_is_brought_later(
    theme: str, case: dict[str, Any]
) -> None:
    policy, request = compiled(theme, case["policy"]), request_of(case["request"])
    now = datetime.fromisoformat(golden(theme)["now"])
    person = person_of(case.get("person"))
    answer = decide(policy, request, None, now)
    if isinstance(answer, PersonNeeded):
        assert answer.user == request.headers[policy.user_id_header]
        answer = decide(policy, request, person, now)
    assert isinstance(answer, Decision)
    assert answer == explain(policy, request, person, now)[0]


def test_a_failing_case_tells_what_was_expected_what_came_and_what_each_stage_says() -> None:
    case: dict[str, Any] = {
        "name": "bob gets stable",
        "policy": "people",
        "request": {"headers": {"x-user-id": "ann"}},
        "decision": {"variant": "stable", "reason": "default", "matched": ""},
    }
    policy = compiled("whitelist", "people")
    now = datetime.fromisoformat("2026-03-01T12:00:00Z")
    decision, findings = explain(policy, request_of(case["request"]), NOBODY, now)
    got = {**case["decision"], "variant": str(decision.variant), "reason": str(decision.reason)}
    assert difference("whitelist", case, got, findings).splitlines() == [
        "golden case 'bob gets stable' (tests/data/golden/whitelist.json)",
        "  variant: expected 'stable', got 'canary'",
        "  reason: expected 'default', got 'whitelist'",
        '  policy \'people\', request {"headers": {"x-user-id": "ann"}}',
        "  the stages say:",
        "     no-release: release r1 is in-progress",
        "     override: the policy has none",
        "     rule: the policy has none",
        "     compatibility: the policy has none",
        "  -> whitelist: user is listed",
        "     segment: the policy has none",
        "     flag: the policy has none",
        "     percentage: bucket 23743 is not below 0 % (0 of 100000)",
        "     default: not asked: whitelist decided",
    ]


@pytest.mark.parametrize("theme", THEMES)
def test_golden_cases_are_the_messages_of_the_protos(theme: str) -> None:
    for policy in golden(theme)["policies"].values():
        to_message(policy, policy_pb2.Policy)
    for case in golden(theme)["cases"]:
        to_message(case["request"], decision_pb2.DecideRequest)
        to_message(case["decision"], policy_pb2.Decision)


@pytest.mark.parametrize("theme", THEMES)
def test_golden_cases_have_names_of_their_own_and_use_every_policy(theme: str) -> None:
    names = [case["name"] for case in golden(theme)["cases"]]
    assert sorted(set(names)) == sorted(names)
    assert {case["policy"] for case in golden(theme)["cases"]} == set(golden(theme)["policies"])


def test_the_golden_cases_reach_every_reason_strategy_source_and_way_of_matching() -> None:
    decided: set[tuple[str, str]] = set()
    reached: set[object] = set()
    for theme in THEMES:
        for case in golden(theme)["cases"]:
            decision, policy = case["decision"], compiled(theme, case["policy"]).policy
            assert policy.release or decision["reason"] == "no-release"
            decided.add((decision["reason"], decision["variant"]))
            if policy.release:
                reached |= {policy.release.strategy, policy.release.status}
            reached.add(policy.bucketing.anonymous)
            for rule in policy.rules:
                if decision["matched"] == rule.name:
                    reached |= {(rule.source, way) for way in WAYS if getattr(rule, way)}
    both = {Reason.OVERRIDE, Reason.RULE, Reason.SEGMENT}
    canary = {Reason.WHITELIST, Reason.FLAG, Reason.PERCENTAGE}
    assert decided == {
        (reason, variant)
        for reason in Reason
        for variant in Variant
        if reason in both or (reason in canary) == (variant is Variant.CANARY)
    }
    assert set(Strategy) | set(Anonymous) <= reached
    ways = {(source, way) for source in Source for way in WAYS if way != "cidrs"}
    assert ways | {(Source.IP, "cidrs")} <= reached


def murmur3_x86_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3 as its author describes it, written here so as not to ask mmh3 about mmh3."""

    def rotated(value: int, by: int) -> int:
        return (value << by | value >> 32 - by) & MASK

    def scrambled(word: bytes) -> int:
        return rotated(int.from_bytes(word, "little") * 0xCC9E2D51 & MASK, 15) * 0x1B873593 & MASK

    whole = len(data) // 4 * 4
    state = seed
    for at in range(0, whole, 4):
        state = rotated(state ^ scrambled(data[at : at + 4]), 13) * 5 + 0xE6546B64 & MASK
    state ^= scrambled(data[whole:]) ^ len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & MASK
    return state ^ state >> 16


@pytest.mark.parametrize(
    ("text", "seed", "expected"),
    [
        (b"", 0, 0),
        (b"", 1, 0x514E28B7),
        (b"", MASK, 0x81F16F39),
        (b"\xff\xff\xff\xff", 0, 0x76293B50),
        (b"!Ce\x87", 0, 0xF55B516B),
        (b"!Ce\x87", 0x5082EDEE, 0x2362F9DE),
        (b"!Ce", 0, 0x7E4A8634),
        (b"!C", 0, 0xA0F7B07A),
        (b"!", 0, 0x72661CF4),
        (b"\0\0\0\0", 0, 0x2362F9DE),
        (b"\0", 0, 0x514E28B7),
        (b"aaaa", 0x9747B28C, 0x5A97808A),
        ("ππππππππ".encode(), 0x9747B28C, 0xD58063C1),
        (b"The quick brown fox jumps over the lazy dog", 0x9747B28C, 0x2FA826CD),
    ],
)
def test_murmur3_gives_the_published_values(text: bytes, seed: int, expected: int) -> None:
    assert murmur3_x86_32(text, seed) == expected


@pytest.mark.parametrize("row", golden("buckets")["buckets"])
def test_bucket_is_the_product_of_the_hash_and_100_000_without_its_low_32_bits(
    row: dict[str, Any],
) -> None:
    hashed = murmur3_x86_32(row["salt"].encode() + b"\0" + row["key"].encode())
    assert hashed * 100_000 // 2**32 == row["bucket"]
    assert bucketing.bucket(bucketing.prefix(row["salt"]), row["key"]) == row["bucket"]


@every_case(lambda case: "bucket" in case["decision"])
def test_golden_bucket_is_that_of_the_release_or_of_the_flag(
    theme: str, case: dict[str, Any]
) -> None:
    decision, request = case["decision"], request_of(case["request"])
    policy = compiled(theme, case["policy"])
    assert policy.policy.release is not None
    by_flag = decision["reason"] == "flag"
    salt = "flag:" + decision["matched"] if by_flag else policy.policy.release.salt
    key = first_reader(reads.hash_keys(policy.policy))(request) or request.fallback_key
    hashed = murmur3_x86_32(salt.encode() + b"\0" + key.encode())
    assert hashed * 100_000 >> 32 == decision["bucket"]
