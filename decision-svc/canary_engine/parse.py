"""Plain documents to policies and back; a policy is judged whole, every complaint at once."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from hashlib import sha256
from typing import Any

import re2

from canary_engine import model
from canary_engine.errors import InvalidPolicy
from canary_engine.model import (
    BUCKETS,
    DEFAULT_OVERRIDE_COOKIE,
    DEFAULT_OVERRIDE_HEADER,
    Anonymous,
    ApiVersion,
    Approval,
    ApprovalRules,
    ApprovedMove,
    Backend,
    Bucketing,
    Compatibility,
    CompatibilityRule,
    Criteria,
    DueRollback,
    Flag,
    Guards,
    HashKey,
    Identity,
    Overrides,
    Policy,
    Registered,
    Release,
    ReleaseStatus,
    RevokedOverride,
    Rule,
    Segment,
    Shadow,
    Source,
    Strategy,
    Tick,
    Variant,
    Version,
    VersionStatus,
    Whitelist,
)
from canary_engine.network import network_range
from canary_engine.plan_reading import read_freeze, read_plan
from canary_engine.reading import MAX_NAME, Node

MAX_PATTERN = 1_000
_MAX_REVISION = 2**63 - 1
_SHARES = frozenset({"share", "above", "weight", "max_weight", "control"})
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+\Z")
_NEVER_READ = {
    "authorization": "authorization never leaves the gateway",
    "proxy-authorization": "proxy-authorization never leaves the gateway",
    "cookie": "the whole cookie header never leaves the gateway; use source cookie",
}


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


def pattern_options() -> re2.Options:
    """How patterns are compiled: quietly, and with bounded memory."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    return options


