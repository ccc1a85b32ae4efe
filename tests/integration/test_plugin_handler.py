"""What the plugin does with a request: real plugin server, real decision service."""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from canary.decision.v1 import decision_pb2 as pb
from canary_plugin.config import read
from canary_plugin.troubles import Troubles
from hypothesis import given
from hypothesis import strategies as st
from support import calls
from support.kong_side import GLOBAL_KEY, KEY, ROUTE_KEY, SERVICE, Event, Kong, PdkError
from support.operators import Admin
from support.plugin_stage import PATIENT, SEED, stage
from support.spy import Spy
from support.waiting import until

Stage = tuple[Kong, Spy, Admin, Troubles]
TEST_HEADER = {"x-canary-test": "true"}
READS = ["request.get_headers", "router.get_service"]
ROUTES = ["service.set_upstream", "service.request.set_headers", "log.set_serialize_value"]
FORGED = {
    "x-canary-variant": "canary",
    "x-canary-version": "v9",
    "x-canary-release": "mine",
    "x-canary-service": "another",
    "x-canary-decision": "mine",
}


@pytest.fixture
async def staged() -> AsyncIterator[Stage]:
    async with stage() as parts:
        yield parts


async def start(kong: Kong, key: str = GLOBAL_KEY, **config: Any) -> int:
    """An instance with the seed config, in part replaced."""
    return await kong.start(SEED | PATIENT | config, key=key)


async def test_the_seed_config_sends_the_test_header_to_the_canary(staged: Stage) -> None:
    kong, spy, _, troubles = staged
    instance = await kong.start(SEED | PATIENT)
    event = await kong.access(instance, TEST_HEADER | {"canary_id": "x"})
    assert event.end == "ret"
    reads = [*READS, "client.get_forwarded_ip", "client.get_consumer"]
    assert event.methods == [*reads, *ROUTES]
    assert event.upstream == "canary.yyc3-xy-api"
    assert event.told == {
        "host": "canary.yyc3-xy-api",
        "x-canary-variant": "canary",
        "x-canary-version": "canary",
        "x-canary-release": "baseline",
        "x-canary-service": KEY,
        "x-canary-decision": event.told["x-canary-decision"],
    }
    assert len(event.told["x-canary-decision"]) == 16
    assert event.logged == {
        "variant": "canary",
        "version": "canary",
        "reason": "rule",
        "matched": "whitelisted header x-canary-test (1)",
        "release_id": "baseline",
        "policy_revision": 0,
    }
    assert (event.cleared, event.cookies, troubles.counts) == ([], [], {})
    assert all(request.service_key == KEY for request in spy.asked)


@pytest.mark.parametrize(
    ("headers", "answers", "variant", "matched"),
    [
        ({"x-canary-test": "true"}, {}, "canary", "whitelisted header x-canary-test"),
        ({"x-canary-test": "True"}, {}, "", ""),
        ({"x-canary-test": "1"}, {}, "", ""),
        (
            {"cookie": "a=b; yyc3_canary=enabled"},
            {},
            "canary",
            "whitelisted cookie yyc3_canary",
        ),
        ({"cookie": "yyc3_canary=disabled"}, {}, "", ""),
        ({}, {"get_forwarded_ip": "192.168.1.7"}, "canary", "192.168.1.0/24"),
        ({}, {"get_forwarded_ip": "192.168.2.7"}, "", ""),
    ],
)
async def test_the_seed_config_does_what_it_says(
    staged: Stage, headers: dict[str, str], answers: dict[str, Any], variant: str, matched: str
) -> None:
    kong, *_ = staged
    instance = await start(kong, percentage=0)
    event = await kong.access(instance, headers, **answers)
    if variant:
        assert (event.variant, event.upstream) == (variant, "canary.yyc3-xy-api")
        assert event.logged["matched"].partition(" (")[0] == matched
    else:
        assert event.methods == [*READS, "client.get_forwarded_ip", "client.get_consumer"]


async def test_a_stable_decision_sets_nothing(staged: Stage) -> None:
    kong, spy, _, _ = staged
    instance = await start(kong, percentage=0)
    event = await kong.access(instance, {"x-user-id": "u1"})
    assert event.methods == [*READS, "client.get_forwarded_ip", "client.get_consumer"]
    assert spy.asked


