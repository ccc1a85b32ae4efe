"""``canaryctl report`` and ``checklist template`` against a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary.record.v1 import record_pb2
from canary_documents import to_message
from canary_engine.plan_reading import plan
from canary_engine.record import ReleaseRecord
from canary_engine.record_reading import document
from canaryctl.app import cli
from click.testing import CliRunner, Result
from decision_svc.app import Running
from support.canaryctl import silent_service
from support.stories import rolled_back

NUMBERS = count(1)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with silent_service() as running:
        yield running


class Shop:
    """canaryctl as ``kim``, about a service key of its own with a release at 5 %."""

    def __init__(self, address: str) -> None:
        self.address, self.key = address, f"shop-{next(NUMBERS)}"
        self.ok("version register SHOP v1 --status stable --reason x")
        self.start("v2")

    def __call__(self, line: str) -> Result:
        words = [self.key if word == "SHOP" else word for word in line.split()]
        return CliRunner().invoke(cli, ["--address", self.address, "--actor", "kim", *words])

    def ok(self, line: str) -> str:
        result = self(line)
        assert (result.exit_code, result.stderr) == (0, ""), line
        return result.stdout

    def start(self, version: str) -> None:
        self.ok(f"version register SHOP {version} --reason x")
        self.ok(f"release start SHOP {version} --percentage 5 --reason weekly-release")

    @property
    def release_id(self) -> str:
        return str(json.loads(self.ok("release show SHOP --output json"))["release"]["id"])

    def note(self, **fields: Any) -> ReleaseRecord:
        """A record of the release, as a controller leaves it."""
        usual = {"service_key": self.key, "release_id": self.release_id, "fence": 1, "events": ()}
        record = replace(rolled_back().record, **{**usual, **fields})
        message = to_message(document(record), record_pb2.ReleaseRecord)
        with grpc.insecure_channel(self.address) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            stub.PutRecord(admin_pb2.PutRecordRequest(record=message), timeout=30)
        return record


@pytest.fixture
def shop(service: Running) -> Shop:
    return Shop(service.admin_address)


def test_a_report_tells_what_was_noted_and_what_was_done(shop: Shop) -> None:
    shop.note()
    shop.ok("release rollback SHOP --reason too-many-errors")
    told = shop.ok("report SHOP")
    assert told.startswith(f"# {shop.key} v2: rolled back\n")
    assert "The canary's error rate is 2.31 %, control's 0.52 %" in told
    assert "kim | start release of v2" in told
    assert "weekly-release" in told
    assert "too-many-errors" in told
    assert "| errors | sequential | fail | 2.31 % | 0.52 % |" in told


def test_a_page_is_written_by_the_name_of_its_file(shop: Shop, tmp_path: Path) -> None:
    shop.note()
    page, text = tmp_path / "report.html", tmp_path / "report.txt"
    assert shop.ok(f"report SHOP -o {page}") == f"wrote the report to {page}\n"
    assert page.read_text("utf-8").count('<svg class="chart"') == 4
    shop.ok(f"report SHOP -o {text}")
    assert text.read_text("utf-8").startswith(f"# {shop.key} v2: in progress")
    shop.ok(f"report SHOP -o {text} --format html")
    assert text.read_text("utf-8").startswith("<!doctype html>")


def test_scripts_get_one_document(shop: Shop, tmp_path: Path) -> None:
    shop.note()
    told = json.loads(shop.ok("report SHOP --format html --output json"))
    assert (told["service_key"], told["release_id"]) == (shop.key, shop.release_id)
    assert (told["format"], told["report"][:15]) == ("html", "<!doctype html>")
    path = tmp_path / "r.md"
    assert json.loads(shop.ok(f"report SHOP -o {path} --output json"))["file"] == str(path)


def test_without_a_record_there_are_the_changes(shop: Shop) -> None:
    told = shop.ok("report SHOP")
    assert told.startswith(f"# {shop.key} v2: in progress\n")
    assert "No measurements were noted" in told
    assert "kim | start release of v2" in told


def test_an_earlier_release_is_told_as_it_was_when_it_ended(shop: Shop) -> None:
    first = shop.release_id
    shop.ok("release rollback SHOP --reason bad")
    revision = json.loads(shop.ok("release show SHOP --output json"))["revision"]
    shop.note(events=(replace(rolled_back().record.events[1], revision=revision),))
    shop.start("v3")
    told = shop.ok(f"report SHOP --release {first}")
    assert told.startswith(f"# {shop.key} v2: rolled back\n")
    assert "v3" not in told
    assert shop.ok("report SHOP").startswith(f"# {shop.key} v3: in progress\n")


def test_what_is_not_there_is_refused_with_a_next_step(shop: Shop, tmp_path: Path) -> None:
    unknown = shop("report SHOP --release r-none")
    assert unknown.exit_code == 1
    assert "nothing is noted of release 'r-none'" in unknown.stderr
    assert shop("report nowhere").exit_code == 1
    bad = shop(f"report SHOP -o {tmp_path}/no/folder.md")
    assert (bad.exit_code, "No such file" in bad.stderr) == (2, True)


def test_a_service_without_a_release_has_no_report(service: Running) -> None:
    shop = Shop(service.admin_address)
    shop.key = f"{shop.key}-empty"
    shop.ok("version register SHOP v1 --status stable --reason x")
    refused = shop("report SHOP")
    assert (refused.exit_code, "has no release" in refused.stderr) == (1, True)


def test_the_checklist_fits_into_a_plan() -> None:
    told = CliRunner().invoke(cli, ["checklist", "template"]).stdout
    found = plan({"steps": [{"weight": 5}], **yaml.safe_load(told)}).checklist
    groups = {item.group for item in found}
    assert groups == {"code", "function", "watching", "rollback", "people", "documents"}
    assert len(found) == 30
    as_json = CliRunner().invoke(cli, ["checklist", "template", "--output", "json"]).stdout
    assert json.loads(as_json) == yaml.safe_load(told)
