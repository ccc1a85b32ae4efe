"""Plain documents to policies and back; a policy is judged whole, every complaint at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from hashlib import sha256
from typing import Any

from canary_engine.errors import InvalidPolicy
from canary_engine.guard_reading import read_approval, read_guards, read_overrides
from canary_engine.model import (
    BUCKETS,
    CompatibilityRule,
    Policy,
    Shadow,
    VersionStatus,
)
from canary_engine.plan_reading import read_plan
from canary_engine.reading import MAX_REVISION, Node
from canary_engine.release_reading import read_compatibility, read_release, read_version
from canary_engine.rule_reading import (
    read_bucketing,
    read_flag,
    read_identity,
    read_rule,
    read_segment,
    read_whitelist,
)

_SHARES = frozenset({"share", "above", "weight", "max_weight", "control"})


def policy(document: Mapping[str, Any]) -> Policy:
    """The policy that ``document`` says. Raises InvalidPolicy with every complaint."""
    found = fields_of(document)
    check(found)
    return found


def check(policy: Policy) -> None:
    """Raise InvalidPolicy if the policy does not hold together."""
    complaints = _contradictions(policy)
    if complaints:
        raise InvalidPolicy(complaints)


def fields_of(document: Mapping[str, Any]) -> Policy:
    """The same, of a document that need not hold together: it may be a part of a policy."""
    complaints: list[str] = []
    if not isinstance(document, Mapping):
        raise InvalidPolicy(["document: give a mapping"])
    found = _policy(Node(document, "", complaints))
    if complaints:
        raise InvalidPolicy(complaints)
    return found


def document(value: Any) -> dict[str, Any]:
    """The document of a policy or of a part of it; what equals its default is left out.

    ``parse.policy(parse.document(p)) == p``.
    """
    found: dict[str, Any] = {}
    kind: Any = type(value)
    for name, written, default in _fields_of(kind):
        item = getattr(value, name)
        if item is None or item == default or item in ((), {}):
            continue
        plain = _plain(name, item)
        # A part that says nothing is left out as a whole.
        if plain != {}:
            found[written] = plain
    return found


def canonical(document: Any) -> bytes:
    """A document, or a part of one, as bytes that are equal where these are."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def content_hash(document: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical form, hexadecimal."""
    return sha256(canonical(document)).hexdigest()


def percentage(share: int) -> float | int:
    """A share of BUCKETS as people write it: 5, 0.001."""
    return share // 1_000 if share % 1_000 == 0 else share / 1_000


def _policy(node: Node) -> Policy:
    found = Policy(
        service_key=node.name("service_key"),
        revision=node.whole("revision", 0, MAX_REVISION),
        versions=tuple(map(read_version, node.nodes("versions", "version"))),
        release=read_release(part) if (part := node.node("release")) else None,
        rules=tuple(map(read_rule, node.nodes("rules"))),
        compatibility=read_compatibility(node.node("compatibility")),
        whitelist=read_whitelist(node.node("whitelist")),
        segments=tuple(map(read_segment, node.nodes("segments"))),
        flags=tuple(map(read_flag, node.nodes("flags"))),
        bucketing=read_bucketing(node.node("bucketing")),
        identity=read_identity(node.node("identity")),
        membership_epoch=node.whole("membership_epoch", 0, MAX_REVISION),
        guards=read_guards(node.node("guards")),
        approvals=tuple(map(read_approval, node.nodes("approvals", "id"))),
        overrides=read_overrides(node.node("overrides")),
        plan=read_plan(part) if (part := node.node("plan")) else None,
        shadow=_shadow(node, part) if (part := node.node("shadow")) else None,
    )
    node.finish()
    return found


def _shadow(node: Node, shadow: Node) -> Shadow | None:
    part, expires_at = shadow.node("policy"), shadow.time("expires_at")
    if part is None or expires_at is None:
        shadow.complain("", "give a policy and expires_at")
        return None
    if part.has("shadow"):
        part.complain("shadow", "a shadow has none of its own: leave it out")
        return None
    found = _policy(part)
    if found.service_key != node.value.get("service_key"):
        part.complain("service_key", "give that of the policy whose shadow it is")
    shadow.finish()
    return Shadow(policy=found, expires_at=expires_at)


def _contradictions(policy: Policy) -> list[str]:
    """What no single field shows."""
    complaints = []
    for status in (VersionStatus.STABLE, VersionStatus.CANARY):
        names = [v.version for v in policy.versions if v.status is status]
        if len(names) > 1:
            complaints.append(f"versions: only one may be {status}, not {' and '.join(names)}")
    release = policy.release
    if release is not None and release.is_in_force:
        version = policy.version_named(release.version)
        if version is None:
            complaints.append(f"release.version: {release.version!r} is not registered")
        elif version.status is not VersionStatus.CANARY:
            complaints.append(f"release.version: {release.version!r} must have status canary")
    segments = {segment.name for segment in policy.segments}
    for index, flag in enumerate(policy.flags):
        for name in sorted(set(flag.segments) - segments):
            complaints.append(f"flags[{index}].segments: there is no segment {name!r}")
    if policy.shadow is not None:
        complaints += (f"shadow.policy.{line}" for line in _contradictions(policy.shadow.policy))
    return complaints


def _plain(name: str, item: Any) -> Any:
    if type(item) is str:
        return item
    if name in _SHARES and type(item) is int:
        return percentage(item)
    if isinstance(item, StrEnum):
        return str(item)
    if isinstance(item, datetime):
        return item.isoformat().replace("+00:00", "Z")
    if is_dataclass(item):
        return document(item)
    if isinstance(item, tuple | frozenset):
        return [_plain("", part) for part in item]
    return dict(item) if isinstance(item, Mapping) else item


@cache
def _fields_of(kind: type[Any]) -> tuple[tuple[str, str, Any], ...]:
    """Each field of a part of a policy: its name, its name in documents, its default."""
    return tuple(
        (field.name, _document_name(kind, field.name), _default(field)) for field in fields(kind)
    )


def _document_name(kind: type[Any], name: str) -> str:
    if name == "share":
        return "percentage"
    return "from" if kind is CompatibilityRule and name == "source" else name


def _default(field: Field[Any]) -> Any:
    return field.default if field.default is not MISSING else None


assert BUCKETS == 100_000, "percentages are written in steps of 0.001"
