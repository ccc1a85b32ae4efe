"""A policy document is judged whole: each complaint says where and what to do."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from canary_engine import parse
from canary_engine.errors import CanaryError, InvalidPolicy
from canary_engine.model import (
    BUCKETS,
    Anonymous,
    Bucketing,
    HashKey,
    Identity,
    Policy,
    ReleaseStatus,
    Source,
    Strategy,
    VersionStatus,
)
from canary_engine.reading import MAX_ITEMS, MAX_NAME, MAX_VALUE, Node

VALID: dict[str, Any] = {
    "service_key": "shop",
    "revision": 7,
    "versions": [
        {"version": "v1", "status": "stable"},
        {"version": "v2", "status": "canary", "backend": {"upstream": "canary"}},
    ],
    "release": {
        "id": "r1",
        "version": "v2",
        "status": "in-progress",
        "percentage": 5,
        "salt": "r1",
    },
    "rules": [
        {
            "name": "testers",
            "source": "header",
            "key": "x-test",
            "exact": "true",
            "variant": "canary",
        }
    ],
    "compatibility": {"header": "x-api", "rules": [{"from": "v1", "to": "v2"}]},
    "whitelist": {"ips": ["10.0.0.0/8"], "users": ["ann"], "consumers": ["acme"]},
    "segments": [
        {
            "name": "beta",
            "canary_eligible": True,
            "percentage": 30,
            "criteria": {
                "tags": ["beta"],
                "custom": {"plan": "gold"},
                "registered": {"last_days": 7},
            },
        }
    ],
    "flags": [{"name": "f", "enabled": True, "percentage": 1, "segments": ["beta"]}],
    "bucketing": {"hash_on": [{"source": "cookie", "key": "sid"}]},
    "identity": {"attribute_headers": {"tier": "x-tier"}, "flags_header": "x-flags"},
}
ABSENT = object()
WRITE_TIME = "write it like 2026-01-31T12:00:00Z"
STEPS = "give a percentage from 0 to 100 in steps of 0.001"
WAYS = "give exactly one of exact, one_of, pattern, cidrs"
NAME = f"give a name of 1 to {MAX_NAME} printable characters"
HALF = "give text that UTF-8 can carry, without half a surrogate pair"


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The valid document with the values at dotted paths set, or removed."""
    document = deepcopy(VALID)
    for path, value in changes:
        *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        holder: Any = document
        for part in way:
            holder = holder[part]
        if value is ABSENT:
            del holder[last]
        elif isinstance(last, int) and last == len(holder):
            holder.append(value)
        else:
            holder[last] = value
    return document


def complaints(*changes: tuple[str, Any]) -> list[str]:
    with pytest.raises(InvalidPolicy) as caught:
        parse.policy(changed(*changes))
    return list(caught.value.complaints)


