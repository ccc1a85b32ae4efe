"""Read Kong's declarative file; everything that can't be honoured is named, all at once."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from dev_gateway import entities as kinds
from dev_gateway.address import split_host_port
from dev_gateway.entities import (
    DEFAULT_WORKSPACE_ID,
    Credential,
    DeclarativeConfig,
    PluginConfig,
    Route,
    Service,
    Table,
    Target,
    Upstream,
)
from dev_gateway.errors import ConfigError
from dev_gateway.identity import cache_key, derived, plugin_key, target_key
from dev_gateway.plugin_info import PluginInfo
from dev_gateway.schema import Fields, read_record

FORMAT_VERSION = "3.0"
DEFAULT_TARGET_PORT = 8000
NOT_HONOURED = "not honoured by the development gateway"

_META = frozenset({"_format_version", "_transform", "_comment", "_ignore"})
# In the order in which Kong's plugins get their sequence numbers here: as read.
_CHILDREN: Mapping[str, tuple[str, ...]] = {
    "": (
        "services", "routes", "upstreams", "targets", "consumers", "keyauth_credentials",
        "plugins",
    ),
    "services": ("routes", "plugins"),
    "routes": ("plugins",),
    "upstreams": ("targets",),
    "consumers": ("keyauth_credentials", "plugins"),
}  # fmt: skip
_PARENTS: Mapping[str, frozenset[str]] = {
    "routes": frozenset({"service"}),
    "targets": frozenset({"upstream"}),
    "keyauth_credentials": frozenset({"consumer"}),
    "plugins": frozenset({"route", "service", "consumer"}),
}
_SCOPE_ENTITIES = {
    "route": "routes",
    "service": "services",
    "consumer": "consumers",
    "upstream": "upstreams",
}
_SERVICE_SHORTHAND = frozenset({"host", "path", "port", "protocol"})


class _Loader(yaml.SafeLoader):
    """Without dates: to Kong they are strings."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_file(path: Path, plugins: Mapping[str, PluginInfo]) -> DeclarativeConfig:
    """The config in a file, or ConfigError with every complaint."""
    try:
        document = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError([f"{path}: {fault}"]) from fault
    return read_document(document, plugins)


def read_document(document: Any, plugins: Mapping[str, PluginInfo]) -> DeclarativeConfig:
    """The config in a parsed document, or ConfigError with every complaint."""
    reader = _Reader(plugins, now=int(time.time()))
    reader.read(document)
    if reader.complaints:
        raise ConfigError(reader.complaints)
    return reader.config()


