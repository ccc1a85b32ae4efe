"""The schemas that editors read are what the protos say, and accept what the product accepts."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from canaryctl.app import cli
from canaryctl.files import parsed_all, read_policies
from click.testing import CliRunner
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs" / "schema"
OTHERS = {"kustomization.yaml"}
"""Examples of somebody else's formats."""
EXAMPLES = sorted(p for p in (ROOT / "examples").glob("*.yaml") if p.name not in OTHERS)
GOLDEN = sorted((ROOT / "tests" / "data" / "golden").glob("*.json"))


@cache
def validator(name: str) -> Draft7Validator:
    schema = json.loads((SCHEMAS / name).read_text())
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def problems(schema: Draft7Validator, document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in schema.iter_errors(document)]


def test_the_schemas_are_current(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "protos" / "json_schema.py"))["main"](tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in SCHEMAS.iterdir()}
    assert made == kept, "run make stubs"


@pytest.mark.parametrize("kind", ["policy", "plan"])
def test_whoever_has_only_the_package_gets_the_published_schema(kind: str) -> None:
    shown = CliRunner().invoke(cli, ["schema", kind])
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout == (SCHEMAS / f"canary-{kind}.schema.json").read_text()
    assert json.loads(shown.stdout)["$id"] == f"urn:canary-release:schema:{kind}"
    assert CliRunner().invoke(cli, ["schema", "moon"]).exit_code == 2


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_fits_the_schema_that_it_names(path: Path) -> None:
    first, *_ = path.read_text().splitlines()
    named = Path(first.partition("$schema=")[2])
    assert (path.parent / named).resolve().parent == SCHEMAS
    schema = validator(named.name)
    for document in parsed_all(path.read_text(), str(path)):
        assert problems(schema, document) == []


def golden_policies() -> Iterator[Any]:
    for path in GOLDEN:
        for name, policy in json.loads(path.read_text()).get("policies", {}).items():
            yield pytest.param(policy, id=f"{path.stem}-{name}")


@pytest.mark.parametrize("policy", list(golden_policies()))
def test_every_golden_policy_fits_the_schema(policy: dict[str, Any]) -> None:
    assert problems(validator("canary-policy.schema.json"), policy) == []


@pytest.mark.parametrize(
    "document",
    [
        {"service_key": "shop", "rule": []},
        {"service_key": "shop", "release": {"version": "v", "percentage": 101}},
        {"service_key": "shop", "rules": [{"name": "r", "source": "moon", "variant": "canary"}]},
        {"service_key": "shop", "versions": [{"build_number": "1"}]},
        {"rules": []},
    ],
)
def test_what_the_product_refuses_the_schema_refuses(document: dict[str, Any]) -> None:
    assert problems(validator("canary-policy.schema.json"), document)


def test_text_that_yaml_takes_for_something_else_fits() -> None:
    rule = {"name": 1, "source": "header", "key": "x", "exact": True, "variant": "canary"}
    document = {"service_key": "shop", "rules": [rule]}
    assert problems(validator("canary-policy.schema.json"), document) == []


def test_the_words_of_the_protos_are_in_the_schema() -> None:
    schema = json.loads((SCHEMAS / "canary-policy.schema.json").read_text())
    rule = schema["definitions"]["Rule"]
    assert rule["description"].startswith("Sends matching requests to a variant.")
    assert rule["properties"]["source"]["enum"] == ["header", "cookie", "ip", "path", "consumer"]


def test_the_policies_among_the_examples_are_read() -> None:
    policies = [path for path in EXAMPLES if "service_key:" in path.read_text()]
    assert read_policies(map(str, policies))