def _policy(node: Node) -> Policy:
    found = Policy(
        service_key=node.name("service_key"),
        revision=node.whole("revision", 0, _MAX_REVISION),
        versions=tuple(map(_version, node.nodes("versions", "version"))),
        release=_release(part) if (part := node.node("release")) else None,
        rules=tuple(map(_rule, node.nodes("rules"))),
        compatibility=_compatibility(node.node("compatibility")),
        whitelist=_whitelist(node.node("whitelist")),
        segments=tuple(map(_segment, node.nodes("segments"))),
        flags=tuple(map(_flag, node.nodes("flags"))),
        bucketing=_bucketing(node.node("bucketing")),
        identity=_identity(node.node("identity")),
        membership_epoch=node.whole("membership_epoch", 0, _MAX_REVISION),
        guards=_guards(node.node("guards")),
        approvals=tuple(map(_approval, node.nodes("approvals", "id"))),
        overrides=_overrides(node.node("overrides")),
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


def _version(node: Node) -> Version:
    found = Version(
        version=node.name("version"),
        build_number=node.text("build_number", MAX_NAME),
        git_commit=node.text("git_commit", MAX_NAME),
        build_date=node.time("build_date"),
        status=node.word("status", VersionStatus, VersionStatus.REGISTERED),
        release_date=node.time("release_date"),
        rollback_date=node.time("rollback_date"),
        backend=_backend(part) if (part := node.node("backend")) else None,
    )
    node.finish()
    return found


def _backend(node: Node) -> Backend | None:
    found = Backend(
        upstream=node.text("upstream", 255),
        host=node.text("host", 255),
        port=node.whole("port", 1, 65_535),
        host_header=node.text("host_header", 255),
    )
    node.finish()
    if found.upstream and (found.host or found.port):
        node.complain("upstream", "give either an upstream or a host and port, not both")
    elif bool(found.host) != bool(found.port):
        node.complain("host", "a host needs a port, and a port a host")
    for name in ("upstream", "host", "host_header"):
        if any(c.isspace() or not c.isprintable() for c in getattr(found, name)):
            node.complain(name, "give a host name without blanks")
    return None if found == Backend() else found


def _release(node: Node) -> Release:
    found = Release(
        id=node.name("id"),
        version=node.name("version"),
        status=node.word("status", ReleaseStatus),
        share=node.share("percentage") or 0,
        strategy=node.word("strategy", Strategy, Strategy.COMBINED),
        salt=node.name("salt"),
        halted=node.yes("halted"),
        started_at=node.time("started_at"),
        ended_at=node.time("ended_at"),
        control=node.share("control") or 0,
        weight_since=node.time("weight_since"),
        judged_since=node.time("judged_since"),
        ticks=tuple(tick for part in node.nodes("ticks", "item") if (tick := _tick(part))),
        due_rollback=_due_rollback(part) if (part := node.node("due_rollback")) else None,
        fence=node.whole("fence", 0, _MAX_REVISION),
    )
    node.finish()
    return found


def _tick(node: Node) -> Tick | None:
    item, by, at = node.name("item"), node.name("by"), node.time("at")
    node.finish()
    if at is None:
        node.complain("at", "say when")
        return None
    return Tick(item=item, by=by, at=at)


def _due_rollback(node: Node) -> DueRollback | None:
    why, at, due = node.text("why"), node.time("at"), node.time("due")
    node.finish()
    if at is None or due is None:
        node.complain("due", "say at which time it was found, and when it is due")
        return None
    return DueRollback(why=why, at=at, due=due)


def _rule(node: Node) -> Rule:
    source = node.word("source", Source)
    found = Rule(
        name=node.name(),
        source=source,
        key=_key(node, source),
        exact=node.text("exact") or None,
        one_of=node.texts("one_of"),
        pattern=node.text("pattern", MAX_PATTERN) or None,
        cidrs=node.texts("cidrs"),
        variant=node.word("variant", Variant),
    )
    node.finish()
    ways = [name for name in ("exact", "one_of", "pattern", "cidrs") if getattr(found, name)]
    if len(ways) != 1:
        node.complain("", "give exactly one of exact, one_of, pattern, cidrs" + _and_not(ways))
    if found.cidrs and source is not Source.IP:
        node.complain("cidrs", f"networks fit source ip, not {source}")
    if found.pattern is not None:
        _check_pattern(node, found.pattern)
    _check_networks(node, "cidrs", found.cidrs)
    if source is Source.IP:
        _check_networks(node, "one_of", found.one_of)
        _check_networks(node, "exact", (found.exact,) if found.exact else ())
    return found


def _and_not(ways: list[str]) -> str:
    return f", not {' and '.join(ways)}" if ways else ""


def _key(node: Node, source: Source) -> str:
    key = node.token("key", lower=source is Source.HEADER)
    if source in (Source.HEADER, Source.COOKIE):
        if not key:
            node.complain("key", f"name the {source}")
        if source is Source.HEADER and key in _NEVER_READ:
            node.complain("key", _NEVER_READ[key])
    elif key:
        node.complain("key", f"source {source} has no key")
    return key


def _header(node: Node, name: str) -> str:
    value = node.token(name, lower=True)
    if value in _NEVER_READ:
        node.complain(name, _NEVER_READ[value])
    return value


def _check_pattern(node: Node, pattern: str) -> None:
    try:
        re2.compile(pattern, pattern_options())
    except re2.error as error:
        reason = error.args[0] if error.args else "refused"
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        node.complain("pattern", f"{pattern!r} is not an RE2 pattern: {text}")


def _check_networks(node: Node, name: str, networks: tuple[str, ...]) -> None:
    for index, network in enumerate(networks):
        try:
            network_range(network)
        except ValueError as error:
            node.complain(name if name == "exact" else f"{name}[{index}]", str(error))


def _compatibility(node: Node | None) -> Compatibility:
    if node is None:
        return Compatibility()
    rules = []
    for part in node.nodes("rules", unique=""):
        rules.append(
            CompatibilityRule(
                source=part.name("from"),
                to=part.name("to"),
                compatible=part.yes("compatible"),
                notes=part.text("notes"),
            )
        )
        part.finish()
    taken: set[tuple[str, str]] = set()
    for index, rule in enumerate(rules):
        if (rule.source, rule.to) in taken:
            node.complain(f"rules[{index}]", f"{rule.source} to {rule.to} has a rule already")
        taken.add((rule.source, rule.to))
    found = Compatibility(
        header=_header(node, "header"),
        rules=tuple(rules),
        path_prefix=node.text("path_prefix", 255),
        media_type=node.text("media_type", 255).lower(),
        api_versions=tuple(map(_api_version, node.nodes("api_versions", "version"))),
    )
    if found.path_prefix and not (found.path_prefix[0] == found.path_prefix[-1] == "/"):
        node.complain("path_prefix", 'begin and end with a slash, as in "/api/"')
    if found.media_type and not _MEDIA_TYPE.match(found.media_type):
        node.complain("media_type", 'give type/subtype, as in "application/vnd.shop"')
    node.finish()
    return found


def _api_version(node: Node) -> ApiVersion:
    found = ApiVersion(
        version=node.name("version"),
        deprecated=node.yes("deprecated"),
        deprecated_at=node.time("deprecated_at"),
        sunset_date=node.time("sunset_date"),
        breaking_changes=node.texts("breaking_changes"),
        migration_guide=node.text("migration_guide", 2_000),
    )
    if found.deprecated_at and not found.deprecated:
        node.complain("deprecated_at", "say deprecated: true, too")
    if found.deprecated_at and found.sunset_date and found.sunset_date < found.deprecated_at:
        node.complain("sunset_date", "give no time before deprecated_at")
    if any(c.isspace() or c in '<>"' or not c.isprintable() for c in found.migration_guide):
        node.complain("migration_guide", "give a URL without blanks, quotes and angle brackets")
    node.finish()
    return found


def _guards(node: Node | None) -> Guards:
    if node is None:
        return Guards()
    rules = ApprovalRules()
    part = node.node("approvals")
    if part is not None:
        rules = ApprovalRules(
            start=part.yes("start"), promote=part.yes("promote"), above=part.share("above")
        )
        part.finish()
    found = Guards(approvals=rules, freezes=tuple(map(read_freeze, node.nodes("freezes"))))
    node.finish()
    return found


def _approval(node: Node) -> Approval:
    epoch = datetime.fromtimestamp(0, UTC)
    for name in ("at", "expires_at"):
        if not node.has(name):
            node.complain(name, "give a time")
    found = Approval(
        id=node.name("id"),
        move=node.word("move", ApprovedMove),
        version=node.name("version"),
        share=node.share("percentage") or 0,
        by=node.name("by"),
        at=node.time("at") or epoch,
        expires_at=node.time("expires_at") or epoch,
    )
    node.finish()
    return found


def _overrides(node: Node | None) -> Overrides:
    if node is None:
        return Overrides()
    revoked = []
    for part in node.nodes("revoked", "id"):
        id_, expires_at = part.name("id"), part.time("expires_at")
        if expires_at is None:
            part.complain("expires_at", "give a time")
        else:
            revoked.append(RevokedOverride(id=id_, expires_at=expires_at))
        part.finish()
    found = Overrides(
        public_key=node.text("public_key", MAX_NAME),
        header=_header(node, "header") or DEFAULT_OVERRIDE_HEADER,
        cookie=node.token("cookie") or DEFAULT_OVERRIDE_COOKIE,
        revoked=tuple(revoked),
    )
    if found.public_key and not _is_key(found.public_key):
        node.complain("public_key", "give the 32 bytes of an Ed25519 public key as base64")
    node.finish()
    return found


def _is_key(text: str) -> bool:
    try:
        return len(b64decode(text, validate=True)) == 32
    except ValueError:
        return False


def _whitelist(node: Node | None) -> Whitelist:
    if node is None:
        return Whitelist()
    found = Whitelist(
        ips=node.texts("ips"), users=node.texts("users"), consumers=node.texts("consumers")
    )
    node.finish()
    _check_networks(node, "ips", found.ips)
    return found


def _segment(node: Node) -> Segment:
    found = Segment(
        name=node.name(),
        canary_eligible=node.yes("canary_eligible"),
        share=node.share("percentage"),
        listed=node.yes("listed"),
        criteria=_criteria(part) if (part := node.node("criteria")) else None,
    )
    node.finish()
    if not found.canary_eligible and found.share is not None:
        node.complain("percentage", "a protected segment protects all its members")
    if found.criteria is None and not found.listed:
        node.complain("criteria", "say who is in it: criteria, or listed: true")
    return found


def _criteria(node: Node) -> Criteria | None:
    found = Criteria(
        tiers=node.texts("tiers", MAX_NAME),
        registered=_registered(part) if (part := node.node("registered")) else None,
        regions=node.texts("regions", MAX_NAME),
        tags=node.texts("tags", MAX_NAME),
        custom=node.table("custom"),
    )
    node.finish()
    return None if found == Criteria() else found


def _registered(node: Node) -> Registered:
    found = Registered(
        last_days=node.whole("last_days", 1, 36_500),
        start=node.time("start"),
        end=node.time("end"),
    )
    node.finish()
    if bool(found.last_days) == bool(found.start or found.end):
        node.complain("", "give either last_days, or start and end")
    if found.start and found.end and found.start >= found.end:
        node.complain("end", "the end must come after the start")
    return found


def _flag(node: Node) -> Flag:
    found = Flag(
        name=node.name(),
        enabled=node.yes("enabled"),
        share=node.share("percentage") or 0,
        users=node.texts("users", MAX_NAME),
        segments=node.texts("segments", MAX_NAME),
    )
    node.finish()
    return found


def _bucketing(node: Node | None) -> Bucketing:
    if node is None:
        return Bucketing()
    keys = []
    for part in node.nodes("hash_on", unique=""):
        source = part.word("source", Source)
        keys.append(HashKey(source=source, key=_key(part, source)))
        part.finish()
        if source is Source.PATH:
            part.complain("source", "a path does not tell users apart")
    found = Bucketing(
        hash_on=tuple(keys),
        anonymous=node.word("anonymous", Anonymous, Anonymous.STICKY_COOKIE),
        cookie=node.token("cookie") or model.DEFAULT_COOKIE,
    )
    node.finish()
    return found


def _identity(node: Node | None) -> Identity:
    if node is None:
        return Identity()
    headers = node.table("attribute_headers")
    for name, header in headers.items():
        holder = Node({name: header}, node.where("attribute_headers"), node.complaints)
        headers[name] = _header(holder, name)
    found = Identity(
        user_id_header=_header(node, "user_id_header") or model.DEFAULT_USER_ID_HEADER,
        attribute_headers=headers,
        flags_header=_header(node, "flags_header"),
    )
    node.finish()
    return found


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