def test_the_document_that_these_tests_spoil_is_valid() -> None:
    assert isinstance(parse.policy(VALID), Policy)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        # names
        ("service_key", ABSENT, f"service_key: {NAME}"),
        ("service_key", "", f"service_key: {NAME}"),
        ("service_key", " shop", f"service_key: {NAME}"),
        ("service_key", "shop ", f"service_key: {NAME}"),
        ("service_key", "sh\nop", f"service_key: {NAME}"),
        ("service_key", "shop\n", f"service_key: {NAME}"),
        ("release.salt", ABSENT, f"release.salt: {NAME}"),
        ("release.id", ABSENT, f"release.id: {NAME}"),
        ("versions.0.version", ABSENT, f"versions[0].version: {NAME}"),
        ("flags.0.name", "\x7f", f"flags[0].name: {NAME}"),
        ("compatibility.rules.0.from", ABSENT, f"compatibility.rules[0].from: {NAME}"),
        # texts
        ("versions.0.build_number", 77, "versions[0].build_number: give text, not 77"),
        ("versions.0.git_commit", True, "versions[0].git_commit: give text, not True"),
        (
            "versions.0.build_number",
            "7" * (MAX_NAME + 1),
            "versions[0].build_number: at most 128 characters, not 129",
        ),
        (
            "compatibility.rules.0.notes",
            "n" * (MAX_VALUE + 1),
            "compatibility.rules[0].notes: at most 4,096 characters, not 4,097",
        ),
        ("whitelist.users", ["ann", ""], "whitelist.users[1]: give a text that is not empty"),
        ("whitelist.users", ["ann", "\ud800"], f"whitelist.users[1]: {HALF}"),
        (
            "segments.0.criteria.tags",
            [["a"]],
            "segments[0].criteria.tags[0]: give text, not a list",
        ),
        # numbers
        (
            "revision",
            -1,
            "revision: give a whole number from 0 to 9223372036854775807, not -1",
        ),
        (
            "revision",
            True,
            "revision: give a whole number from 0 to 9223372036854775807, not True",
        ),
        (
            "membership_epoch",
            1.5,
            "membership_epoch: give a whole number from 0 to 9223372036854775807, not 1.5",
        ),
        (
            "versions.1.backend",
            {"host": "h", "port": 65_536},
            "versions[1].backend.port: give a whole number from 1 to 65535, not 65536",
        ),
        (
            "segments.0.criteria.registered.last_days",
            36_501,
            "segments[0].criteria.registered.last_days: "
            "give a whole number from 1 to 36500, not 36501",
        ),
        ("release.percentage", 100.001, f"release.percentage: {STEPS}, not 100.001"),
        ("release.percentage", -0.001, f"release.percentage: {STEPS}, not -0.001"),
        ("release.percentage", 0.0005, f"release.percentage: {STEPS}, not 0.0005"),
        ("release.percentage", "5", f"release.percentage: {STEPS}, not '5'"),
        ("release.percentage", True, f"release.percentage: {STEPS}, not True"),
        ("release.percentage", float("nan"), f"release.percentage: {STEPS}, not nan"),
        ("release.percentage", float("inf"), f"release.percentage: {STEPS}, not inf"),
        ("flags.0.percentage", [5], f"flags[0].percentage: {STEPS}, not [5]"),
        # words, yes or no, times
        (
            "release.status",
            "running",
            "release.status: give one of in-progress, paused, completed, rolled-back, abandoned, "
            "not 'running'",
        ),
        (
            "release.status",
            ABSENT,
            "release.status: give one of in-progress, paused, completed, rolled-back, abandoned, "
            "not None",
        ),
        (
            "versions.0.status",
            "old",
            "versions[0].status: give one of stable, canary, deprecated, not 'old'",
        ),
        ("rules.0.variant", ABSENT, "rules[0].variant: give one of stable, canary, not None"),
        (
            "release.strategy",
            ["combined"],
            "release.strategy: give one of combined, percentage, user-segment, feature-flag, "
            "not ['combined']",
        ),
        (
            "bucketing.anonymous",
            "random",
            "bucketing.anonymous: give one of sticky-cookie, per-request, stable, not 'random'",
        ),
        ("release.halted", "yes", "release.halted: give true or false, not 'yes'"),
        ("flags.0.enabled", 1, "flags[0].enabled: give true or false, not 1"),
        (
            "versions.0.build_date",
            "yesterday",
            f"versions[0].build_date: 'yesterday' is no time; {WRITE_TIME}",
        ),
        ("versions.0.build_date", 5, f"versions[0].build_date: 5 is no time; {WRITE_TIME}"),
        (
            "release.started_at",
            "2026-01-31T12:00:00",
            f"release.started_at: '2026-01-31T12:00:00' has no time zone; {WRITE_TIME}",
        ),
        (
            "release.started_at",
            "0001-01-01T00:00:00+14:00",
            f"release.started_at: '0001-01-01T00:00:00+14:00' is no time; {WRITE_TIME}",
        ),
        (
            "release.ended_at",
            "9999-12-31T23:59:59-14:00",
            f"release.ended_at: '9999-12-31T23:59:59-14:00' is no time; {WRITE_TIME}",
        ),
        # shapes
        ("rules", {"name": "r"}, "rules: give a list, not a mapping"),
        ("rules", ["r"], "rules[0]: give a mapping, not 'r'"),
        ("whitelist", ["10.0.0.0/8"], "whitelist: give a mapping, not a list"),
        ("whitelist.ips", "10.0.0.0/8", "whitelist.ips: give a list, not '10.0.0.0/8'"),
        (
            "whitelist.users",
            ["u"] * (MAX_ITEMS + 1),
            "whitelist.users: at most 200,000 entries, not 200,001",
        ),
        (
            "segments.0.criteria.custom",
            ["gold"],
            "segments[0].criteria.custom: give a mapping, not a list",
        ),
        (
            "segments.0.criteria.custom",
            {"plan": 1},
            "segments[0].criteria.custom.plan: give text, not 1",
        ),
        ("segments.0.criteria.custom", {1: "x"}, "segments[0].criteria.custom: give text, not 1"),
        ("color", "red", "color: unknown field"),
        ("percentage", 5, "percentage: unknown field"),
        ("segment", [], "segment: unknown field; did you mean segments?"),
        (
            "release.percent",
            5,
            "release.percent: unknown field; did you mean percentage?",
        ),
        ("rules.0.oneof", [], "rules[0].oneof: unknown field; did you mean one_of?"),
        (
            "compatibility.rules.0.compatble",
            True,
            "compatibility.rules[0].compatble: unknown field; did you mean compatible?",
        ),
        (5, 5, "5: unknown field"),
        # twice the same
        (
            "rules.1",
            {"name": "testers", "source": "path", "exact": "/", "variant": "stable"},
            "rules[1].name: 'testers' is taken by rules[0]",
        ),
        ("versions.2", {"version": "v1"}, "versions[2].version: 'v1' is taken by versions[0]"),
        ("flags.1", {"name": "f"}, "flags[1].name: 'f' is taken by flags[0]"),
        (
            "segments.1",
            {"name": "beta", "listed": True},
            "segments[1].name: 'beta' is taken by segments[0]",
        ),
        (
            "compatibility.rules.1",
            {"from": "v1", "to": "v2", "compatible": True},
            "compatibility.rules[1]: v1 to v2 has a rule already",
        ),
        # backends
        (
            "versions.1.backend",
            {"upstream": "u", "host": "h", "port": 80},
            "versions[1].backend.upstream: give either an upstream or a host and port, not both",
        ),
        (
            "versions.1.backend",
            {"upstream": "u", "port": 80},
            "versions[1].backend.upstream: give either an upstream or a host and port, not both",
        ),
        (
            "versions.1.backend",
            {"host": "h"},
            "versions[1].backend.host: a host needs a port, and a port a host",
        ),
        (
            "versions.1.backend",
            {"port": 80},
            "versions[1].backend.host: a host needs a port, and a port a host",
        ),
        (
            "versions.1.backend.host_header",
            "a\r\nx-evil: 1",
            "versions[1].backend.host_header: give a host name without blanks",
        ),
        (
            "versions.1.backend.upstream",
            "my upstream",
            "versions[1].backend.upstream: give a host name without blanks",
        ),
        # rules
        ("rules.0.exact", ABSENT, f"rules[0]: {WAYS}"),
        ("rules.0.exact", "", f"rules[0]: {WAYS}"),
        ("rules.0.pattern", "x", f"rules[0]: {WAYS}, not exact and pattern"),
        ("rules.0.one_of", ["x"], f"rules[0]: {WAYS}, not exact and one_of"),
        ("rules.0.key", ABSENT, "rules[0].key: name the header"),
        (
            "rules.0.key",
            "x test",
            "rules[0].key: 'x test' is not a valid HTTP header or cookie name",
        ),
        (
            "rules.0.key",
            "内测",
            "rules[0].key: '内测' is not a valid HTTP header or cookie name",
        ),
        (
            "rules.0.key",
            "Authorization",
            "rules[0].key: authorization never leaves the gateway",
        ),
        (
            "rules.0.key",
            "proxy-authorization",
            "rules[0].key: proxy-authorization never leaves the gateway",
        ),
        (
            "rules.0.key",
            "COOKIE",
            "rules[0].key: the whole cookie header never leaves the gateway; use source cookie",
        ),
        ("rules.0.source", "path", "rules[0].key: source path has no key"),
        ("rules.0.source", "consumer", "rules[0].key: source consumer has no key"),
        # the other places that name headers
        (
            "compatibility.header",
            "authorization",
            "compatibility.header: authorization never leaves the gateway",
        ),
        (
            "identity.user_id_header",
            "AUTHORIZATION",
            "identity.user_id_header: authorization never leaves the gateway",
        ),
        (
            "identity.flags_header",
            "cookie",
            "identity.flags_header: the whole cookie header never leaves the gateway; "
            "use source cookie",
        ),
        (
            "identity.attribute_headers",
            {"tier": "Authorization"},
            "identity.attribute_headers.tier: authorization never leaves the gateway",
        ),
        (
            "identity.attribute_headers",
            {"tier": "x tier"},
            "identity.attribute_headers.tier: 'x tier' is not a valid HTTP header or cookie name",
        ),
        (
            "bucketing.hash_on.0",
            {"source": "header", "key": "authorization"},
            "bucketing.hash_on[0].key: authorization never leaves the gateway",
        ),
        (
            "bucketing.hash_on.0",
            {"source": "cookie"},
            "bucketing.hash_on[0].key: name the cookie",
        ),
        (
            "bucketing.hash_on.0",
            {"source": "ip", "key": "x"},
            "bucketing.hash_on[0].key: source ip has no key",
        ),
        (
            "bucketing.hash_on.0",
            {"source": "path"},
            "bucketing.hash_on[0].source: a path does not tell users apart",
        ),
        (
            "bucketing.cookie",
            "a;b",
            "bucketing.cookie: 'a;b' is not a valid HTTP header or cookie name",
        ),
        # networks
        (
            "whitelist.ips",
            ["10.0.0.0/8", "10.0.0.1/8"],
            "whitelist.ips[1]: '10.0.0.1/8' has host bits set; write 10.0.0.0/8",
        ),
        (
            "whitelist.ips",
            ["2001:db8::1/32"],
            "whitelist.ips[0]: '2001:db8::1/32' has host bits set; write 2001:db8::/32",
        ),
        (
            "whitelist.ips",
            ["10.0.0"],
            "whitelist.ips[0]: '10.0.0' is neither an address nor a network (CIDR)",
        ),
        (
            "whitelist.ips",
            ["10.0.0.0/33"],
            "whitelist.ips[0]: '10.0.0.0/33' is neither an address nor a network (CIDR)",
        ),
        # segments
        (
            "segments.0.canary_eligible",
            False,
            "segments[0].percentage: a protected segment protects all its members",
        ),
        (
            "segments.0.criteria",
            ABSENT,
            "segments[0].criteria: say who is in it: criteria, or listed: true",
        ),
        (
            "segments.0.criteria",
            {},
            "segments[0].criteria: say who is in it: criteria, or listed: true",
        ),
        (
            "segments.0.criteria.registered",
            {},
            "segments[0].criteria.registered: give either last_days, or start and end",
        ),
        (
            "segments.0.criteria.registered.end",
            "2026-01-01T00:00:00Z",
            "segments[0].criteria.registered: give either last_days, or start and end",
        ),
        (
            "segments.0.criteria.registered",
            {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T08:00:00+08:00"},
            "segments[0].criteria.registered.end: the end must come after the start",
        ),
        # what no single field shows
        ("versions.1.status", "stable", "versions: only one may be stable, not v1 and v2"),
        (
            "versions.2",
            {"version": "v3", "status": "canary"},
            "versions: only one may be canary, not v2 and v3",
        ),
        ("release.version", "v9", "release.version: 'v9' is not registered"),
        ("release.version", "v1", "release.version: 'v1' must have status canary"),
        ("flags.0.segments", ["beta", "gone"], "flags[0].segments: there is no segment 'gone'"),
    ],
)
def test_each_fault_has_its_complaint(path: Any, value: Any, complaint: str) -> None:
    if isinstance(path, str):
        assert complaint in complaints((path, value))
    else:
        with pytest.raises(InvalidPolicy) as caught:
            parse.policy({**VALID, path: value})
        assert caught.value.complaints == (complaint,)


