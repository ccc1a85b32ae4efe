"""Grafana's files are whole: what provisions finds what it names, and dashboards can be read."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support import dashboards

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "grafana"
COLUMNS = 24
MOST_PANELS = 16
OURS = re.compile(r"\b(?:\w+:)?canary_\w+(?::\w+)?")

DATASOURCE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["type", "uid"],
    "properties": {"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}},
}
TARGET = {
    "type": "object",
    "additionalProperties": False,
    "required": ["refId", "datasource", "expr", "legendFormat", "instant", "range"],
    "properties": {
        "refId": {"type": "string", "minLength": 1},
        "datasource": DATASOURCE,
        "expr": {"type": "string", "minLength": 1},
        "legendFormat": {"type": "string", "minLength": 1},
        "instant": {"type": "boolean"},
        "range": {"type": "boolean"},
        "format": {"enum": ["table"]},
    },
}
STEP = {
    "type": "object",
    "additionalProperties": False,
    "required": ["color", "value"],
    "properties": {"color": {"type": "string"}, "value": {"type": ["number", "null"]}},
}
DEFAULTS = {
    "type": "object",
    "properties": {
        "unit": {"enum": ["reqps", "percentunit", "percent", "s", "short", "cps"]},
        "thresholds": {
            "type": "object",
            "required": ["mode", "steps"],
            "properties": {
                "mode": {"const": "absolute"},
                "steps": {"type": "array", "minItems": 1, "items": STEP},
            },
        },
    },
}
OVERRIDE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["matcher", "properties"],
    "properties": {
        "matcher": {
            "type": "object",
            "required": ["id", "options"],
            "properties": {"id": {"enum": ["byRegexp", "byName"]}},
        },
        "properties": {
            "type": "array",
            "items": {"type": "object", "required": ["id", "value"]},
        },
    },
}
PANEL = {
    "type": "object",
    "required": [
        "id", "type", "title", "description", "gridPos", "datasource", "targets", "fieldConfig",
        "options",
    ],
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "type": {"enum": ["stat", "timeseries", "table"]},
        "title": {"type": "string", "minLength": 1},
        "description": {"type": "string", "pattern": r"\.$"},
        "datasource": DATASOURCE,
        "gridPos": {
            "type": "object",
            "additionalProperties": False,
            "required": ["h", "w", "x", "y"],
            "properties": {side: {"type": "integer", "minimum": 0} for side in "hwxy"},
        },
        "targets": {"type": "array", "minItems": 1, "items": TARGET},
        "fieldConfig": {
            "type": "object",
            "required": ["defaults", "overrides"],
            "properties": {
                "defaults": DEFAULTS,
                "overrides": {"type": "array", "items": OVERRIDE},
            },
        },
        "options": {"type": "object"},
    },
}  # fmt: skip
DASHBOARD = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "time", "templating", "panels", "tags"],
    "properties": {
        "uid": {"type": "string", "pattern": r"^[a-z0-9-]{1,40}$"},
        "schemaVersion": {"const": 41},
        "panels": {"type": "array", "minItems": 1, "maxItems": MOST_PANELS, "items": PANEL},
        "templating": {
            "type": "object",
            "properties": {
                "list": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "name", "label", "query"],
                        "properties": {"type": {"enum": ["datasource", "query"]}},
                    },
                }
            },
        },
    },
}
"""Of Grafana's schema just what the dashboards use, so that a slip of the pen is found."""


def each(file: Path) -> dict[str, Any]:
    return dashboards.read(file)


@pytest.mark.parametrize("file", dashboards.FILES, ids=lambda file: file.stem)
def test_a_dashboard_is_what_grafana_reads(file: Path) -> None:
    jsonschema.validate(each(file), DASHBOARD)


@pytest.mark.parametrize("file", dashboards.FILES, ids=lambda file: file.stem)
def test_panels_stand_beside_each_other_within_the_width(file: Path) -> None:
    panels = each(file)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= COLUMNS
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        assert not overlap(one, other)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


@pytest.mark.parametrize("file", dashboards.FILES, ids=lambda file: file.stem)
def test_a_panel_names_each_of_its_queries_and_uses_only_variables_that_there_are(
    file: Path,
) -> None:
    document = each(file)
    known = {variable["name"] for variable in document["templating"]["list"]}
    for panel in document["panels"]:
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names)
        used = set(re.findall(r"\$(\w+)", " ".join(t["expr"] for t in panel["targets"])))
        assert used <= known | {"__rate_interval"}
    asked = " ".join(t["expr"] for p in document["panels"] for t in p["targets"])
    assert [name for name in known - {"datasource"} if f"${name}" not in asked] == []


def test_no_two_dashboards_have_the_same_address() -> None:
    documents = [each(file) for file in dashboards.FILES]
    assert len({document["uid"] for document in documents}) == len(documents) == 4


def test_dashboards_ask_only_for_what_a_program_shows_or_a_rule_records() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    shown = set()
    for name, kind in re.findall(r"^\| `(\w+)` \| (\w+)", page, re.MULTILINE):
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        shown |= {name + part for part in parts}
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/recording.yml").read_text())
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"]}
    asked = {name for query in dashboards.queries() for name in OURS.findall(query.text)}
    assert asked - shown - recorded == set()


def test_grafana_finds_prometheus_and_the_dashboards_where_compose_has_them() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    volumes = services["grafana"]["volumes"]
    (source,) = provisioned("datasources/prometheus.yml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services["grafana"]["depends_on"]
    (provider,) = provisioned("dashboards/canary.yml")["providers"]
    path = provider["options"]["path"]
    assert f"./deploy/grafana/dashboards:{path}:ro" in volumes
    assert "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro" in volumes
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(path)
    assert (FOLDER / "dashboards" / Path(home).name).is_file()


def provisioned(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / "provisioning" / name).read_text())
    assert document["apiVersion"] == 1
    return document
