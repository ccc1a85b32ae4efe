"""The seed's plugin block at a gateway: it loads and does what it says.

Nothing is added to it but patience, which a busy machine needs.
"""

from __future__ import annotations

import pytest
from dev_stack.stack import CANARY, CANARY_UPSTREAM, STABLE, Stack
from support.stack import Client, share


@pytest.mark.parametrize(
    "headers",
    [
        {"x-canary-test": "true"},
        {"X-Canary-Test": "true"},
        {"cookie": "yyc3_canary=enabled"},
        {"cookie": "a=b; yyc3_canary=enabled; c=d"},
        {"x-forwarded-for": "192.168.1.77"},
    ],
)
async def test_whoever_is_whitelisted_gets_the_canary_and_its_host(
    client: Client, headers: dict[str, str]
) -> None:
    status, body, _ = await client.get(headers=headers)
    assert (status, body["version"], body["headers"]["host"]) == (200, CANARY, CANARY_UPSTREAM)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-canary-test": "false"},
        {"x-canary-test": "True"},
        {"cookie": "yyc3_canary=disabled"},
        {"cookie": "yyc3_canary"},
        {"x-forwarded-for": "192.168.2.1"},
    ],
)
async def test_whoever_nearly_is_goes_by_the_percentage(
    client: Client, headers: dict[str, str]
) -> None:
    # This user's bucket is beyond 5 % under the seed's salt.
    found = {await client.version({**headers, "x-user-id": f"near-{n}"}) for n in range(12)}
    assert STABLE in found


async def test_about_five_in_a_hundred_users_get_the_canary_and_keep_it(client: Client) -> None:
    users = [f"base-{number}" for number in range(1_000)]
    found = await client.versions(users)
    assert 0.03 < share(found) < 0.07
    assert await client.versions(users) == found


async def test_the_path_is_not_stripped(client: Client) -> None:
    _, body, _ = await client.get("/api/v1/a/b")
    assert body["path"] == "/api/v1/a/b"


async def test_a_canary_that_is_no_upstream_is_a_host_on_the_services_port(client: Client) -> None:
    status, body, _ = await client.get("/plain/x")
    assert (status, body["version"]) == (200, CANARY)


async def test_a_service_with_an_address_for_a_host_is_never_harmed(client: Client) -> None:
    # Kong cannot set an upstream there, and the baseline's name is no host that can be found.
    for number in range(60):
        headers = {"x-user-id": f"literal-{number}", "x-canary-test": "true"}
        assert await client.version(headers, "/literal/x") == STABLE


@pytest.mark.parametrize("service", ["bad", "nowhere"])
async def test_a_config_that_kong_cannot_judge_serves_stable_and_says_which_field(
    client: Client, stack: Stack, service: str
) -> None:
    for _ in range(20):
        assert await client.version(path=f"/{service}/x") == STABLE
    wanted = {"bad": "whitelisted_ips", "nowhere": "upstream_host_header"}[service]
    lines = [line for line in stack.plugin.output().splitlines() if "refused" in line]
    assert any(wanted in line for line in lines)