def test_a_rule_on_addresses_is_judged_in_every_way_of_matching() -> None:
    address = {"name": "r", "source": "ip", "variant": "canary"}
    bad = "'10.0.0.1/8' has host bits set; write 10.0.0.0/8"
    given = [
        {**address, "name": "exact", "exact": "10.0.0.1/8"},
        {**address, "name": "one of", "one_of": ["10.0.0.1", "10.0.0.1/8"]},
        {**address, "name": "cidrs", "cidrs": ["10.0.0.1/8"]},
        {**address, "name": "pattern", "pattern": "10.0.0.1/8"},
    ]
    assert complaints(("rules", given)) == [
        f"rules[0].exact: {bad}",
        f"rules[1].one_of[1]: {bad}",
        f"rules[2].cidrs[0]: {bad}",
    ]


def test_networks_fit_no_other_source() -> None:
    rule = {"name": "r", "source": "path", "cidrs": ["10.0.0.0/8"], "variant": "canary"}
    assert complaints(("rules", [rule])) == ["rules[0].cidrs: networks fit source ip, not path"]


@pytest.mark.parametrize("pattern", ["(", "a{1001}", r"(?=look)", r"(a)\1", "[z-a]"])
def test_a_pattern_that_re2_does_not_know_is_refused(pattern: str) -> None:
    rule = {"name": "r", "source": "path", "pattern": pattern, "variant": "canary"}
    [complaint] = complaints(("rules", [rule]))
    assert complaint.startswith(f"rules[0].pattern: {pattern!r} is not an RE2 pattern: ")


