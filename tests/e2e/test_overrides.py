"""Testers with a signed token, as they and everybody else see it at the gateway."""

from __future__ import annotations

import asyncio
from typing import Any

from dev_stack.stack import CANARY, SERVICE_KEY, STABLE, Stack
from support.admin import Admin
from support.stack import PATIENCE_S, Client

HEADER, COOKIE = "x-canary-override", "canary_override"
ANN = {"x-user-id": "ann"}


async def becomes(client: Client, headers: dict[str, str], version: str) -> None:
    """Wait until a request gets ``version``."""
    async with asyncio.timeout(PATIENCE_S):
        while await client.version(headers) != version:
            pass


def created(admin: Admin, **fields: Any) -> Any:
    return admin("CreateOverride", **{"variant": "canary", "valid_s": 3_600, **fields})


def forged(token: str) -> str:
    """The token with another signature; the last bits of one are mostly zero, so not those."""
    at = len(token) - 40
    return token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]


async def test_a_tester_gets_the_canary_until_the_token_is_revoked(
    client: Client, admin: Admin, stack: Stack
) -> None:
    admin.release(0)
    override = created(admin)
    tester = {**ANN, HEADER: override.token}
    await becomes(client, tester, CANARY)
    assert await client.version(ANN) == STABLE
    assert await client.version({**ANN, "cookie": f"a=b; {COOKIE}={override.token}"}) == CANARY
    assert await client.version({**ANN, HEADER: forged(override.token)}) == STABLE
    admin("RevokeOverride", id=override.id)
    await becomes(client, tester, STABLE)
    said = [stack.decision.output(), stack.plugin.output(), stack.gateway.log()]
    assert not [text for text in said if override.token in text]


async def test_a_token_forces_stable_too_and_the_upstream_never_sees_it(
    client: Client, admin: Admin
) -> None:
    admin.release(100)
    token = created(admin, variant="stable").token
    # Under the baseline she would get stable without a token.
    await becomes(client, ANN, CANARY)
    assert await client.version({**ANN, HEADER: token}) == STABLE
    for headers in ({**ANN, HEADER: token}, {**ANN, HEADER: "nonsense"}):
        _, body, _ = await client.get(headers=headers)
        assert HEADER not in body["headers"]


async def test_the_upstream_gets_the_other_cookies_and_no_token(
    client: Client, admin: Admin
) -> None:
    admin.release(0)
    admin("SetOverrides", header="x-tester", cookie="tester")
    for variant, version in (("canary", CANARY), ("stable", STABLE)):
        token = created(admin, variant=variant).token
        headers = {**ANN, "cookie": f'a="1 2"; tester={token};b==2'}
        await becomes(client, headers, version)
        _, body, _ = await client.get(headers=headers)
        assert body["headers"]["cookie"] == 'a="1 2";b==2'
        _, body, _ = await client.get(headers={**ANN, "cookie": f"tester={token}"})
        assert "cookie" not in body["headers"]
    admin("SetOverrides")


async def test_another_users_token_is_ignored(client: Client, admin: Admin) -> None:
    admin.release(0)
    token = created(admin, user="ann").token
    await becomes(client, {**ANN, HEADER: token}, CANARY)
    assert await client.version({"x-user-id": "bob", HEADER: token}) == STABLE
    assert await client.version({HEADER: token}) == STABLE


async def test_a_token_of_a_network_counts_there_only(client: Client, admin: Admin) -> None:
    admin.release(0)
    here, elsewhere = (created(admin, cidr=cidr).token for cidr in ("127.0.0.0/8", "192.0.2.0/24"))
    await becomes(client, {**ANN, HEADER: here}, CANARY)
    assert await client.version({**ANN, HEADER: elsewhere}) == STABLE


async def test_a_token_for_another_service_is_ignored(
    client: Client, admin: Admin, orders: Admin
) -> None:
    admin.release(0)
    orders.release(0)
    ours, theirs = created(admin).token, created(orders).token
    await becomes(client, {**ANN, HEADER: ours}, CANARY)
    assert await client.version({**ANN, HEADER: theirs}) == STABLE


async def test_a_token_gives_no_canary_where_there_is_none(client: Client, admin: Admin) -> None:
    admin.release(100)
    tester = {**ANN, HEADER: created(admin).token}
    await becomes(client, tester, CANARY)
    admin("MoveRelease", move="halt")
    await becomes(client, tester, STABLE)
    request = {"service_key": SERVICE_KEY, "headers": tester}
    explained = admin("Explain", request=request)
    found = {stage.reason: stage.finding for stage in explained.stages if stage.decided}
    assert list(found.values()) == [f"release {explained.decision.release_id} is halted"]
