"""Reads versions, releases and what is compatible with what from documents."""

from __future__ import annotations

import re

from canary_engine.model import (
    ApiVersion,
    Backend,
    Compatibility,
    CompatibilityRule,
    DueRollback,
    Release,
    ReleaseStatus,
    Strategy,
    Tick,
    Version,
    VersionStatus,
)
from canary_engine.reading import MAX_NAME, MAX_REVISION, Node

_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+\Z")


def read_version(node: Node) -> Version:
    """A version."""
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


def read_release(node: Node) -> Release:
    """A release."""
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
        fence=node.whole("fence", 0, MAX_REVISION),
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


def read_compatibility(node: Node | None) -> Compatibility:
    """Which versions get along, and where requests name theirs."""
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
        header=node.header("header"),
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