def test_a_pattern_has_at_most_a_thousand_characters() -> None:
    rule = {"name": "r", "source": "path", "variant": "canary"}
    assert parse.policy(changed(("rules", [{**rule, "pattern": "a" * 1_000}])))
    assert complaints(("rules", [{**rule, "pattern": "a" * 1_001}]))[0] == (
        "rules[0].pattern: at most 1,000 characters, not 1,001"
    )


def test_a_pattern_that_needs_too_much_memory_is_refused() -> None:
    rule = {"name": "r", "source": "path", "variant": "canary"}
    [complaint] = complaints(("rules", [{**rule, "pattern": r"(\pL{500}){2}"}]))
    assert complaint.endswith("pattern too large - compile failed")


@pytest.mark.parametrize("document", [None, [], "policy", 5])
def test_what_is_no_mapping_is_no_policy(document: Any) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        parse.policy(document)
    assert caught.value.complaints == ("document: give a mapping",)


def test_every_complaint_comes_at_once_and_in_the_order_of_the_policy() -> None:
    assert complaints(
        ("service_key", ""),
        ("versions.0.build_date", "soon"),
        ("release.percentage", 101),
        ("rules.0.key", "authorization"),
        ("rules.0.pattern", "("),
        ("whitelist.ips", ["10.0.0.1/8", "x"]),
        ("segments.0.canary_eligible", "yes"),
        ("flags.0.enabled", "no"),
        ("bucketing.hash_on.0.source", "path"),
        ("identity.attribute_headers", {"tier": 5}),
        ("membership_epoch", "x"),
        ("colour", "red"),
    ) == [
        f"service_key: {NAME}",
        f"versions[0].build_date: 'soon' is no time; {WRITE_TIME}",
        f"release.percentage: {STEPS}, not 101",
        "rules[0].key: authorization never leaves the gateway",
        f"rules[0]: {WAYS}, not exact and pattern",
        "rules[0].pattern: '(' is not an RE2 pattern: missing ): (",
        "whitelist.ips[0]: '10.0.0.1/8' has host bits set; write 10.0.0.0/8",
        "whitelist.ips[1]: 'x' is neither an address nor a network (CIDR)",
        "segments[0].canary_eligible: give true or false, not 'yes'",
        "segments[0].percentage: a protected segment protects all its members",
        "flags[0].enabled: give true or false, not 'no'",
        "bucketing.hash_on[0].key: source path has no key",
        "bucketing.hash_on[0].source: a path does not tell users apart",
        "identity.attribute_headers.tier: give text, not 5",
        "membership_epoch: give a whole number from 0 to 9223372036854775807, not 'x'",
        "colour: unknown field",
    ]


