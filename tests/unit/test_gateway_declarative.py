"""The declarative file: what it gives, and how it is refused."""

from pathlib import Path
from typing import Any

import pytest
from dev_gateway import key_auth
from dev_gateway.declarative import load_file, read_document
from dev_gateway.entities import DeclarativeConfig
from dev_gateway.errors import ConfigError
from dev_gateway.plugin_info import PluginInfo

CANARY = PluginInfo(
    name="canary-release",
    priority=850,
    phases=frozenset({"access", "log"}),
    fields=[{"percentage": {"type": "number", "default": 5, "between": [0, 100]}}],
)
PLUGINS = {CANARY.name: CANARY, key_auth.INFO.name: key_auth.INFO}
URL = "http://orders-v1:1229/base"


def read(**document: Any) -> DeclarativeConfig:
    return read_document({"_format_version": "3.0", **document}, PLUGINS)


def complaints(**document: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(**document)
    return caught.value.complaints


def service(**more: Any) -> dict[str, Any]:
    return {"name": "s", "url": URL, **more}


def test_a_url_is_shorthand_for_protocol_host_port_and_path() -> None:
    (route,) = read(services=[service(routes=[{"name": "r", "paths": ["/"]}])]).routes
    assert route.service is not None
    assert (route.service.host, route.service.port) == ("orders-v1", 1229)
    assert route.service.path == "/base"
    assert route.service.table["protocol"] == "http"
    assert "url" not in route.service.table


def test_routes_may_stand_at_the_top_and_name_their_service() -> None:
    config = read(services=[service()], routes=[{"name": "r", "paths": ["/"], "service": "s"}])
    (route,) = config.routes
    assert route.service is not None
    assert route.table["service"] == {"id": route.service.id}


def test_ids_are_the_ones_that_kong_derives() -> None:
    orders = service(
        name="orders",
        routes=[{"name": "orders-route", "paths": ["/"], "plugins": [{"name": "canary-release"}]}],
    )
    config = read(
        services=[orders],
        consumers=[{"username": "alice"}],
        plugins=[{"name": "canary-release"}],
    )
    (route,) = config.routes
    assert route.id == "4b978d57-df71-51a2-950f-e926c640e159"
    assert route.table["service"]["id"] == "580c8aca-d632-5804-b307-a24326e1e2d5"
    assert list(config.consumers) == ["b32379d9-3d28-5683-a79c-72139be6e34f"]
    assert {plugin.id for plugin in config.plugins} == {
        "2e1236a3-f785-5791-b0d3-c29b42691154",
        "ede26ead-dc35-5920-a14d-7063cdee1b39",
    }


def test_an_id_that_is_given_is_kept() -> None:
    given = "11111111-2222-3333-4444-555555555555"
    (route,) = read(services=[service(routes=[{"id": given, "paths": ["/"]}])]).routes
    assert route.id == given


def test_targets_have_weights_and_a_default_port() -> None:
    targets = [{"target": "one"}, {"target": "10.0.0.1:81", "weight": 0}]
    upstream = read(upstreams=[{"name": "up", "targets": targets}]).upstreams["up"]
    assert [(target.host, target.port, target.weight) for target in upstream.targets] == [
        ("one", 8000, 100),
        ("10.0.0.1", 81, 0),
    ]


def test_a_plugins_config_gets_its_defaults_scope_and_sequence_number() -> None:
    scoped = [{"name": "key-auth"}, {"name": "canary-release"}]
    config = read(services=[service(plugins=scoped)])
    values = config.plugins[1].values
    service_id = config.plugins[1].service_id
    assert values == {
        "percentage": 5,
        "service_id": service_id,
        "__plugin_id": config.plugins[1].id,
        "__ws_id": "0dc6f45b-8f8d-40d2-a504-473544ee190b",
        "__key__": f"plugins:canary-release::{service_id}:::0dc6f45b-8f8d-40d2-a504-473544ee190b",
        "__seq__": 4,
    }


def test_a_disabled_plugin_is_no_plugin() -> None:
    assert read(plugins=[{"name": "canary-release", "enabled": False}]).plugins == ()


def test_every_complaint_comes_at_once_with_its_path() -> None:
    route = {"methodz": ["GET"], "paths": ["x", "~/(", "/ok"], "sources": []}
    found = complaints(
        services=[service(routes=[{"paths": ["/"]}, route], retries=40000, hots="x")],
        upstreams=[{"name": "10.0.0.1", "healthchecks": {}}],
        consumers=[{"username": "a", "keyauth_credentials": [{"key": "k", "ttl": 5}]}],
        plugins=[
            {"name": "acl"},
            {"name": "canary-release", "config": {"percent": 5, "percentage": "5"}},
            {"name": "key-auth", "route": "nowhere"},
        ],
        vaults=[],
        serviecs=[],
    )
    assert set(found) == {
        "vaults: not honoured by the development gateway",
        "serviecs: unknown field",
        "services[0].hots: unknown field",
        "services[0].retries: value should be between 0 and 32767",
        "services[0].routes[1].methodz: unknown field",
        "services[0].routes[1].sources: not honoured by the development gateway",
        "services[0].routes[1].paths[0]: should start with: / (fixed path) or ~/ (regex path)",
        "services[0].routes[1].paths[1]: invalid regex: '/(' "
        "(missing ), unterminated subpattern at position 1)",
        "upstreams[0].name: Invalid name ('10.0.0.1'); no ip addresses allowed",
        "upstreams[0].healthchecks: not honoured by the development gateway",
        "consumers[0].keyauth_credentials[0].ttl: not honoured by the development gateway",
        "plugins[0].name: plugin 'acl' not enabled; "
        "the development gateway honours canary-release, key-auth",
        "plugins[1].config.percent: unknown field",
        "plugins[1].config.percentage: expected a number",
        "plugins[2]: invalid reference 'route: nowhere' (no such entry in 'routes')",
    }


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"_format_version": "1.1"}, "_format_version: expected one of: 3.0"),
        ({"services": {}}, "services: expected an array"),
        ({"services": ["s"]}, "services[0]: expected a record"),
        (
            {"services": [{"name": "s", "url": "https://s"}]},
            "services[0].protocol: expected one of: http",
        ),
        ({"services": [{"name": "s"}]}, "services[0].host: required field missing"),
        (
            {"services": [{"name": "s", "url": "nonsense"}]},
            "services[0].url: expected a string like http://host:port/path",
        ),
        (
            {"routes": [{"name": "r"}]},
            "routes 'r': must set one of 'methods', 'hosts', 'headers', 'paths'",
        ),
        (
            {"routes": [{"paths": ["/"], "path_handling": "v1"}]},
            "routes[0].path_handling: expected one of: v0",
        ),
        (
            {"routes": [{"headers": {"host": ["x"]}}]},
            "routes[0].headers.host: cannot contain 'host' header, "
            "which must be specified in the 'hosts' attribute",
        ),
        (
            {"upstreams": [{"name": "u", "algorithm": "consistent-hashing"}]},
            "upstreams[0].algorithm: expected one of: round-robin",
        ),
        (
            {"services": [{"name": "s", "url": "http://s", "routes": [{"service": "s"}]}]},
            "services[0].routes[0].service: value must be null",
        ),
        (
            {"upstreams": [{"name": "u"}, {"name": "u"}]},
            "upstreams[1].name: uniqueness violation: 'upstreams' entity "
            "with name set to 'u' already declared",
        ),
        (
            {"consumers": [{"username": "a", "plugins": [{"name": "key-auth"}]}]},
            "consumers[0].plugins[0].consumer: value must be null",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    document: dict[str, Any], complaint: str
) -> None:
    assert complaint in complaints(**document)


def test_two_plugins_with_the_same_scope_are_one_too_many() -> None:
    (found,) = complaints(plugins=[{"name": "canary-release"}] * 2)
    assert "uniqueness violation: 'plugins' entity with primary key" in found


def test_a_yaml_date_is_a_string_and_a_yaml_boolean_is_a_boolean(tmp_path: Path) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(
        "_format_version: '3.0'\nservices:\n- {name: s, url: 'http://s', tags: [2026-01-01]}\n"
        "routes:\n- {name: r, service: s, paths: [/], strip_path: false}\n"
    )
    (route,) = load_file(path, PLUGINS).routes
    assert route.strip_path is False
    assert route.service is not None
    assert route.service.table["tags"] == ["2026-01-01"]


@pytest.mark.parametrize("text", ["services: [", "[]", ""])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_file(path, PLUGINS)
