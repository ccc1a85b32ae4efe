"""Clients that name their API version: who stays on stable, and who is told what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from dev_stack.stack import CANARY, STABLE
from support.admin import Admin
from support.stack import PATIENCE_S, Client, until_release_rules

PLACES = {
    "header": "x-api-version",
    "path_prefix": "/api/",
    "media_type": "application/vnd.shop",
}
OLD = {"from": "old", "to": CANARY, "compatible": False}
GUIDE = "https://shop.example/migrate"
DEPRECATED = {
    "version": "v1",
    "deprecated": True,
    "deprecated_at": "2026-01-01T00:00:00Z",
    "sunset_date": "2026-12-31T23:59:59Z",
    "migration_guide": GUIDE,
}
TOLD = {
    "Deprecation": "@1767225600",
    "Sunset": "Thu, 31 Dec 2026 23:59:59 GMT",
    "Link": f'<{GUIDE}>; rel="deprecation"',
}


@pytest.fixture
def versioned(admin: Admin) -> Iterator[Admin]:
    """The admin API of a service key that forgets its API versions afterwards."""
    yield admin
    admin("SetCompatibility", compatibility={})


def told(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in TOLD if name in headers}


async def until_told(client: Client, headers: Mapping[str, str], path: str) -> Mapping[str, str]:
    """The headers of the first answer that says that the API version is deprecated."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, _, answered = await client.get(path, headers)
            assert status == 200
            if "Deprecation" in answered:
                return answered


async def test_a_client_that_the_canary_cannot_serve_stays_on_stable(
    client: Client, versioned: Admin
) -> None:
    path_only: dict[str, Any] = {"media_type": PLACES["media_type"], "header": PLACES["header"]}
    versioned("SetCompatibility", compatibility={**path_only, "rules": [OLD]})
    versioned.release(100, despite_incompatible="few are left")
    await until_release_rules_with(client, {"x-user-id": "ann"}, CANARY)
    assert await client.version({"x-user-id": "ann", "x-api-version": "old"}) == STABLE
    accepts = {"x-user-id": "ann", "accept": "application/vnd.shop.old+json"}
    assert await client.version(accepts) == STABLE
    accepts["accept"] = "application/vnd.shop.new+json, application/vnd.shop.old+json;q=0.5"
    assert await client.version(accepts) == CANARY


async def until_release_rules_with(
    client: Client, headers: Mapping[str, str], version: str, path: str = "/api/v1/hello"
) -> None:
    """Wait until a request gets ``version``."""
    async with asyncio.timeout(PATIENCE_S):
        while await client.version(headers, path) != version:
            pass


async def test_the_path_names_the_version(client: Client, versioned: Admin) -> None:
    rules = [{"from": "v1", "to": CANARY, "compatible": False}]
    versioned("SetCompatibility", compatibility={**PLACES, "rules": rules})
    versioned.release(100, despite_incompatible="few are left")
    await until_release_rules(client)
    ann = {"x-user-id": "ann"}
    assert await client.version({**ann, "x-api-version": "v2"}) == CANARY
    assert await client.version(ann) == STABLE


async def test_a_client_of_a_deprecated_version_is_told_with_a_release_and_without(
    client: Client, versioned: Admin
) -> None:
    """Under the baseline too, whichever version it gets."""
    versioned("SetCompatibility", compatibility={**PLACES, "api_versions": [DEPRECATED]})
    for asked in ({"x-user-id": "ann"}, {"x-canary-test": "true"}):
        assert told(await until_told(client, asked, "/api/v1/hello")) == TOLD
    versioned.release(100)
    await until_release_rules_with(client, {"x-user-id": "ann"}, CANARY)
    _, body, headers = await client.get(headers={"x-user-id": "ann"})
    assert (body["version"], told(headers)) == (CANARY, TOLD)
    versioned("MoveRelease", move="halt")
    await until_release_rules_with(client, {"x-user-id": "ann"}, STABLE)
    assert told((await client.get(headers={"x-user-id": "ann"}))[2]) == TOLD
    assert told((await client.get(headers={"x-api-version": "v2"}))[2]) == {}


async def test_links_of_the_upstream_stay(client: Client, versioned: Admin) -> None:
    versioned("SetCompatibility", compatibility={**PLACES, "api_versions": [DEPRECATED]})
    answered: Any = await until_told(client, {"x-user-id": "ann"}, "/api/v1/linked")
    assert sorted(answered.getall("Link")) == sorted([TOLD["Link"], '</next>; rel="next"'])


async def test_a_guide_may_be_a_path_and_the_sunset_unknown(
    client: Client, versioned: Admin
) -> None:
    known = {"version": "v1", "deprecated": True, "migration_guide": "/docs/新版"}
    versioned("SetCompatibility", compatibility={**PLACES, "api_versions": [known]})
    assert told(await until_told(client, {"x-user-id": "ann"}, "/api/v1/hello")) == {
        "Deprecation": "@0",
        "Link": '</docs/%E6%96%B0%E7%89%88>; rel="deprecation"',
    }