async def test_five_percent_of_the_users_get_the_canary_always_the_same_ones(
    staged: Stage,
) -> None:
    kong, *_ = staged
    instance = await start(kong)
    users = [f"user-{n}" for n in range(400)]
    chosen = []
    for _ in range(2):
        events = [(user, await kong.access(instance, {"x-user-id": user})) for user in users]
        chosen.append({user for user, event in events if event.variant == "canary"})
    assert chosen[0] == chosen[1]
    assert 5 <= len(chosen[0]) <= 40


async def test_a_scoped_instance_asks_for_its_service_once_a_global_one_each_time(
    staged: Stage,
) -> None:
    kong, *_ = staged
    counts = {}
    for key in (GLOBAL_KEY, ROUTE_KEY, "plugins:canary-release::service-id:::ws"):
        instance = await start(kong, key=key)
        events = [await kong.access(instance) for _ in range(3)]
        counts[key] = [event.methods.count("router.get_service") for event in events]
    assert list(counts.values()) == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]


async def test_an_instance_of_a_consumer_alone_is_not_scoped_to_a_service(staged: Stage) -> None:
    kong, *_ = staged
    instance = await start(kong, key="plugins:canary-release:::consumer-id:ws")
    for name in ("one", "two"):
        event = await kong.access(instance, TEST_HEADER, get_service=SERVICE | {"name": name})
        assert event.variant == "canary"
    assert {request.service_key for request in staged[1].asked} == {"one", "two"}


@pytest.mark.parametrize(
    ("config", "calls"),
    [
        ({"whitelisted_ips": None, "hash_on": ["header:x-user-id"]}, []),
        ({"hash_on": ["header:x-user-id"]}, ["client.get_forwarded_ip"]),
        ({"whitelisted_ips": None, "hash_on": ["ip"]}, ["client.get_forwarded_ip"]),
        ({"whitelisted_ips": None, "hash_on": ["consumer"]}, ["client.get_consumer"]),
        ({"whitelisted_ips": None, "hash_on": None}, ["client.get_consumer"]),
    ],
)
async def test_kong_is_asked_only_for_what_the_policy_reads(
    staged: Stage, config: dict[str, Any], calls: list[str]
) -> None:
    kong, *_ = staged
    instance = await start(kong, **config)
    event = await kong.access(instance, TEST_HEADER)
    assert event.methods == [*READS, *calls, *ROUTES]


async def test_what_leaves_the_gateway_is_what_the_policy_reads(staged: Stage) -> None:
    kong, spy, _, _ = staged
    instance = await start(kong)
    headers = {
        "authorization": "Bearer secret",
        "proxy-authorization": "Basic secret",
        "cookie": "session=secret; yyc3_canary=no; canary_id=c1; other=secret",
        "x-canary-test": "false",
        "x-user-id": "u1",
        "x-secret": "secret",
        "user-agent": "secret",
    }
    await kong.access(instance, headers, get_path="/secret")
    assert spy.asked
    for asked in spy.asked:
        assert dict(asked.headers) == {"x-canary-test": "false", "x-user-id": "u1"}
        assert dict(asked.cookies) == {"yyc3_canary": "no", "canary_id": "c1"}
        assert (asked.client_ip, asked.path, asked.consumer) == ("203.0.113.9", "", "")
        assert b"secret" not in asked.SerializeToString()


async def test_without_a_policy_nothing_but_the_service_key_leaves(staged: Stage) -> None:
    kong, spy, _, _ = staged
    instance = await kong.start(PATIENT)
    event = await kong.access(instance, {"cookie": "a=b", "x-user-id": "u", "authorization": "z"})
    assert event.methods == READS
    (asked,) = spy.asked
    assert {field.name for field, _ in asked.ListFields()} == {
        "service_key", "fallback_key", "reads_digest",
    }  # fmt: skip


async def test_a_service_that_asks_for_credentials_does_not_get_them(staged: Stage) -> None:
    kong, spy, _, _ = staged
    greedy = ["authorization", "proxy-authorization", "cookie", "x-user-id"]

    async def decide(request: pb.DecideRequest, forward: Any) -> pb.DecideResponse:
        response = pb.DecideResponse()
        response.resend.reads.headers.extend(greedy)
        response.resend.reads.digest = "greedy"
        return response

    spy.decide = decide
    instance = await kong.start(PATIENT)
    await kong.access(instance, dict.fromkeys(greedy, "secret"))
    assert [dict(asked.headers) for asked in spy.asked[1:]] == [{"x-user-id": "secret"}] * 2