def test_contradictions_come_at_once_too() -> None:
    assert complaints(
        ("versions.1.status", "stable"), ("flags.0.segments", ["gone", "away", "beta"])
    ) == [
        "versions: only one may be stable, not v1 and v2",
        "release.version: 'v2' must have status canary",
        "flags[0].segments: there is no segment 'away'",
        "flags[0].segments: there is no segment 'gone'",
    ]


def test_a_refusal_reads_as_one_line() -> None:
    error = InvalidPolicy(["a: b", "c: d"])
    assert isinstance(error, CanaryError)
    assert str(error) == "a: b; c: d"


@pytest.mark.parametrize(
    "path",
    [
        "service_key",
        "revision",
        "release.status",
        "release.percentage",
        "release.halted",
        "release.started_at",
        "rules.0.exact",
        "rules.0.key",
        "rules",
        "whitelist",
        "whitelist.users.0",
        "segments.0.criteria.custom.plan",
        "identity.attribute_headers.tier",
    ],
)
def test_a_value_of_10_mb_is_refused_in_a_few_words(path: str) -> None:
    found = complaints((path, "x" * 10_000_000))
    assert found
    assert all(len(complaint) < 250 for complaint in found)


def test_a_field_name_of_10_mb_is_refused_in_a_few_words() -> None:
    [complaint] = complaints(("x" * 10_000_000, 1))
    assert len(complaint) < 250


