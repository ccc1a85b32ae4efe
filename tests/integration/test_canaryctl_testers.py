"""``override``, ``api-version`` and ``compatibility`` on the command line."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from canaryctl.signing_key import write_key
from decision_svc.app import Running
from decision_svc.overrides import read_key
from support.canaryctl import Canaryctl, silent_service
from support.overrides import PUBLIC_KEY, key_file

NUMBERS = count(1)
EXPLAIN = "explain SHOP --header x-canary-override:"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with silent_service(override_key=key_file(tmp_path_factory.mktemp("key"))) as running:
        yield running


@pytest.fixture
def ctl(service: Running) -> Canaryctl:
    return Canaryctl(service.admin_address, f"shop-{next(NUMBERS)}")


def test_an_override_is_created_used_revoked_and_listed(ctl: Canaryctl) -> None:
    ctl.with_release()
    created = ctl.read("override create SHOP --user ann --reason x")
    assert set(created) == {"service_key", "revision", "id", "token", "expires_at"}
    asked = f"{EXPLAIN}{created['token']} --header x-user-id:ann"
    line = ctl.ok(asked).splitlines()[0]
    told = f"override {created['id']} in header x-canary-override says canary"
    assert line.startswith(f"canary (v2) because override: {told}, release")
    ctl.ok(f"override revoke SHOP {created['id']} --reason x")
    assert f"override {created['id']} was revoked" in ctl.ok(asked)
    shown = ctl.read("override list SHOP")["overrides"]
    assert shown["public_key"] == PUBLIC_KEY
    assert [revoked["id"] for revoked in shown["revoked"]] == [created["id"]]
    assert created["id"] in ctl.ok("override list SHOP")


def test_people_are_told_where_the_token_goes(ctl: Canaryctl) -> None:
    ctl.with_release()
    said = ctl.ok("override create SHOP --variant stable --valid 30m --reason x")
    rows = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert "x-canary-override" in said
    assert "canary_override" in said
    token = rows["token"]
    assert ctl.read(EXPLAIN + token)["decision"]["reason"] == "override"
    # Whoever revokes by the token does not see it again, in a log or on a screen.
    assert token not in ctl.ok(f"override revoke SHOP {token} --reason x")
    assert ctl.ok("override revoke SHOP --all --reason x").startswith("revoked all overrides")
    assert "none: no token counts" in ctl.ok("override list SHOP")


def test_the_header_and_the_cookie_are_named(ctl: Canaryctl) -> None:
    ctl.with_release()
    token = ctl.read("override create SHOP --reason x")["token"]
    ctl.ok("override set SHOP --header x-tester --cookie tester --reason x")
    shown = ctl.read("override list SHOP")["overrides"]
    assert (shown["header"], shown["cookie"]) == ("x-tester", "tester")
    assert shown["public_key"] == PUBLIC_KEY
    said = ctl.ok("override create SHOP --reason x")
    assert "x-tester" in said
    asked = f"explain SHOP --cookie tester={token}"
    assert "in cookie tester says canary" in ctl.ok(asked)
    ctl.ok("override set SHOP --reason x")
    assert "x-canary-override (default)" in ctl.ok("override list SHOP")


@pytest.mark.parametrize(
    ("line", "exit_code", "word"),
    [
        ("override create SHOP --valid 31d --reason x", 2, "--valid: give"),
        ("override create SHOP --valid long --reason x", 2, "length of time"),
        ("override create SHOP --cidr 10.0.0.1/8 --reason x", 2, "host bits"),
        ("override create nobody --reason x", 1, "there is no policy"),
        ("override revoke SHOP --reason x", 2, "name an override"),
        ("override revoke SHOP o-1 --all --reason x", 2, "name an override"),
        ("override revoke SHOP o-1 --reason x", 2, "o-0123456789abcdef"),
        ("override set SHOP --header cookie --reason x", 2, "overrides.header"),
        ("api-version remove SHOP v9 --reason x", 1, "known are: none"),
        ("api-version put SHOP v9 --guide a<b --deprecated --reason x", 2, "migration_guide"),
    ],
)
def test_what_makes_no_sense_is_refused(
    ctl: Canaryctl, line: str, exit_code: int, word: str
) -> None:
    assert word in ctl.with_release().refused(line, exit_code)["message"]


def test_a_key_is_readable_by_its_owner_and_overwrites_nothing(
    ctl: Canaryctl, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    made = ctl.read(f"override keygen {path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made["file"] == str(path)
    before = path.read_bytes()
    assert b"PRIVATE" in before
    assert "there is such a file" in ctl.refused(f"override keygen {path}", 2)["message"]
    assert path.read_bytes() == before
    nowhere = tmp_path / "nowhere" / "key.pem"
    assert "No such file" in ctl.refused(f"override keygen {nowhere}", 2)["message"]


def test_the_service_reads_the_key_that_was_made(tmp_path: Path) -> None:
    path = str(tmp_path / "key.pem")
    write_key(path)
    assert read_key(path).public_key()


def test_api_versions_are_put_one_by_one_and_explained(ctl: Canaryctl) -> None:
    ctl.with_release()
    places = {"path_prefix": "/api/", "media_type": "application/vnd.shop"}
    ctl.ok("compatibility set SHOP -f - --reason x", json.dumps(places))
    ctl.ok("api-version put SHOP v2 --reason x")
    ctl.ok("api-version put SHOP v1 --reason x")
    ctl.ok(
        "api-version put SHOP v1 --since 2026-01-01T00:00:00Z --sunset 2026-12-31T23:59:59Z "
        "--guide https://shop.example/migrate --breaking-change prices --reason x"
    )
    assert ctl.read("api-version list SHOP")["api_versions"] == [
        {"version": "v2"},
        {
            "version": "v1",
            "deprecated": True,
            "deprecated_at": "2026-01-01T00:00:00Z",
            "sunset_date": "2026-12-31T23:59:59Z",
            "breaking_changes": ["prices"],
            "migration_guide": "https://shop.example/migrate",
        },
    ]
    said = ctl.ok("explain SHOP --path /api/v1/x")
    assert (
        "the client's API version is deprecated since 2026-01-01T00:00:00Z, stops working "
        "2026-12-31T23:59:59Z, see https://shop.example/migrate"
    ) in said
    assert "deprecated" not in ctl.ok("explain SHOP --path /api/v2/x")
    shown = ctl.ok("compatibility show SHOP")
    assert "compatibility by path /api/, media type application/vnd.shop: none" in shown
    assert "2026-12-31T23:59:59Z" in shown
    ctl.ok("api-version remove SHOP v1 --reason x")
    assert ctl.read("api-version list SHOP")["api_versions"] == [{"version": "v2"}]