async def test_only_the_keyed_hash_of_a_user_id_leaves(staged: Stage) -> None:
    kong, spy, _, _ = staged
    instance = await start(kong, user_id_hash_key="key", user_id_header="X-Account", percentage=100)
    user = "ann@example.com"
    event = await kong.access(instance, {"x-account": user})
    assert event.variant == "canary"
    expected = hmac.digest(b"key", user.encode(), "sha256").hex()
    assert {asked.headers["x-account"] for asked in spy.asked} == {expected}
    assert not any(user.encode() in asked.SerializeToString() for asked in spy.asked)
    assert user not in str(event.calls)


async def test_a_user_id_is_hashed_in_the_header_that_the_policy_in_force_goes_by(
    staged: Stage,
) -> None:
    kong, spy, admin, _ = staged
    await admin.release(100)
    await admin.do("SetIdentity", identity={"user_id_header": "x-member"})
    await until(lambda: any(m.policy.identity.user_id_header == "x-member" for m in spy.told))
    instance = await start(kong, user_id_hash_key="key")
    event = await kong.access(instance, {"x-member": "ann@example.com"})
    assert event.variant == "canary"
    expected = hmac.digest(b"key", b"ann@example.com", "sha256").hex()
    assert spy.asked
    assert all(dict(asked.headers) == {"x-member": expected} for asked in spy.asked)


async def test_reads_follow_the_policy(staged: Stage) -> None:
    kong, spy, admin, troubles = staged
    instance = await start(kong)
    await kong.access(instance, TEST_HEADER)
    await admin.release(0)
    await spy.heard(await admin.revision())
    rule = {"name": "tier", "source": "header", "key": "x-tier", "exact": "gold"}
    await admin.do("SetRules", rules=[rule | {"variant": "canary"}])
    event = await kong.access(instance, TEST_HEADER | {"x-tier": "gold"})
    assert event.told["x-canary-version"] == "v2"
    assert event.upstream == "v2-upstream"
    assert event.logged["matched"] == "tier"
    assert dict(spy.asked[-1].headers) == {"x-tier": "gold"}
    event = await kong.access(instance, TEST_HEADER)
    assert event.variant == ""
    assert troubles.counts == {}


async def test_a_policy_that_changed_unheard_still_decides_right(staged: Stage) -> None:
    kong, spy, admin, troubles = staged
    spy.is_mute = True
    instance = await kong.start(PATIENT)
    for key in ("x-first", "x-second"):
        if key == "x-first":
            await admin.release(0)
        rule = {"name": key, "source": "header", "key": key, "exact": "1", "variant": "canary"}
        await admin.do("SetRules", rules=[rule])
        spy.asked.clear()
        event = await kong.access(instance, {"x-first": "1", "x-second": "1", "x-third": "1"})
        assert (event.variant, event.logged["matched"]) == ("canary", key)
        assert [dict(asked.headers) for asked in spy.asked] == [{}, {key: "1"}]
    assert troubles.counts == {}


async def test_a_policy_that_changes_between_all_questions_is_decided_alone(
    staged: Stage,
) -> None:
    kong, spy, _, troubles = staged

    async def decide(request: pb.DecideRequest, forward: Any) -> pb.DecideResponse:
        response = pb.DecideResponse()
        response.resend.reads.digest = f"digest {len(spy.asked)}"
        return response

    spy.decide = decide
    instance = await start(kong)
    event = await kong.access(instance, TEST_HEADER | FORGED)
    assert (event.variant, event.end) == ("canary", "ret")
    assert len(spy.asked) == 3
    assert troubles.counts == {"alone-changing": 1}


async def test_a_baseline_without_an_upstream_of_that_name_goes_to_the_host(
    staged: Stage,
) -> None:
    kong, _, _, troubles = staged
    instance = await start(kong, upstream_host_header="localhost")
    event = await kong.access(instance, TEST_HEADER, set_upstream=None)
    assert event.methods[-4:] == [
        "service.set_upstream", "service.set_target",
        "service.request.set_headers", "log.set_serialize_value",
    ]  # fmt: skip
    assert event.all_args("service.set_target") == [["localhost", 1229]]
    assert (event.variant, event.told["host"]) == ("canary", "localhost")
    assert troubles.counts == {}


