"""A plugin instance's config as Kong hands it over: read, judged, and turned into a baseline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from canary_engine import parse
from canary_engine.baseline import BASELINE_ID
from canary_engine.errors import InvalidPolicy
from canary_engine.model import Policy
from canary_engine.reading import Node

CANARY = "canary"


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Baseline:
    """A declared policy and its content hash."""

    policy: Policy
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One instance's settings. ``complaints`` is not empty if it must serve stable only."""

    service_key: str = ""
    is_scoped: bool = False
    deadline_s: float = 0.020
    flags: tuple[str, ...] = ()
    cookie: str = "canary_id"
    cookie_attributes: str = ""
    user_id_header: str = "x-user-id"
    user_id_hash_key: bytes = b""
    label_stable: bool = False
    response_headers: bool = False
    declared: Mapping[str, Any] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()

    def baseline(self, service_key: str) -> Baseline | None:
        """The baseline for a service key; None if the config declares none."""
        if not self.declared:
            return None
        document = _named(self.declared, service_key)
        return Baseline(policy=parse.policy(document), hash=parse.content_hash(document))


def read(raw: Mapping[str, Any]) -> Config:
    """The config that Kong's schema has let through; what it could not judge is judged here."""
    # Kong hands fields that are not set as null or leaves them out; Lua's empty list may be {}.
    node = Node({k: v for k, v in raw.items() if v is not None and v != {}}, "", [])
    config = Config(
        service_key=node.text("service_key", 128),
        is_scoped=_is_scoped(node.text("__key__")),
        deadline_s=(_number(node, "deadline_ms") or 20) / 1_000,
        flags=node.texts("flags", 128),
        cookie=node.token("cookie") or "canary_id",
        cookie_attributes=_cookie_attributes(node),
        user_id_header=node.token("user_id_header", lower=True) or "x-user-id",
        user_id_hash_key=node.text("user_id_hash_key").encode(),
        label_stable=node.yes("label_stable"),
        response_headers=node.yes("response_headers"),
        declared=_declared(node),
    )
    complaints = [*node.complaints, *_baseline_complaints(config)]
    if not complaints:
        return config
    return Config(complaints=tuple(complaints))


def _is_scoped(key: str) -> bool:
    """Whether the instance belongs to one route or service: "plugins:name:route:service:…"."""
    parts = key.split(":")
    return len(parts) > 3 and bool(parts[2] or parts[3])


def _number(node: Node, name: str) -> float | None:
    value = node.get(name)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    node.complain(name, f"give a number, not {value!r}")
    return None


def _cookie_attributes(node: Node) -> str:
    max_age_s = _number(node, "cookie_max_age_s")
    attributes = f"; Path=/; Max-Age={31_536_000 if max_age_s is None else int(max_age_s)}"
    return (
        attributes + "; HttpOnly; SameSite=Lax" + ("; Secure" if node.yes("cookie_secure") else "")
    )


def _declared(node: Node) -> dict[str, Any]:
    """The baseline's document without the service key; {} if nothing is declared."""
    rules = [*_rules(node, "header"), *_rules(node, "cookie")]
    ips = list(node.texts("whitelisted_ips"))
    percentage = node.get("percentage")
    if percentage is None and not rules and not ips:
        return {}
    host = node.text("upstream_host_header", 255)
    upstream = node.text("canary_upstream", 255) or host
    if not upstream:
        node.complain(
            "upstream_host_header",
            "say where the canary is: give upstream_host_header or canary_upstream",
        )
    return {
        "versions": [
            {
                "version": CANARY,
                "status": "canary",
                "backend": {"upstream": upstream, "host_header": host},
            }
        ],
        "release": {
            "id": BASELINE_ID,
            "version": CANARY,
            "status": "in-progress",
            "percentage": percentage or 0,
            "salt": node.text("salt", 128),
        },
        "rules": rules,
        "whitelist": {"ips": ips},
        "bucketing": {
            "hash_on": _hash_on(node),
            "anonymous": node.text("anonymous") or "sticky-cookie",
            "cookie": node.text("cookie") or "canary_id",
        },
        "identity": {"user_id_header": node.text("user_id_header") or "x-user-id"},
    }


def _rules(node: Node, source: str) -> list[dict[str, Any]]:
    rules = []
    for index, part in enumerate(node.nodes(f"whitelisted_{source}s", unique="")):
        name = part.text("name", 128)
        rules.append(
            {
                # Numbered, for the same header may be listed with several values.
                "name": f"whitelisted {source} {name} ({index + 1})",
                "source": source,
                "key": name,
                "exact": _as_written(part.get("value")),
                "variant": "canary",
            }
        )
    return rules


def _as_written(value: Any) -> str:
    """YAML's true and 5 as the text that a client sends."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Kong's JSON knows no integers
    return str(value)


def _hash_on(node: Node) -> list[dict[str, str]]:
    keys = []
    for text in node.texts("hash_on", 160):
        source, _, key = text.partition(":")
        keys.append({"source": source, "key": key} if key else {"source": source})
    return keys


def _named(declared: Mapping[str, Any], service_key: str) -> dict[str, Any]:
    """The canonical document for a service key, which is also the salt unless one is given."""
    release = dict(declared["release"])
    release["salt"] = release["salt"] or service_key
    found = parse.policy({**declared, "service_key": service_key, "release": release})
    return parse.document(found)


def _baseline_complaints(config: Config) -> list[str]:
    try:
        config.baseline(config.service_key or "any")
    except InvalidPolicy as error:
        rules = config.declared.get("rules", [])
        return [_in_config_words(complaint, rules) for complaint in error.complaints]
    return []


# Where a field of the config ended up in the baseline; complaints are told in the config's words.
_WORDS = {
    "release.percentage": "percentage",
    "release.salt": "salt",
    "whitelist.ips": "whitelisted_ips",
    "bucketing.hash_on": "hash_on",
    "bucketing.anonymous": "anonymous",
    "bucketing.cookie": "cookie",
    "identity.user_id_header": "user_id_header",
    "versions[0].backend.upstream": "canary_upstream",
    "versions[0].backend.host_header": "upstream_host_header",
}


_RULE = re.compile(r"rules\[(\d+)\](\.key|\.exact)?")
_RULE_WORDS = {".key": ".name", ".exact": ".value"}


def _in_config_words(complaint: str, rules: Sequence[Mapping[str, Any]]) -> str:
    found = _RULE.match(complaint)
    if found:
        index = int(found[1])
        source = rules[index]["source"]
        first = next(i for i, rule in enumerate(rules) if rule["source"] == source)
        field = _RULE_WORDS.get(found[2], "")
        return f"whitelisted_{source}s[{index - first}]{field}{complaint[found.end() :]}"
    for ours, theirs in _WORDS.items():
        if complaint.startswith(ours):
            return theirs + complaint.removeprefix(ours)
    return complaint