class _Reader:
    """Collects entities and complaints over one walk of the document."""

    def __init__(self, plugins: Mapping[str, PluginInfo], *, now: int) -> None:
        self.complaints: list[str] = []
        self._known_plugins = plugins
        self._times = {"created_at": now, "updated_at": now}
        self._found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in _CHILDREN[""]}
        self._names: dict[tuple[str, str, str], str] = {}
        self._references: list[tuple[str, dict[str, Any], str, str]] = []

    def complain(self, path: str, words: str) -> None:
        self.complaints.append(f"{path}: {words}")

    def read(self, document: Any) -> None:
        if not isinstance(document, dict):
            self.complain("(file)", "expected a record")
            return
        version = document.get("_format_version")
        if version is None:
            self.complain("_format_version", "required field missing")
        elif version != FORMAT_VERSION:
            self.complain("_format_version", f"expected one of: {FORMAT_VERSION}")
        if document.get("_transform") is False:
            self.complain("_transform", NOT_HONOURED)
        for name in document:
            if name not in _META and name not in _CHILDREN[""]:
                known = name in kinds.NOT_HONOURED[""]
                self.complain(str(name), NOT_HONOURED if known else "unknown field")
        self._read_children("", document, "", {})
        self._resolve_references()
        if not self.complaints:
            self._check_entities()

    def _read_children(
        self, parent: str, given: Mapping[str, Any], path: str, scope: Mapping[str, str]
    ) -> None:
        for entity in _CHILDREN.get(parent, ()):
            items = given.get(entity)
            if items is None:
                continue
            at = f"{path}.{entity}" if path else entity
            if not isinstance(items, list):
                self.complain(at, "expected an array")
                continue
            for index, item in enumerate(items):
                if isinstance(item, dict):
                    self._read_entity(entity, item, f"{at}[{index}]", scope)
                else:
                    self.complain(f"{at}[{index}]", "expected a record")

    def _read_entity(
        self, entity: str, item: dict[str, Any], path: str, scope: Mapping[str, str]
    ) -> None:
        own, foreign = self._split(entity, item, path, scope)
        if entity == "services":
            own = self._expand_url(own, path)
        fields: Fields = _FIELDS[entity]
        config = own.pop("config", None) if entity == "plugins" else None
        table = read_record(fields, own, path, self.complain)
        table = self._times | table if entity not in ("targets",) else table
        if entity == "keyauth_credentials":
            table.pop("updated_at", None)
        table.setdefault("id", derived(entity, _unique_key(entity, table, foreign)))
        if entity == "plugins":
            table["config"] = self._plugin_config(table.get("name"), config, path, foreign)
        self._remember(entity, table, path)
        for name, wanted in foreign.items():
            self._references.append((path, table, name, wanted))
        child_scope = {entity[:-1]: table["id"]}
        self._read_children(entity, item, path, child_scope)

    def _split(
        self, entity: str, item: dict[str, Any], path: str, scope: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """An entity's own fields, and the references it makes or inherits."""
        foreign = dict(scope)
        own: dict[str, Any] = {}
        for name, value in item.items():
            if name in _META or name in _CHILDREN.get(entity, ()):
                continue
            if name in _PARENTS.get(entity, ()):
                if name in scope:
                    self.complain(f"{path}.{name}", "value must be null")
                elif isinstance(value, str):
                    foreign[name] = value
                elif value is not None:
                    self.complain(f"{path}.{name}", "expected a string")
            elif name in kinds.NOT_HONOURED.get(entity, ()):
                self.complain(f"{path}.{name}", NOT_HONOURED)
            else:
                own[name] = value
        return own, foreign

    def _expand_url(self, own: dict[str, Any], path: str) -> dict[str, Any]:
        url = own.pop("url", None)
        if url is None:
            return own
        parts = urlsplit(url if isinstance(url, str) else "")
        host, port = split_host_port(parts.netloc.rpartition("@")[2])
        if not host:
            self.complain(f"{path}.url", "expected a string like http://host:port/path")
            return own | {"host": "unknown"}
        for name in sorted(_SERVICE_SHORTHAND & own.keys()):
            self.complain(f"{path}.{name}", "is given by url already")
        expanded = {"protocol": parts.scheme or "http", "host": host}
        return own | expanded | {"port": port or 80} | ({"path": parts.path} if parts.path else {})

    def _plugin_config(
        self, name: Any, given: Any, path: str, foreign: Mapping[str, str]
    ) -> dict[str, Any]:
        info = self._known_plugins.get(name) if isinstance(name, str) else None
        if info is None:
            honoured = ", ".join(sorted(self._known_plugins))
            if name is not None:
                self.complain(
                    f"{path}.name",
                    f"plugin '{name}' not enabled; the development gateway honours {honoured}",
                )
            return {}
        for scope in foreign.keys() - info.scopes:
            self.complain(f"{path}.{scope}", "value must be null")
        return read_record(
            info.fields, {} if given is None else given, f"{path}.config", self.complain
        )

    def _remember(self, entity: str, table: dict[str, Any], path: str) -> None:
        if table["id"] in self._found[entity]:
            self.complain(path, _already_declared(entity, "primary key", table["id"]))
        self._found[entity][table["id"]] = table
        for unique in _UNIQUE.get(entity, ()):
            value = table.get(unique)
            if value is None:
                continue
            if (entity, unique, value) in self._names:
                self.complain(f"{path}.{unique}", _already_declared(entity, unique, value))
            self._names[entity, unique, value] = table["id"]

    def _resolve_references(self) -> None:
        for path, table, name, wanted in self._references:
            entity = _SCOPE_ENTITIES[name]
            unique = _UNIQUE[entity][0]
            found = self._names.get((entity, unique, wanted), wanted)
            if found in self._found[entity]:
                table[name] = {"id": found}
            else:
                self.complain(
                    path, f"invalid reference '{name}: {wanted}' (no such entry in '{entity}')"
                )

    def _check_entities(self) -> None:
        for table in self._found["routes"].values():
            if not any(table.get(matcher) for matcher in ("methods", "hosts", "headers", "paths")):
                self.complain(
                    f"routes '{table.get('name', table['id'])}'",
                    "must set one of 'methods', 'hosts', 'headers', 'paths'",
                )
        for table in self._found["consumers"].values():
            if "username" not in table and "custom_id" not in table:
                self.complain(
                    f"consumers '{table['id']}'",
                    "at least one of these fields must be non-empty: 'custom_id', 'username'",
                )
        for entity, parent in (("targets", "upstream"), ("keyauth_credentials", "consumer")):
            for table in self._found[entity].values():
                if parent not in table:
                    self.complain(f"{entity} '{table['id']}'.{parent}", "required field missing")

    def config(self) -> DeclarativeConfig:
        """What was read, frozen."""
        services = {key: _service(table) for key, table in self._found["services"].items()}
        consumers = self._found["consumers"]
        return DeclarativeConfig(
            routes=tuple(_route(table, services) for table in self._found["routes"].values()),
            upstreams={
                table["name"]: _upstream(table, self._found["targets"])
                for table in self._found["upstreams"].values()
            },
            credentials={
                table["key"]: Credential(
                    key=table["key"], table=table, consumer=consumers[table["consumer"]["id"]]
                )
                for table in self._found["keyauth_credentials"].values()
                if "key" in table
            },
            consumers=consumers,
            plugins=tuple(self._plugins()),
        )

    def _plugins(self) -> Iterator[PluginConfig]:
        enabled = [table for table in self._found["plugins"].values() if table["enabled"]]
        # Kong numbers every config twice: once in the master process, once in its worker.
        for seq, table in enumerate(enabled, start=len(enabled) + 1):
            yield _plugin(table, seq)


_FIELDS: Mapping[str, Fields] = {
    "services": kinds.SERVICE_FIELDS,
    "routes": kinds.ROUTE_FIELDS,
    "upstreams": kinds.UPSTREAM_FIELDS,
    "targets": kinds.TARGET_FIELDS,
    "consumers": kinds.CONSUMER_FIELDS,
    "keyauth_credentials": kinds.CREDENTIAL_FIELDS,
    "plugins": kinds.PLUGIN_FIELDS,
}
_UNIQUE: Mapping[str, tuple[str, ...]] = {
    "services": ("name",),
    "routes": ("name",),
    "upstreams": ("name",),
    "consumers": ("username", "custom_id"),
    "keyauth_credentials": ("key",),
    "plugins": ("instance_name",),
}


def _already_declared(entity: str, key: str, value: str) -> str:
    return f"uniqueness violation: '{entity}' entity with {key} set to '{value}' already declared"


def _unique_key(entity: str, table: Mapping[str, Any], foreign: Mapping[str, str]) -> str | None:
    if entity == "plugins":
        return plugin_key(str(table.get("name")), foreign)
    if entity == "targets":
        return target_key(foreign.get("upstream", ""), str(table.get("target")))
    if entity == "keyauth_credentials":
        return None
    name = table.get("username" if entity == "consumers" else "name")
    return None if name is None else str(name)


def _service(table: Mapping[str, Any]) -> Service:
    return Service(
        id=table["id"],
        host=table["host"],
        port=table["port"],
        path=table.get("path", "/"),
        retries=table["retries"],
        connect_timeout_ms=table["connect_timeout"],
        write_timeout_ms=table["write_timeout"],
        read_timeout_ms=table["read_timeout"],
        enabled=table["enabled"],
        table={**table, "ws_id": DEFAULT_WORKSPACE_ID},
    )


def _route(table: Mapping[str, Any], services: Mapping[str, Service]) -> Route:
    service = table.get("service")
    return Route(
        id=table["id"],
        service=services[service["id"]] if service else None,
        strip_path=table["strip_path"],
        preserve_host=table["preserve_host"],
        protocols=tuple(table["protocols"]),
        https_redirect_status_code=table["https_redirect_status_code"],
        paths=tuple(table.get("paths", ())),
        hosts=tuple(host.lower() for host in table.get("hosts", ())),
        methods=tuple(table.get("methods", ())),
        headers={name.lower(): tuple(values) for name, values in table.get("headers", {}).items()},
        regex_priority=table["regex_priority"],
        table={**table, "ws_id": DEFAULT_WORKSPACE_ID},
    )


def _upstream(table: Mapping[str, Any], targets: Mapping[str, Mapping[str, Any]]) -> Upstream:
    mine = [item for item in targets.values() if item["upstream"]["id"] == table["id"]]
    return Upstream(
        name=table["name"],
        host_header=table.get("host_header"),
        targets=tuple(_target(item) for item in mine),
    )


def _target(table: Mapping[str, Any]) -> Target:
    host, port = split_host_port(table["target"])
    return Target(host=host, port=port or DEFAULT_TARGET_PORT, weight=table["weight"])


def _plugin(table: Mapping[str, Any], seq: int) -> PluginConfig:
    ids = {
        f"{scope}_id": table[scope]["id"]
        for scope in ("route", "service", "consumer")
        if scope in table
    }
    key = cache_key(
        table["name"],
        ids.get("route_id"),
        ids.get("service_id"),
        ids.get("consumer_id"),
        DEFAULT_WORKSPACE_ID,
    )
    named = {"plugin_instance_name": table["instance_name"]} if "instance_name" in table else {}
    values: Table = {
        **table["config"],
        **ids,
        **named,
        "__plugin_id": table["id"],
        "__ws_id": DEFAULT_WORKSPACE_ID,
        "__key__": key,
        "__seq__": seq,
    }
    return PluginConfig(
        id=table["id"],
        name=table["name"],
        route_id=ids.get("route_id"),
        service_id=ids.get("service_id"),
        consumer_id=ids.get("consumer_id"),
        seq=seq,
        values=values,
    )