async def test_a_baseline_whose_host_leads_nowhere_serves_stable_and_is_counted(
    staged: Stage,
) -> None:
    kong, _, _, troubles = staged
    instance = await start(kong, upstream_host_header="canary.invalid")
    for _ in range(2):
        event = await kong.access(instance, TEST_HEADER, set_upstream=None)
        assert event.all_args("service.set_target") == []
        assert event.told == {}
    assert troubles.counts == {"no-backend": 2}


async def test_a_canary_upstream_goes_before_the_host_header(staged: Stage) -> None:
    kong, *_ = staged
    instance = await start(kong, canary_upstream="canary-pool")
    event = await kong.access(instance, TEST_HEADER)
    assert (event.upstream, event.told["host"]) == ("canary-pool", "canary.yyc3-xy-api")
    instance = await start(kong, canary_upstream="canary-pool", upstream_host_header=None)
    event = await kong.access(instance, TEST_HEADER)
    assert event.upstream == "canary-pool"
    assert "host" not in event.told


async def test_a_release_whose_upstream_is_missing_serves_stable_and_is_counted(
    staged: Stage,
) -> None:
    kong, _, admin, troubles = staged
    await admin.release(100)
    instance = await start(kong)
    event = await kong.access(instance, FORGED | {"x-user-id": "u"}, set_upstream=None)
    clears = ["service.request.clear_header"] * len(FORGED)
    assert event.methods[-len(clears) - 1 :] == ["service.set_upstream", *clears]
    assert (event.told, event.logged, event.cookies) == ({}, {}, [])
    assert troubles.counts == {"no-backend": 1}


async def test_a_stable_version_whose_upstream_is_missing_gets_no_host_header_of_it(
    staged: Stage,
) -> None:
    kong, _, admin, _ = staged
    await admin.release(0, stable_backend={"upstream": "gone", "host_header": "stable.example"})
    instance = await start(kong)
    event = await kong.access(instance, {"x-user-id": "u"}, set_upstream=None)
    assert "service.set_upstream" in event.methods
    assert event.told == {}


async def test_a_release_with_a_host_and_port_uses_them(staged: Stage) -> None:
    kong, _, admin, _ = staged
    backend = {"host": "10.0.0.7", "port": 8443, "host_header": "api.example"}
    await admin.release(100, backend=backend)
    instance = await start(kong)
    event = await kong.access(instance, {"x-user-id": "u"})
    assert event.all_args("service.set_target") == [["10.0.0.7", 8443]]
    assert event.told["host"] == "api.example"


@pytest.mark.parametrize("host", ["10.1.2.3", "::1", "[2001:db8::1]"])
async def test_a_service_at_an_address_never_gets_an_upstream(staged: Stage, host: str) -> None:
    kong, _, admin, troubles = staged
    service = SERVICE | {"host": host}
    instance = await start(kong, upstream_host_header="localhost")
    event = await kong.access(instance, TEST_HEADER, get_service=service)
    assert event.upstream == "localhost:1229"
    assert "service.set_upstream" not in event.methods
    await admin.release(100)
    event = await kong.access(instance, {"x-user-id": "u"}, get_service=service)
    assert event.upstream == ""
    assert troubles.counts == {"no-backend": 1}


async def test_a_stable_version_with_a_backend_of_its_own_is_served_there(staged: Stage) -> None:
    kong, _, admin, _ = staged
    await admin.release(0, stable_backend={"upstream": "v1-upstream", "host_header": "v1.example"})
    instance = await start(kong)
    event = await kong.access(instance, {"x-user-id": "u"} | FORGED)
    assert event.upstream == "v1-upstream"
    assert event.told == {"host": "v1.example"}
    assert event.cleared == list(FORGED)
    assert event.logged == {}


async def test_forged_headers_are_cleared_on_stable_and_overwritten_on_canary(
    staged: Stage,
) -> None:
    kong, *_ = staged
    instance = await start(kong, percentage=0)
    stable = await kong.access(instance, FORGED | {"x-user-id": "u"})
    assert stable.cleared == list(FORGED)
    one = await kong.access(instance, {"x-canary-version": "v9", "x-user-id": "u"})
    assert one.cleared == ["x-canary-version"]
    canary = await kong.access(instance, FORGED | TEST_HEADER)
    assert canary.cleared == []
    assert set(FORGED) <= set(canary.told)