def test_tens_of_thousands_of_compatibility_rules_are_compared_quickly_enough_to_end() -> None:
    rules = [{"from": f"v{n}", "to": "v2"} for n in range(20_000)]
    found = parse.policy(changed(("compatibility.rules", rules)))
    assert len(found.compatibility.rules) == 20_000


# What is read where nothing is said


def test_a_service_key_alone_is_a_policy_with_the_documented_defaults() -> None:
    policy = parse.policy({"service_key": "shop"})
    assert policy == Policy(service_key="shop")
    assert policy.bucketing == Bucketing(
        hash_on=(), anonymous=Anonymous.STICKY_COOKIE, cookie="canary_id"
    )
    assert policy.identity == Identity(user_id_header="x-user-id", flags_header="")


def test_nothing_given_is_the_same_as_nothing_said() -> None:
    names = ["versions", "release", "rules", "compatibility", "whitelist", "segments", "flags"]
    document = {"service_key": "shop", **dict.fromkeys([*names, "bucketing", "identity"])}
    assert parse.policy(document) == Policy(service_key="shop")


def test_a_release_is_combined_and_not_halted_unless_it_says_otherwise() -> None:
    release = parse.policy(VALID).release
    assert release is not None
    assert (release.strategy, release.halted, release.share) == (Strategy.COMBINED, False, 5_000)
    assert release.status is ReleaseStatus.IN_PROGRESS


def test_a_version_is_only_registered_unless_it_says_otherwise() -> None:
    policy = parse.policy({"service_key": "shop", "versions": [{"version": "v1"}]})
    assert policy.versions[0].status is VersionStatus.REGISTERED


def test_an_ended_release_may_name_a_version_that_is_gone() -> None:
    document = changed(("release.status", "rolled-back"), ("versions.1", {"version": "v3"}))
    assert parse.policy(document).release is not None


