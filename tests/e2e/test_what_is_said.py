"""What upstream and client are told, what clients cannot say, and who gets a cookie."""

from __future__ import annotations

import io
import re

import pytest
from dev_stack.stack import CANARY, STABLE
from support.admin import Admin
from support.stack import Client, until_release_rules

TOLD = ("x-canary-variant", "x-canary-version", "x-canary-release")
TESTER = {"x-canary-test": "true"}
LIES = dict.fromkeys(TOLD, "forged")


async def test_the_canary_is_told_variant_version_and_release(client: Client) -> None:
    _, body, headers = await client.get(headers={"x-canary-test": "true", **LIES})
    assert {name: body["headers"].get(name) for name in TOLD} == {
        "x-canary-variant": "canary",
        "x-canary-version": "canary",
        "x-canary-release": "baseline",
    }
    assert not [name for name in headers if name.lower().startswith("x-canary")]


async def test_what_a_client_says_in_our_headers_never_reaches_stable(
    client: Client, admin: Admin
) -> None:
    admin.release(0)
    await until_release_rules(client)
    _, body, _ = await client.get(headers={**LIES, "x-user-id": "liar"})
    assert body["version"] == STABLE
    assert not [name for name in TOLD if name in body["headers"]]


async def test_a_flood_of_headers_does_not_smuggle_ours_through(client: Client) -> None:
    flood = {f"x-filler-{number}": "1" for number in range(110)}
    status, body, _ = await client.get(headers={**flood, **LIES, "x-user-id": "flooder-1"})
    assert status == 200
    assert "forged" not in [body["headers"].get(name) for name in TOLD]


async def test_clients_and_stable_are_told_where_the_config_says_so(client: Client) -> None:
    seen = set()
    for number in range(40):
        status, body, headers = await client.get("/labelled/x", {"x-user-id": f"labelled-{number}"})
        assert status == 200
        variant = headers["x-canary-variant"]
        assert body["headers"]["x-canary-variant"] == variant
        assert (variant == "canary") == (body["version"] == CANARY)
        seen.add(variant)
    assert seen == {"canary", "stable"}


async def test_a_client_without_a_key_gets_a_cookie_once_and_keeps_its_variant(
    client: Client, admin: Admin
) -> None:
    admin.release(50)
    await until_release_rules(client)
    seen = set()
    for _ in range(30):
        _, body, headers = await client.get()
        issued = headers.get("set-cookie", "")
        found = re.match(r"canary_id=([0-9a-f]{32}); Path=/; Max-Age=\d+; HttpOnly", issued)
        assert found, issued
        cookie = {"cookie": f"canary_id={found[1]}"}
        _, again, headers = await client.get(headers=cookie)
        assert again["version"] == body["version"]
        assert "set-cookie" not in headers
        seen.add(body["version"])
    assert seen == {STABLE, CANARY}


async def test_a_client_with_a_user_id_gets_no_cookie(client: Client, admin: Admin) -> None:
    admin.release(50)
    await until_release_rules(client)
    _, _, headers = await client.get(headers={"x-user-id": "ann"})
    assert "set-cookie" not in headers


@pytest.mark.parametrize("size", [0, 1, 30_000])
async def test_bodies_come_back_as_they_were_sent(client: Client, size: int) -> None:
    sent = bytes(n % 251 for n in range(size))
    status, body, _ = await client.ask("POST", "/api/v1/echo", TESTER, data=io.BytesIO(sent))
    assert (status, body) == (200, sent)


async def test_a_large_body_arrives_whole(client: Client) -> None:
    # Not echoed: nginx stops sending a body once the answer has begun.
    sent = io.BytesIO(b"x" * 5_000_000)
    status, body, _ = await client.ask("POST", "/api/v1/upload", TESTER, data=sent)
    assert (status, body["version"], body["body_bytes"]) == (200, CANARY, 5_000_000)