@pytest.mark.parametrize("lines", [98, 99, 100, 140])
async def test_in_a_flood_of_headers_all_of_ours_are_cleared(staged: Stage, lines: int) -> None:
    kong, *_ = staged
    instance = await start(kong, percentage=0)
    # Kong counts lines, so a repeated header is several.
    headers: dict[str, Any] = {"x-many": ["1"] * (lines - 1), "x-user-id": "u"}
    event = await kong.access(instance, headers)
    assert event.cleared == (list(FORGED) if lines >= 100 else [])


async def test_forged_headers_are_cleared_without_a_service_and_on_a_bad_config(
    staged: Stage,
) -> None:
    kong, spy, _, _ = staged
    instance = await start(kong)
    event = await kong.access(instance, FORGED, get_service=None)
    assert event.methods == [*READS, *["service.request.clear_header"] * len(FORGED)]
    instance = await start(kong, whitelisted_ips=["nonsense"])
    event = await kong.access(instance, FORGED)
    assert event.methods == ["request.get_headers", *["service.request.clear_header"] * len(FORGED)]
    assert spy.asked == []


async def test_a_bug_after_reading_the_headers_still_clears_forged_ones(staged: Stage) -> None:
    kong, _, _, troubles = staged
    instance = await start(kong)
    event = await kong.access(instance, FORGED | TEST_HEADER, get_service=PdkError("broken"))
    assert (event.cleared, event.end) == (list(FORGED), "ret")
    assert troubles.counts == {"plugin-error": 1}
    assert (await kong.access(instance, TEST_HEADER)).variant == "canary"


def cookie_of(event: Event) -> tuple[str, list[str]]:
    (cookie,) = event.cookies
    pair, *attributes = cookie.split("; ")
    return pair, attributes


async def test_an_anonymous_client_gets_a_sticky_cookie_once(staged: Stage) -> None:
    kong, spy, _, _ = staged
    instance = await start(kong, percentage=50)
    for _ in range(10):
        first = await kong.access(instance)
        pair, attributes = cookie_of(first)
        assert attributes == ["Path=/", "Max-Age=31536000", "HttpOnly", "SameSite=Lax"]
        assert pair == f"canary_id={spy.asked[-1].fallback_key}"
        again = await kong.access(instance, {"cookie": f"a=b; {pair}"})
        assert again.cookies == []
        assert (again.variant, again.logged) == (first.variant, first.logged)
    drawn = {asked.fallback_key for asked in spy.asked}
    assert all(len(key) == 32 for key in drawn)


async def test_the_cookie_is_as_configured(staged: Stage) -> None:
    kong, *_ = staged
    instance = await start(kong, cookie="kanarie", cookie_max_age_s=0, cookie_secure=True)
    pair, attributes = cookie_of(await kong.access(instance, {"cookie": "canary_id=x"}))
    assert pair.startswith("kanarie=")
    assert attributes == ["Path=/", "Max-Age=0", "HttpOnly", "SameSite=Lax", "Secure"]


@pytest.mark.parametrize(
    ("headers", "answers"),
    [
        ({"x-user-id": "u"}, {}),
        ({}, {"get_consumer": {"id": "c-id", "username": "alice"}}),
        (TEST_HEADER, {}),
        ({}, {"get_forwarded_ip": "192.168.1.9"}),
    ],
)
async def test_no_cookie_is_issued_where_no_key_was_drawn(
    staged: Stage, headers: dict[str, str], answers: dict[str, Any]
) -> None:
    kong, *_ = staged
    instance = await start(kong)
    assert (await kong.access(instance, headers, **answers)).cookies == []


@pytest.mark.parametrize("anonymous", ["per-request", "stable"])
async def test_no_cookie_is_issued_unless_it_is_to_be_sticky(staged: Stage, anonymous: str) -> None:
    kong, *_ = staged
    instance = await start(kong, percentage=100, anonymous=anonymous)
    event = await kong.access(instance)
    assert event.cookies == []
    assert event.variant == ("canary" if anonymous == "per-request" else "")


async def test_the_client_is_told_only_on_request(staged: Stage) -> None:
    kong, *_ = staged
    user = {"x-user-id": "u"}
    instance = await start(kong, percentage=0, response_headers=True)
    for headers, expected in (
        (user | TEST_HEADER, [["x-canary-variant", "canary"], ["x-canary-version", "canary"]]),
        (user, [["x-canary-variant", "stable"], ["x-canary-version", ""]]),
    ):
        event = await kong.access(instance, headers)
        assert event.all_args("response.set_header") == expected
    instance = await start(kong)
    event = await kong.access(instance, TEST_HEADER)
    assert event.all_args("response.set_header") == []