@pytest.mark.parametrize(
    ("percentage", "share"),
    [
        (0, 0),
        (0.001, 1),
        (0.1, 100),
        (0.29, 290),
        (1.005, 1_005),
        (5, 5_000),
        (5.0, 5_000),
        (33.333, 33_333),
        (99.999, 99_999),
        (100, BUCKETS),
        (100.0, BUCKETS),
    ],
)
def test_a_percentage_is_read_exactly(percentage: float, share: int) -> None:
    release = parse.policy(changed(("release.percentage", percentage))).release
    assert release is not None
    assert release.share == share
    assert parse.percentage(share) == percentage


def test_every_share_survives_being_written_as_a_percentage() -> None:
    for share in range(BUCKETS + 1):
        assert Node({"p": parse.percentage(share)}, "", []).share("p") == share


def test_header_names_are_kept_in_lower_case_and_cookie_names_as_written() -> None:
    policy = parse.policy(
        changed(
            ("rules.0.key", "X-Test"),
            ("compatibility.header", "X-API"),
            ("bucketing.hash_on", [{"source": "header", "key": "X-A"}]),
            ("bucketing.hash_on.1", {"source": "cookie", "key": "Sid"}),
            ("identity.user_id_header", "X-User"),
            ("identity.flags_header", "X-Flags"),
            ("identity.attribute_headers", {"Tier": "X-Tier"}),
        )
    )
    assert policy.rules[0].key == "x-test"
    assert policy.compatibility.header == "x-api"
    assert policy.bucketing.hash_on == (
        HashKey(source=Source.HEADER, key="x-a"),
        HashKey(source=Source.COOKIE, key="Sid"),
    )
    assert policy.identity == Identity(
        user_id_header="x-user", flags_header="x-flags", attribute_headers={"Tier": "x-tier"}
    )


def test_times_are_kept_in_utc() -> None:
    policy = parse.policy(changed(("release.started_at", "2026-01-31T20:00:00+08:00")))
    assert policy.release is not None
    assert policy.release.started_at == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert parse.document(policy)["release"]["started_at"] == "2026-01-31T12:00:00Z"


# Documents


def test_a_document_leaves_out_what_equals_its_default() -> None:
    document = changed(
        ("release.strategy", "combined"),
        ("release.halted", False),
        ("bucketing", {"cookie": "canary_id", "anonymous": "sticky-cookie"}),
        ("identity", {"user_id_header": "x-user-id"}),
        ("whitelist", {"ips": []}),
        ("compatibility", {"header": ""}),
    )
    found = parse.document(parse.policy(document))
    assert set(found) == {
        "service_key", "revision", "versions", "release", "rules", "segments", "flags"
    }  # fmt: skip
    assert set(found["release"]) == {"id", "version", "status", "percentage", "salt"}


def test_a_document_keeps_a_share_of_zero_where_absence_means_all() -> None:
    document = parse.document(parse.policy(changed(("segments.0.percentage", 0))))
    assert document["segments"][0]["percentage"] == 0


def test_equal_documents_have_equal_canonical_bytes() -> None:
    assert parse.canonical({"b": ["内"], "a": 1}) == '{"a":1,"b":["内"]}'.encode()
    assert parse.canonical({"a": 1, "b": ["内"]}) == parse.canonical({"b": ["内"], "a": 1})


def test_the_content_hash_is_sha_256_of_the_canonical_form() -> None:
    # printf '{"service_key":"shop"}' | sha256sum
    expected = "99175a9bda87ecc28c25bd427b952a7e54c47110f4aec851bf08522d3828bf1a"
    assert parse.content_hash({"service_key": "shop"}) == expected


def test_a_number_written_in_another_way_is_the_same_policy_with_the_same_hash() -> None:
    one, other = (parse.policy(changed(("release.percentage", p))) for p in (5, 5.0))
    assert one == other
    assert parse.content_hash(parse.document(one)) == parse.content_hash(parse.document(other))
