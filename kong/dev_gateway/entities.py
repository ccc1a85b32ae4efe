"""Kong's entities as its own schemas describe them, and the frozen values made of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dev_gateway.address import is_ip, split_host_port
from dev_gateway.schema import Field, Fields

Table = Mapping[str, Any]

DEFAULT_WORKSPACE_ID = "0dc6f45b-8f8d-40d2-a504-473544ee190b"

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.\-]*[A-Za-z0-9_])?")
_ROUTE_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_][A-Za-z0-9_.\-]*(\.\*)?(:\d+)?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~\-]+")
_UNRESERVED_NAME = re.compile(r"[\w.\-~]+")


def _host(value: str) -> str | None:
    return None if is_ip(value) or _HOST.fullmatch(value) else f"invalid value: {value}"


def _route_host(value: str) -> str | None:
    return None if is_ip(value) or _ROUTE_HOST.fullmatch(value) else f"invalid value: {value}"


def _header_name(value: str) -> str | None:
    if not _HEADER_NAME.fullmatch(value):
        return f"bad header name '{value}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"
    if value.lower() == "host":
        return "cannot contain 'host' header, which must be specified in the 'hosts' attribute"
    return None


def _name(value: str) -> str | None:
    if _UNRESERVED_NAME.fullmatch(value):
        return None
    return f"invalid value '{value}': the only accepted characters are letters, digits and '-._~'"


def _path(value: str) -> str | None:
    if not value.startswith("/"):
        return "should start with: /"
    return "must not have empty segments" if "//" in value else None


def _route_path(value: str) -> str | None:
    if not value.startswith("~"):
        return (
            None
            if value.startswith("/")
            else ("should start with: / (fixed path) or ~/ (regex path)")
        )
    try:
        re.compile(value[1:])
    except re.error as fault:
        return f"invalid regex: '{value[1:]}' ({fault})"
    return (
        None if value.startswith("~/") else ("should start with: / (fixed path) or ~/ (regex path)")
    )


def _upstream_name(value: str) -> str | None:
    if is_ip(value):
        return f"Invalid name ('{value}'); no ip addresses allowed"
    if ":" in value:
        return f"Invalid name ('{value}'); no port allowed"
    return None if _HOST.fullmatch(value) else f"Invalid name ('{value}'); must be a valid hostname"


def _target(value: str) -> str | None:
    fault = _host(split_host_port(value)[0])
    return fault and f"Invalid target ('{value}'); not a valid hostname or ip address"


def _timeout() -> dict[str, Any]:
    return {"type": "integer", "between": (1, 2**31 - 2), "default": 60000}


def _strings(check: Any = None, **more: Any) -> dict[str, Any]:
    element = {"type": "string"} | ({"custom_validator": check} if check else {})
    return {"type": "set", "elements": element, **more}


_ID: Mapping[str, Field] = {"id": {"type": "string", "uuid": True}}
_TAGS: Mapping[str, Field] = {"tags": _strings()}
_NAMED: Mapping[str, Field] = {"name": {"type": "string", "custom_validator": _name}}
_TIMES: Mapping[str, Field] = {"created_at": {"type": "integer"}, "updated_at": {"type": "integer"}}
_PROTOCOLS: Mapping[str, Field] = {
    "protocols": _strings(
        len_min=1,
        default=["http", "https"],
        required=True,
    )
}

SERVICE_FIELDS: Fields = [
    _ID, _TIMES, _NAMED, _TAGS,
    {"retries": {"type": "integer", "default": 5, "between": (0, 32767)}},
    {"protocol": {"type": "string", "required": True, "default": "http", "one_of": ["http"]}},
    {"host": {"type": "string", "required": True, "custom_validator": _host}},
    {"port": {"type": "integer", "required": True, "default": 80, "between": (0, 65535)}},
    {"path": {"type": "string", "custom_validator": _path}},
    {"connect_timeout": _timeout()},
    {"write_timeout": _timeout()},
    {"read_timeout": _timeout()},
    {"enabled": {"type": "boolean", "required": True, "default": True}},
]  # fmt: skip

ROUTE_FIELDS: Fields = [
    _ID, _TIMES, _NAMED, _TAGS, _PROTOCOLS,
    {"https_redirect_status_code": {
        "type": "integer", "one_of": [426, 301, 302, 307, 308], "default": 426, "required": True,
    }},
    {"strip_path": {"type": "boolean", "required": True, "default": True}},
    {"preserve_host": {"type": "boolean", "required": True, "default": False}},
    {"request_buffering": {"type": "boolean", "required": True, "default": True}},
    {"response_buffering": {"type": "boolean", "required": True, "default": True}},
    {"methods": _strings()},
    {"hosts": _strings(_route_host)},
    {"paths": _strings(_route_path)},
    {"headers": {
        "type": "map",
        "keys": {"type": "string", "custom_validator": _header_name},
        "values": {"type": "array", "elements": {"type": "string"}},
    }},
    {"regex_priority": {"type": "integer", "default": 0}},
    {"path_handling": {"type": "string", "default": "v0", "one_of": ["v0"]}},
]  # fmt: skip

UPSTREAM_FIELDS: Fields = [
    _ID, _TIMES, _TAGS,
    {"name": {"type": "string", "required": True, "custom_validator": _upstream_name}},
    {"algorithm": {"type": "string", "default": "round-robin", "one_of": ["round-robin"]}},
    {"hash_on": {"type": "string", "default": "none", "one_of": ["none"]}},
    {"hash_fallback": {"type": "string", "default": "none", "one_of": ["none"]}},
    {"slots": {"type": "integer", "default": 10000, "between": (10, 2**16)}},
    {"host_header": {"type": "string", "custom_validator": _target}},
]  # fmt: skip

TARGET_FIELDS: Fields = [
    _ID, _TIMES, _TAGS,
    {"target": {"type": "string", "required": True, "custom_validator": _target}},
    {"weight": {"type": "integer", "default": 100, "between": (0, 65535)}},
]  # fmt: skip

CONSUMER_FIELDS: Fields = [
    _ID, _TIMES, _TAGS,
    {"username": {"type": "string"}},
    {"custom_id": {"type": "string"}},
]  # fmt: skip

CREDENTIAL_FIELDS: Fields = [
    _ID,
    {"created_at": {"type": "integer"}},
    _TAGS,
    {"key": {"type": "string"}},
]

PLUGIN_FIELDS: Fields = [
    _ID, _TIMES, _TAGS, _PROTOCOLS,
    {"name": {"type": "string", "required": True}},
    {"instance_name": {"type": "string", "custom_validator": _name}},
    {"enabled": {"type": "boolean", "required": True, "default": True}},
]  # fmt: skip

# Kong knows these; a stand-in that ignored them would lie.
NOT_HONOURED: Mapping[str, frozenset[str]] = {
    "services": frozenset(
        {"ca_certificates", "client_certificate", "tls_verify", "tls_verify_depth"}
    ),
    "routes": frozenset({"destinations", "expression", "priority", "snis", "sources"}),
    "upstreams": frozenset(
        {
            "client_certificate", "hash_fallback_header", "hash_fallback_query_arg",
            "hash_fallback_uri_capture", "hash_on_cookie", "hash_on_cookie_path",
            "hash_on_header", "hash_on_query_arg", "hash_on_uri_capture", "healthchecks",
            "use_srv_name",
        }
    ),
    "consumers": frozenset(
        {
            "acls", "basicauth_credentials", "hmacauth_credentials", "jwt_secrets",
            "oauth2_credentials",
        }
    ),
    "keyauth_credentials": frozenset({"ttl"}),
    "": frozenset(
        {
            "acls", "basicauth_credentials", "ca_certificates", "certificates",
            "clustering_data_planes", "filter_chains", "hmacauth_credentials", "jwt_secrets",
            "key_sets", "keys", "oauth2_credentials", "parameters", "snis", "vaults", "workspaces",
        }
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where requests go; `table` is what a plugin is told."""

    id: str
    host: str
    port: int
    path: str
    retries: int
    connect_timeout_ms: int
    write_timeout_ms: int
    read_timeout_ms: int
    enabled: bool
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Which requests go to a service; `table` is what a plugin is told."""

    id: str
    service: Service | None
    strip_path: bool
    preserve_host: bool
    protocols: tuple[str, ...]
    https_redirect_status_code: int
    paths: tuple[str, ...]
    hosts: tuple[str, ...]
    methods: tuple[str, ...]
    headers: Mapping[str, tuple[str, ...]]
    regex_priority: int
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    host: str
    port: int
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    name: str
    host_header: str | None
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A key-auth key and whose it is."""

    key: str
    table: Table
    consumer: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConfig:
    """One configuration of a plugin and where it applies; `values` is what an instance gets."""

    id: str
    name: str
    route_id: str | None
    service_id: str | None
    consumer_id: str | None
    seq: int
    values: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclarativeConfig:
    """All that one file says."""

    routes: tuple[Route, ...]
    upstreams: Mapping[str, Upstream]
    credentials: Mapping[str, Credential]
    consumers: Mapping[str, Table]
    plugins: tuple[PluginConfig, ...]