async def test_stable_is_labelled_on_request(staged: Stage) -> None:
    kong, _, admin, _ = staged
    await admin.release(0)
    instance = await start(kong, label_stable=True)
    event = await kong.access(instance, FORGED | {"x-user-id": "u"})
    assert event.told == {
        "x-canary-variant": "stable",
        "x-canary-version": "v1",
        "x-canary-release": event.logged["release_id"],
        "x-canary-service": KEY,
        "x-canary-decision": event.told["x-canary-decision"],
    }
    assert event.told["x-canary-decision"] != FORGED["x-canary-decision"]
    assert event.cleared == []
    assert event.logged["release_id"] not in ("", "mine")
    assert (event.logged["variant"], event.logged["reason"]) == ("stable", "default")


async def test_flags_of_the_config_are_asked_about(staged: Stage) -> None:
    kong, _, admin, _ = staged
    await admin.release(0)
    await admin.do("PutFlag", flag={"name": "beta", "enabled": True, "users": ["ann"]})
    instance = await start(kong, flags=["beta"])
    assert (await kong.access(instance, {"x-user-id": "ann"})).logged["reason"] == "flag"
    assert (await kong.access(instance, {"x-user-id": "bob"})).variant == ""


async def test_a_service_without_a_name_goes_by_its_id(staged: Stage) -> None:
    kong, spy, _, _ = staged
    instance = await start(kong)
    nameless = {"id": "c88481a3", "host": "yyc3-xy-api", "port": 1229}
    assert (await kong.access(instance, TEST_HEADER, get_service=nameless)).variant == "canary"
    assert {asked.service_key for asked in spy.asked} == {"c88481a3"}


async def test_a_configured_service_key_goes_before_the_name(staged: Stage) -> None:
    kong, spy, _, _ = staged
    instance = await start(kong, service_key="shop")
    assert (await kong.access(instance, TEST_HEADER)).variant == "canary"
    assert {asked.service_key for asked in spy.asked} == {"shop"}


@pytest.mark.parametrize(
    ("consumer", "expected"),
    [
        ({"id": "c-id", "username": "alice"}, "alice"),
        ({"id": "c-id"}, "c-id"),
        ({"id": "c-id", "username": None}, "c-id"),
        ({"id": "c-id", "custom_id": "x"}, "c-id"),
        ({}, ""),
        (None, ""),
        ([], ""),
    ],
)
async def test_a_consumer_goes_by_username_or_id(
    staged: Stage, consumer: Any, expected: str
) -> None:
    kong, spy, _, _ = staged
    instance = await start(kong)
    await kong.access(instance, get_consumer=consumer)
    assert {asked.consumer for asked in spy.asked} == {expected}


NASTY_HEADERS: list[dict[str, Any]] = [
    {"x-user-id": "caf\udce9"},
    {"x-user-id": "\udcff\udcfe", "cookie": "canary_id=\udcff; yyc3_canary=\udc80"},
    {"x-user-id": ["a", "b", "c"]},
    {"x-canary-test": ["true", "true"]},
    {"x-user-id": "用户"},
    {"x-user-id": ""},
    {"x-user-id": "\x00\x01"},
    {"x-user-id": "x" * 100_000},
    {"x-canary-test": [True]},
    {"x-user-id": [7, None, 1.5]},
    {"\udcff": "\udcff"},
    {"cookie": ["a=b", "canary_id=x", ";;;===;"]},
]


@pytest.mark.parametrize("headers", NASTY_HEADERS, ids=ascii)
async def test_nasty_headers_get_a_decision(staged: Stage, headers: dict[str, Any]) -> None:
    kong, spy, _, troubles = staged
    instance = await start(kong, percentage=100, user_id_header="x-user-id")
    event = await kong.access(instance, headers)
    assert (event.variant, event.end, troubles.counts) == ("canary", "ret", {})
    assert spy.asked


