"""Releases, guards and halts on the command line: what is said, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from canaryctl.app import cli
from click.testing import CliRunner, Result
from decision_svc.app import Running
from support.canaryctl import silent_service
from support.redis_server import running_redis

NUMBERS = count(1)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with silent_service() as running:
        yield running


class Shop:
    """canaryctl as ``kim``, about one service key with a release at 5 %."""

    def __init__(self, address: str, key: str) -> None:
        self.address, self.key = address, key
        self.ok("version register SHOP v1 --status stable --reason x")
        self.ok("version register SHOP v2 --reason x")
        self.ok("release start SHOP v2 --percentage 5 --reason x")

    def __call__(self, line: str) -> Result:
        words = [self.key if word == "SHOP" else word for word in line.split()]
        start = ["--address", self.address, "--actor", "kim"]
        return CliRunner().invoke(cli, [*start, *words])

    def ok(self, line: str) -> str:
        result = self(line)
        assert (result.exit_code, result.stderr) == (0, ""), line
        return result.stdout

    def read(self, line: str) -> Any:
        return json.loads(self.ok(f"{line} --output json"))

    def refused(self, line: str, exit_code: int = 1) -> str:
        result = self(line)
        assert result.exit_code == exit_code, result.output
        return result.stderr

    @property
    def release(self) -> dict[str, Any]:
        return dict(self.read("release show SHOP")["release"])


@pytest.fixture
def shop(service: Running) -> Shop:
    return Shop(service.admin_address, f"life-{next(NUMBERS)}")


@pytest.mark.parametrize(
    ("verb", "said", "status"),
    [
        ("pause", "paused the release", "paused"),
        ("halt", "halted the release", "in-progress"),
        ("promote", "promoted the release", "completed"),
        ("rollback", "rolled the release back", "rolled-back"),
        ("abandon", "abandoned the release", "abandoned"),
    ],
)
def test_each_move_says_what_it_did(shop: Shop, verb: str, said: str, status: str) -> None:
    told = shop.ok(f"release {verb} SHOP --reason x")
    assert told.startswith(f"{said} ({shop.key}, revision 4)\n")
    assert shop.release["status"] == status
    assert shop.release.get("halted", False) == (verb == "halt")


def test_a_refused_move_says_what_is_allowed(shop: Shop) -> None:
    shop.ok("release pause SHOP --reason x")
    assert "is paused; allowed are: lower, resume, halt" in shop.refused(
        "release promote SHOP --reason x"
    )
    shop.ok("release resume SHOP --reason x")
    shop.ok("release rollback SHOP --reason x")
    again = "release start SHOP v2 --percentage 1 --reason x"
    assert "(--despite-rollback)" in shop.refused(again)
    shop.ok(f"{again} --despite-rollback the-test-was-wrong")


def test_a_lost_race_says_who_won_it(shop: Shop) -> None:
    shop.ok("percentage SHOP 10 --reason x")
    error = shop.refused("release promote SHOP --reason x --expected-revision 3", 3)
    assert "revision 4 by kim: set percentage to 10 %" in error


def test_one_release_is_halted_or_all_are(service: Running, shop: Shop) -> None:
    assert shop.ok("halt SHOP --reason x").startswith("halted the release")
    assert shop.release["halted"] is True
    other = Shop(service.admin_address, f"life-{next(NUMBERS)}")
    found = {h["service_key"]: h for h in shop.read("halt --all --reason x")["services"]}
    assert found[other.key] == {"service_key": other.key, "revision": 4}
    assert other.release["halted"] is True
    assert "halted" in shop.ok("halt --all --reason x")
    for wrong in ("halt", "halt SHOP --all", "halt --all --expected-revision 3"):
        shop.refused(f"{wrong} --reason x", 2)
    shop.refused("halt --all", 2)


def test_what_could_not_be_halted_is_told_and_the_exit_code_is_1() -> None:
    with (
        running_redis() as redis,
        silent_service(redis_url=redis.url, store_deadline_ms=10_000) as running,
    ):
        shop = Shop(running.admin_address, "fine")
        Shop(running.admin_address, "spoiled")
        _spoil(redis.url, "canary:{spoiled}:policy")
        result = shop("halt --all --reason x --output json")
        assert result.exit_code == 1
        services = {h["service_key"]: h for h in json.loads(result.stdout)["services"]}
        assert services["fine"]["revision"] == 4
        assert services["spoiled"]["trouble"]
        assert (
            "1 of 2 could not be halted: spoiled" in json.loads(result.stderr)["error"]["message"]
        )


def _spoil(url: str, key: str) -> None:
    from redis import Redis

    with Redis.from_url(url) as client:
        client.hset(key, "document", "{}")


def test_guards_are_set_by_options_which_leave_the_freezes_alone(shop: Shop) -> None:
    freeze = "freeze add SHOP winter --start 2999-01-01T00:00 --end 2999-02-01T00:00"
    shop.ok(f"{freeze} --time-zone Europe/Berlin --reason holidays")
    shop.ok("guards set SHOP --approve promote --above 25 --reason x")
    assert shop.read("guards show SHOP")["guards"] == {
        "approvals": {"promote": True, "above": 25},
        "freezes": [
            {
                "name": "winter",
                "start": "2999-01-01T00:00:00",
                "end": "2999-02-01T00:00:00",
                "time_zone": "Europe/Berlin",
                "reason": "holidays",
            }
        ],
    }
    assert "a second person is needed for: promote, raise above 25 %" in shop.ok("guards show SHOP")
    assert "there is a freeze 'winter'" in shop.refused(f"{freeze} --time-zone UTC --reason x")
    assert "there is: winter" in shop.refused("freeze remove SHOP summer --reason x")
    shop.ok("guards set SHOP --approve none --reason x")
    shop.ok("freeze remove SHOP winter --reason x")
    assert shop.ok("freeze list SHOP") == "freezes: none\n"
    assert shop.read("guards show SHOP")["guards"] == {}
    wrong = freeze.replace("winter", "odd")
    assert "time_zone" in shop.refused(f"{wrong} --time-zone Mars/Base --reason x", 2)
    for misuse in ("", "--approve none --above 5", "--approve start -f x.yaml"):
        shop.refused(f"guards set SHOP {misuse} --reason x", 2)


def test_the_refusal_names_the_command_that_gives_the_consent(shop: Shop) -> None:
    shop.ok("guards set SHOP --above 25 --approve promote --reason x")
    error = shop.refused("percentage SHOP 50 --reason x")
    command = f"canaryctl approve {shop.key} raise v2 --percentage 50"
    assert command in error
    line = command.removeprefix("canaryctl ")
    shop.ok(f"{line} --reason x")
    shop.refused("percentage SHOP 50 --reason x")
    approved = shop.read(f"{line} --valid 90m --actor ada --reason x")
    ids = [a["id"] for a in shop.read("approvals list SHOP")["approvals"]]
    assert ids[1] == approved["id"]
    shop.ok("percentage SHOP 50 --reason x")
    assert [a["id"] for a in shop.read("approvals list SHOP")["approvals"]] == ids[:1]
    shop.ok(f"approvals withdraw SHOP {ids[0]} --reason x")
    assert shop.ok("approvals list SHOP") == "approvals: none\n"
    assert "has no approvals" in shop.refused("approvals withdraw SHOP --all --reason x")
    for misuse in (
        "approve SHOP raise v2",
        "approve SHOP promote v2 --percentage 5",
        "approve SHOP start v2 --percentage 5 --valid soon",
        "approvals withdraw SHOP",
    ):
        shop.refused(f"{misuse} --reason x", 2)


def test_a_policy_goes_back_to_an_earlier_revision(shop: Shop) -> None:
    shop.ok("percentage SHOP 4 --reason x")
    told = shop.ok("policy revert SHOP 2 --reason x")
    assert told.startswith(f"went back to revision 2 ({shop.key}, revision 5)\n")
    assert shop.read("release show SHOP")["release"] is None
    assert "no revision 77" in shop.refused("policy revert SHOP 77 --reason x")
    shop.refused("policy revert SHOP 0 --reason x", 2)
