"""What people see of the controller's work on the command line, and how they answer it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from canaryctl.app import cli
from click.testing import CliRunner, Result
from decision_svc.app import Running
from support.admin import admin_of
from support.canaryctl import silent_service

NUMBERS = count(1)
PLAN = """
plan:
  steps: [{weight: 5}, {weight: 25}, {weight: 50}]
  checklist: [{name: backup, group: data}, {name: docs}]
"""


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with silent_service() as running:
        yield running


class Shop:
    """canaryctl as ``kim``, about a release at 5 % with a plan."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.key = address, f"shop-{next(NUMBERS)}"
        plan = folder / "plan.yaml"
        plan.write_text(f"service_key: {self.key}\n{PLAN}")
        self.ok("version register SHOP v1 --status stable --reason x")
        self.ok("version register SHOP v2 --reason x")
        self.ok(f"apply -f {plan} --reason x")
        self.ok("release start SHOP v2 --percentage 5 --reason x")

    def __call__(self, line: str) -> Result:
        words = [self.key if word == "SHOP" else word for word in line.split()]
        return CliRunner().invoke(cli, ["--address", self.address, "--actor", "kim", *words])

    def ok(self, line: str) -> str:
        result = self(line)
        assert (result.exit_code, result.stderr) == (0, ""), line
        return result.stdout

    def read(self, line: str) -> Any:
        return json.loads(self.ok(f"{line} --output json"))

    @property
    def release(self) -> dict[str, Any]:
        return dict(self.read("release show SHOP")["release"])

    def note(self, **fields: Any) -> None:
        """Note something of the release, as a controller does."""
        record = {"service_key": self.key, "release_id": self.release["id"], "fence": 1} | fields
        record.setdefault("written_at", datetime.now(UTC).isoformat())
        with admin_of(self.address, self.key) as admin:
            admin("PutRecord", record=record)


@pytest.fixture
def shop(service: Running, tmp_path: Path) -> Shop:
    return Shop(service.admin_address, tmp_path)


def test_status_says_of_a_planned_release_that_no_controller_has_looked_at_it(shop: Shop) -> None:
    said = shop.ok("status SHOP")
    assert "1 of 3 (5 %)" in said
    assert "no controller has looked at it yet: is canary-controller running?" in said
    assert shop.read("status SHOP")["services"][0]["progress"]["step"] == 1


def test_status_shows_step_verdict_and_what_is_waited_for_and_for_whom(shop: Shop) -> None:
    waits_for = "approval of the raise to 25 % by somebody"
    shop.note(
        verdict="pass",
        waits_for=waits_for,
        gates=[{"weight": 25, "kind": "approval", "waits_for": waits_for}],
        findings=[{"metric": "errors", "test": "sequential", "verdict": "pass", "e_value": 1.25}],
        alerts=[{"key": "gate", "severity": "info", "title": "it waits"}],
    )
    lines = shop.ok("status SHOP").splitlines()
    row = next(line for line in lines if line.startswith(shop.key) and "1 of 3" in line)
    assert "pass" in row
    assert row.endswith(waits_for)
    said = "\n".join(lines)
    assert "gates before the next step" in said
    assert "sequential" in said
    assert "1.25" in said
    assert "it waits" in said
    progress = shop.read("status SHOP")["services"][0]["progress"]
    assert (progress["steps"], progress["verdict"]) == (3, "pass")
    assert progress["weight_since"][:19] == shop.release["weight_since"][:19]
    assert progress["gates"][0]["kind"] == "approval"


def test_status_says_since_when_no_controller_has_looked(shop: Shop) -> None:
    long_ago = datetime.now(UTC) - timedelta(minutes=10)
    shop.note(verdict="pass", waits_for="something", written_at=long_ago.isoformat())
    said = shop.ok("status SHOP")
    assert f"a controller: none has looked since {long_ago:%Y-%m-%dT%H:%M:%S}" in said


def test_a_release_that_has_ended_is_on_no_plan_any_more(shop: Shop) -> None:
    shop.ok("release rollback SHOP --reason x")
    assert "progress" not in shop.read("status SHOP")["services"][0]


def test_a_rollback_that_is_due_is_called_off_by_whoever_keeps_the_release(shop: Shop) -> None:
    assert "in 600 s, unless it is kept" in shop.ok("release rollback SHOP --delay 10m --reason x")
    assert shop.release["due_rollback"]["why"] == "x"
    assert shop.release["status"] == "in-progress"
    shop.ok("release keep SHOP --reason y")
    assert "due_rollback" not in shop.release
    again = shop("release keep SHOP --reason y")
    assert again.exit_code == 1
    assert "no rollback" in again.stderr


def test_items_of_the_checklist_are_ticked_by_people_with_their_name(shop: Shop) -> None:
    assert "ticked 'backup' off" in shop.ok("checklist tick SHOP backup --reason restored")
    items = shop.read("checklist show SHOP")["items"]
    assert [item.get("by") for item in items] == ["kim", None]
    assert "kim" in shop.ok("checklist show SHOP")
    shop.ok("checklist untick SHOP backup --reason no")
    assert all("by" not in item for item in shop.read("checklist show SHOP")["items"])


def test_an_item_that_the_plan_does_not_have_is_refused_by_name(shop: Shop) -> None:
    result = shop("checklist tick SHOP nothing --reason x")
    assert result.exit_code == 1
    assert "there is: backup, docs" in result.stderr


def test_metrics_that_only_prometheus_has_are_compared_as_the_controller_noted_them(
    shop: Shop,
) -> None:
    at = "2026-03-01T12:00:00Z"
    point = {
        "at": at,
        "weight": 5,
        "canary": {"performance": {"cpu": 66, "requests": 9, "p95_ms": 7}, "custom": {"carts": 3}},
        "control": {"performance": {"cpu": 60, "requests": 36}},
    }
    shop.note(points=[point])
    shop.ok("metrics report SHOP --version v2 --metric custom --name carts --value 4")
    found = {line["metric"]: line for line in shop.read("metrics compare SHOP")["metrics"]}
    assert found == {
        "custom carts": {"metric": "custom carts", "canary": 4},
        "cpu": {
            **{"metric": "cpu", "unit": "%", "canary": 66, "control": 60, "at": at},
            **{"difference": 6, "difference_percent": 10},
        },
    }
    shown = shop.ok("metrics compare SHOP")
    assert f"noted by the controller, {at}" in shown
    assert "+6 % (+10.0 %)" in shown
