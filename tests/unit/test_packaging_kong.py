"""Kong's files: the declarative config a team already has, and the settings for the plugin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from canary_plugin.__main__ import main
from canary_plugin.outcomes.lines import LOG_FORMAT, access_log
from canary_plugin.schema import plugin_info
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
KONG_YML = ROOT / "kong/kong.yml"
SEED = ROOT / "tests/data/seed-plugin.yml"


def test_the_plugin_s_block_stands_in_the_file_word_for_word() -> None:
    assert f"\n\n{SEED.read_text()}\n" in KONG_YML.read_text()


def test_the_header_s_value_stays_a_boolean() -> None:
    (plugin,) = yaml.safe_load(KONG_YML.read_text())["plugins"]
    assert plugin["config"]["whitelisted_headers"] == [{"name": "x-canary-test", "value": True}]


def test_the_service_and_its_route_are_the_ones_the_team_has() -> None:
    document = yaml.safe_load(KONG_YML.read_text())
    assert document["services"] == [
        {"name": "yyc3-xy-api-service", "url": "http://yyc3-xy-api:1229"}
    ]
    assert document["routes"] == [
        {
            "name": "yyc3-xy-api-route",
            "service": "yyc3-xy-api-service",
            "paths": ["/api/v1"],
            "strip_path": False,
        }
    ]


def test_the_canary_s_upstream_is_named_by_the_plugin_s_config() -> None:
    document = yaml.safe_load(KONG_YML.read_text())
    (plugin,) = document["plugins"]
    named = {upstream["name"] for upstream in document["upstreams"]}
    assert plugin["config"]["upstream_host_header"] in named


def test_kong_loads_the_plugin_that_the_query_command_describes() -> None:
    info = plugin_info()
    (described,) = info["Plugins"] if isinstance(info, dict) else info
    settings = (ROOT / "kong/kong.conf").read_text().splitlines()
    assert f"plugins = bundled,{described['Name']}" in settings
    assert not [line for line in settings if line.startswith("pluginserver_canary_start_cmd")]


def test_kong_logs_to_the_plugin_server_in_the_format_that_it_reads() -> None:
    settings = (ROOT / "kong/kong.conf").read_text().splitlines()
    assert f"nginx_http_log_format = {LOG_FORMAT}" in settings
    assert f"nginx_proxy_access_log = {access_log('/run/canary/outcomes.sock')}" in settings


@pytest.mark.parametrize(
    ("outcomes", "phases"),
    [
        ([], ["access"]),
        (["off"], ["access"]),
        (["syslog"], ["access"]),
        (["log"], ["access", "log"]),
    ],
)
def test_kong_calls_the_log_phase_only_where_outcomes_come_by_it(
    outcomes: list[str], phases: list[str]
) -> None:
    options = ["--dump", *(["--outcomes", *outcomes] if outcomes else [])]
    (described,) = json.loads(CliRunner().invoke(main, options).output)
    assert described["Phases"] == phases
