"""What the plugin does for testers with a token and for clients of deprecated API versions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from canary_plugin.troubles import Troubles
from support.kong_side import KEY, Kong
from support.operators import Admin
from support.overrides import COOKIE, HEADER, key_file, token
from support.plugin_stage import PATIENT, plugin, stage
from support.service import NOWHERE
from support.spy import Spy

Stage = tuple[Kong, Spy, Admin, Troubles]
ALICE = {"x-user-id": "alice"}
PLACES = {"header": "x-api-version", "path_prefix": "/api/", "media_type": "application/vnd.shop"}
V1 = {
    "version": "v1",
    "deprecated": True,
    "deprecated_at": "2026-01-01T00:00:00Z",
    "sunset_date": "2026-12-31T23:59:59Z",
    "migration_guide": "https://shop.example/migrate",
}
TOLD = {
    "Deprecation": "@1767225600",
    "Sunset": "Thu, 31 Dec 2026 23:59:59 GMT",
    "Link": '<https://shop.example/migrate>; rel="deprecation"',
}


@pytest.fixture(params=["remote", "local"])
async def staged(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(decider=request.param, override_key=key_file(tmp_path)) as parts:
        yield parts


async def heard_of(spy: Spy, admin: Admin) -> None:
    """Wait until the plugin was told of the newest policy."""
    await spy.heard(await admin.revision())


async def test_a_token_sends_a_tester_to_the_canary_and_ends_at_the_gateway(
    staged: Stage,
) -> None:
    kong, spy, admin, troubles = staged
    await admin.release(0)
    await admin.do("CreateOverride", variant="canary", valid_s=60)
    await heard_of(spy, admin)
    instance = await kong.start(PATIENT)
    text = token(aud=KEY)
    event = await kong.access(instance, {**ALICE, HEADER: text})
    assert (event.variant, event.cleared) == ("canary", [HEADER])
    assert event.logged["reason"] == "override"
    assert event.logged["matched"] == "o-1"
    event = await kong.access(instance, {**ALICE, "cookie": f"secret=1; {COOKIE}={text}; x=2"})
    assert (event.variant, event.cleared) == ("canary", [])
    assert "client.get_forwarded_ip" in event.methods
    event = await kong.access(instance, ALICE)
    assert (event.variant, event.cleared) == ("", [])
    assert "client.get_forwarded_ip" not in event.methods
    assert [set(asked.cookies) - {COOKIE} for asked in spy.asked] == [set()] * len(spy.asked)
    assert not [asked for asked in spy.asked if "cookie" in asked.headers]
    assert troubles.counts == {}


TOLD_COOKIES = "service.request.set_headers"
MINE = f"{COOKIE}=anything"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (f"a=1; {MINE}; b=2", "a=1; b=2"),
        (f"{MINE}; b=2", "b=2"),
        (f"{MINE};b=2", "b=2"),
        (f"a=1;  {MINE}", "a=1"),
        (f'a="x y";{MINE};  b==2= ;;c', 'a="x y";  b==2= ;;c'),
        (f"a=1; {MINE}; {MINE}2; b=2", "a=1; b=2"),
        (f"a=\udcff\u20ac; {MINE}; b=\x01", "a=\udcff\u20ac; b=\x01"),
        ([f"a=1; {MINE}", "b=2"], ["a=1", "b=2"]),
        (["a=1", MINE, "b=2"], ["a=1", "b=2"]),
        (["a=1", MINE], "a=1"),
    ],
)
@pytest.mark.parametrize("share", [0, 100])
async def test_a_token_in_a_cookie_ends_at_the_gateway_and_no_other_cookie_does(
    staged: Stage, share: int, sent: str | list[str], kept: str | list[str]
) -> None:
    kong, spy, admin, troubles = staged
    await admin.release(share)
    await heard_of(spy, admin)
    instance = await kong.start(PATIENT)
    event = await kong.access(instance, {**ALICE, "cookie": sent})
    assert event.told["cookie"] == kept
    # The canary is told who was chosen by the same call.
    assert event.variant == ("canary" if share else "")
    assert (len(event.all_args(TOLD_COOKIES)), event.cleared) == (1, [])
    assert troubles.counts == {}


@pytest.mark.parametrize("sent", [MINE, f" {MINE} ", f"{MINE}; {MINE}", [MINE, MINE]])
@pytest.mark.parametrize("share", [0, 100])
async def test_where_no_other_cookie_is_left_the_upstream_gets_none(
    staged: Stage, share: int, sent: str | list[str]
) -> None:
    kong, spy, admin, _ = staged
    await admin.release(share)
    await heard_of(spy, admin)
    instance = await kong.start(PATIENT)
    event = await kong.access(instance, {**ALICE, "cookie": sent})
    assert (event.cleared, "cookie" in event.told) == (["cookie"], False)


@pytest.mark.parametrize(
    "sent",
    ["a=1", f"x{MINE}", f"a={MINE}", f"{COOKIE}2=x", f"{COOKIE.upper()}=x", "", ["a=1", "b=2"]],
)
async def test_other_cookies_cost_no_call(staged: Stage, sent: str | list[str]) -> None:
    kong, spy, admin, _ = staged
    await admin.release(0)
    await heard_of(spy, admin)
    instance = await kong.start(PATIENT)
    event = await kong.access(instance, {**ALICE, "cookie": sent})
    without = await kong.access(instance, ALICE)
    assert event.methods == without.methods
    assert not [m for m in event.methods if m.startswith("service.")]


async def test_a_token_in_a_cookie_ends_at_the_gateway_whatever_goes_wrong(staged: Stage) -> None:
    """Also where the canary cannot be reached, and where the service was never heard of."""
    kong, spy, admin, _ = staged
    await admin.release(100)
    await admin.do("SetOverrides", header="x-tester", cookie="tester")
    await heard_of(spy, admin)
    instance = await kong.start(PATIENT)
    headers = {**ALICE, "cookie": "a=1; tester=anything; b=2"}
    event = await kong.access(instance, headers, set_upstream=None)
    assert (event.variant, event.told) == ("", {"cookie": "a=1; b=2"})
    async with plugin(NOWHERE, warm_up_s=0.05) as (alone, _):
        instance = await alone.start(PATIENT | {"deadline_ms": 50})
        event = await alone.access(instance, {**ALICE, "cookie": f"a=1; {MINE}"})
        assert event.told == {"cookie": "a=1"}


@pytest.mark.parametrize("header", [HEADER, "x-tester"])
async def test_a_token_ends_at_the_gateway_wherever_it_is(staged: Stage, header: str) -> None:
    """Also where no policy believes tokens, and where the service was never heard of."""
    kong, _, _, _ = staged
    instance = await kong.start(PATIENT)
    event = await kong.access(instance, {**ALICE, header: "anything"})
    assert event.cleared == ([HEADER] if header == HEADER else [])
    async with plugin(NOWHERE, warm_up_s=0.05) as (alone, _):
        instance = await alone.start(PATIENT | {"deadline_ms": 50})
        event = await alone.access(instance, {**ALICE, header: "anything"})
        assert event.cleared == ([HEADER] if header == HEADER else [])


async def test_a_token_of_a_network_is_compared_with_the_clients_address(staged: Stage) -> None:
    kong, spy, admin, _ = staged
    await admin.release(0)
    await admin.do("CreateOverride", variant="canary", valid_s=60)
    await heard_of(spy, admin)
    instance = await kong.start(PATIENT)
    text = token(aud=KEY, cidr="192.0.2.0/24")
    for address, variant in (("192.0.2.9", "canary"), ("203.0.113.9", "")):
        for headers in ({HEADER: text}, {"cookie": f"{COOKIE}={text}"}):
            event = await kong.access(instance, ALICE | headers, get_forwarded_ip=address)
            assert event.variant == variant


async def test_a_client_of_a_deprecated_version_is_told_by_one_call(staged: Stage) -> None:
    kong, spy, admin, _ = staged
    await admin.do("SetCompatibility", compatibility={**PLACES, "api_versions": [V1]})
    await heard_of(spy, admin)
    instance = await kong.start(PATIENT)

    def told(event: Any) -> Any:
        assert event.end == "ret"
        return event.all_args("response.set_headers")

    # KongSide's path is /api/v1/x.
    event = await kong.access(instance, ALICE)
    assert told(event) == [[TOLD]]
    assert event.methods == [
        "request.get_headers", "router.get_service", "request.get_path", "response.set_headers",
    ]  # fmt: skip
    assert told(await kong.access(instance, {"x-api-version": "v2"})) == []
    await admin.release(100)
    await heard_of(spy, admin)
    event = await kong.access(instance, ALICE)
    assert (event.variant, told(event)) == ("canary", [[TOLD]])
    # A canary that cannot be reached: the version is deprecated all the same.
    event = await kong.access(instance, ALICE, set_upstream=None)
    assert (event.variant, told(event)) == ("", [[TOLD]])


async def test_a_policy_without_deprecated_versions_costs_no_call(staged: Stage) -> None:
    kong, spy, admin, _ = staged
    known = {**V1, "deprecated": False, "deprecated_at": None}
    versions = [{name: value for name, value in known.items() if value is not None}]
    await admin.do("SetCompatibility", compatibility={**PLACES, "api_versions": versions})
    await heard_of(spy, admin)
    instance = await kong.start(PATIENT)
    event = await kong.access(instance, ALICE)
    assert event.methods == ["request.get_headers", "router.get_service"]