async def test_repeated_headers_are_joined_and_cookies_of_several_lines_found(
    staged: Stage,
) -> None:
    kong, spy, _, _ = staged
    instance = await start(kong, percentage=0)
    headers = {"x-user-id": ["a", "b"], "cookie": ["canary_id=1", "yyc3_canary=enabled"]}
    assert (await kong.access(instance, headers)).logged["reason"] == "rule"
    assert spy.asked[-1].headers["x-user-id"] == "a, b"
    assert dict(spy.asked[-1].cookies) == {"canary_id": "1", "yyc3_canary": "enabled"}


@pytest.mark.parametrize(
    ("cookie", "found"),
    [
        ("canary_id", {"canary_id": ""}),
        ("canary_id=", {"canary_id": ""}),
        ("=x; canary_id=a", {"canary_id": "a"}),
        ("canary_id=a; canary_id=b", {"canary_id": "a"}),
        (' canary_id = "a" ', {"canary_id": "a"}),
        ("canary_id=a=b=c", {"canary_id": "a=b=c"}),
        ("xcanary_id=a; canary_idx=b", {}),
        ("CANARY_ID=a", {}),
        (";;;;", {}),
        ("canary_id=a,b", {"canary_id": "a,b"}),
    ],
)
async def test_malformed_cookies_are_passed_over(
    staged: Stage, cookie: str, found: dict[str, str]
) -> None:
    kong, spy, _, troubles = staged
    instance = await start(kong, percentage=100)
    event = await kong.access(instance, {"cookie": cookie})
    assert dict(spy.asked[-1].cookies) == found
    assert bool(event.cookies) == (not found.get("canary_id"))
    assert (event.variant, troubles.counts) == ("canary", {})


@pytest.mark.parametrize(
    "address", [None, "", "unknown", "1.2.3.4, 5.6.7.8", "fe80::1%eth0", "999.1.1.1", "x" * 9000,
                "\udcff", 7, "::ffff:192.168.1.7"]
)  # fmt: skip
async def test_an_absurd_address_is_no_address(staged: Stage, address: Any) -> None:
    kong, _, _, troubles = staged
    instance = await start(kong, percentage=0)
    event = await kong.access(instance, {"x-user-id": "u"}, get_forwarded_ip=address)
    assert (event.end, troubles.counts) == ("ret", {})
    # An IPv4 client of a dual-stack listener is still that client.
    assert event.variant == ("canary" if address == "::ffff:192.168.1.7" else "")


BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"whitelisted_ips": ["10.0.0.0/33"]}, "whitelisted_ips[0]"),
    ({"whitelisted_ips": ["10.0.0.0/8", "host.example"]}, "whitelisted_ips[1]"),
    ({"upstream_host_header": None}, "upstream_host_header"),
    ({"upstream_host_header": "two words"}, "upstream_host_header"),
    ({"canary_upstream": "two words"}, "canary_upstream"),
    ({"whitelisted_headers": [{"name": "bad name", "value": "x"}]}, "whitelisted_headers"),
    ({"whitelisted_headers": [{"name": "authorization", "value": "x"}]}, "whitelisted_headers"),
    ({"whitelisted_cookies": [{"name": "a;b", "value": "x"}]}, "whitelisted_cookies"),
    ({"whitelisted_headers": [{"name": "x-empty", "value": ""}]}, "whitelisted_headers"),
    ({"percentage": 0.0001}, "percentage"),
    ({"percentage": 101}, "percentage"),
    ({"hash_on": ["moon"]}, "hash_on[0]"),
    ({"hash_on": ["path"]}, "hash_on[0]"),
    ({"hash_on": ["header"]}, "hash_on[0]"),
    ({"cookie": "a=b"}, "cookie"),
    ({"user_id_header": "x user"}, "user_id_header"),
    ({"user_id_header": "authorization"}, "user_id_header"),
    ({"service_key": "k" * 129}, "service_key"),
    ({"flags": [""]}, "flags[0]"),
    ({"salt": "s" * 129}, "salt"),
    ({"anonymous": "maybe"}, "anonymous"),
]


@pytest.mark.parametrize(("config", "field"), BAD_CONFIGS, ids=lambda value: ascii(value)[:60])
async def test_a_bad_config_is_named_in_its_own_words_and_serves_stable(
    staged: Stage, caplog: pytest.LogCaptureFixture, config: dict[str, Any], field: str
) -> None:
    kong, spy, _, troubles = staged
    with caplog.at_level(logging.ERROR, "canary_plugin"):
        instance = await start(kong, **config)
    messages = [record.getMessage() for record in caplog.records if record.name == "canary_plugin"]
    head = "config of plugin plugin-id refused, serving stable: "
    assert messages
    assert all(message.startswith(head) for message in messages)
    assert any(message.removeprefix(head).startswith(field) for message in messages), messages
    for word in ("versions[", "release.", "rules[", "bucketing.", "identity.", "whitelist."):
        assert not any(word in message for message in messages)
    event = await kong.access(instance, TEST_HEADER)
    assert (event.methods, event.end) == (["request.get_headers"], "ret")
    assert (spy.asked, troubles.counts) == ([], {})
    assert not any(watched.baselines for watched in spy.watched)


NULLS = dict.fromkeys(
    (
        "percentage", "upstream_host_header", "canary_upstream", "traffic_percentage_type",
        "whitelisted_ips", "whitelisted_cookies", "whitelisted_headers", "salt", "service_key",
        "hash_on", "anonymous", "cookie", "cookie_max_age_s", "cookie_secure", "user_id_header",
        "user_id_hash_key", "flags", "deadline_ms", "label_stable", "response_headers",
    )
)  # fmt: skip


async def test_fields_that_kong_leaves_null_have_their_defaults(staged: Stage) -> None:
    kong, _, _, troubles = staged
    assert (await kong.access(await kong.start(NULLS), TEST_HEADER)).upstream == ""
    instance = await kong.start(NULLS | SEED | PATIENT)
    assert (await kong.access(instance, TEST_HEADER)).variant == "canary"
    assert troubles.counts["plugin-error"] == 0


@pytest.mark.parametrize("field", ["whitelisted_ips", "whitelisted_cookies", "hash_on", "flags"])
@pytest.mark.parametrize("empty", [[], {}])
async def test_an_empty_list_is_one_even_where_lua_calls_it_a_table(
    staged: Stage, field: str, empty: Any
) -> None:
    kong, *_ = staged
    instance = await kong.start(SEED | PATIENT | {field: empty})
    assert (await kong.access(instance, TEST_HEADER)).variant == "canary"


@pytest.mark.parametrize(
    ("value", "sent"), [(True, "true"), (False, "false"), (5, "5"), (5.0, "5"), (1.5, "1.5")]
)
async def test_yaml_scalars_match_the_text_that_clients_send(
    staged: Stage, value: Any, sent: str
) -> None:
    kong, *_ = staged
    instance = await start(
        kong, percentage=0, whitelisted_headers=[{"name": "X-Test", "value": value}]
    )
    assert (await kong.access(instance, {"x-test": sent})).variant == "canary"


async def test_the_baseline_is_listed_while_an_instance_has_it_and_no_longer() -> None:
    async with stage(idle_instance_s=0.0) as (kong, _, admin, _):
        for percentage in (5, 6, 7):
            instance = await start(kong, percentage=percentage)
            await kong.access(instance, TEST_HEADER)

        # Instances that nothing uses are dropped by the next sweep, and their baselines too.
        async def listed() -> set[float]:
            return {policy.release.percentage for policy in await admin.baselines()}

        seen: list[set[float]] = []
        while await listed() != set():
            seen.append(await listed())
            assert len(seen) < 10_000
        assert set().union(*seen) <= {5, 6, 7}


async def test_two_instances_with_one_baseline_declare_it_until_the_last_is_gone(
    staged: Stage,
) -> None:
    kong, spy, admin, _ = staged
    first, second = await start(kong), await start(kong)
    for instance in (first, second):
        await kong.access(instance, TEST_HEADER)
    await until(lambda: spy.watched and spy.watched[-1].baselines)
    before = len(spy.watched)
    await kong.call("plugin.CloseInstance", first)
    await until(lambda: len(spy.watched) > before)
    assert len(spy.watched[-1].baselines) == 1
    await kong.call("plugin.CloseInstance", second)
    await until(lambda: not spy.watched[-1].baselines)

    async def are_forgotten() -> bool:
        return await admin.baselines() == []

    await calls.until(are_forgotten)


@given(
    st.dictionaries(
        st.sampled_from(sorted(NULLS)),
        st.none() | st.booleans() | st.floats(0, 100) | st.text(max_size=5) | st.lists(st.text()),
    )
)
def test_reading_a_config_never_raises(config: dict[str, Any]) -> None:
    read({"__key__": GLOBAL_KEY} | config)
