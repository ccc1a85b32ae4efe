"""Reads from documents who gets what: rules, whitelist, segments, flags, bucketing, identity."""

from __future__ import annotations

import re2

from canary_engine import model
from canary_engine.model import (
    Anonymous,
    Bucketing,
    Criteria,
    Flag,
    HashKey,
    Identity,
    Registered,
    Rule,
    Segment,
    Source,
    Variant,
    Whitelist,
)
from canary_engine.network import network_range
from canary_engine.pattern import pattern_options
from canary_engine.reading import MAX_NAME, NEVER_READ, Node

MAX_PATTERN = 1_000


def read_rule(node: Node) -> Rule:
    """A rule: one thing of a request, and who gets what by it."""
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
        if source is Source.HEADER and key in NEVER_READ:
            node.complain("key", NEVER_READ[key])
    elif key:
        node.complain("key", f"source {source} has no key")
    return key


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


def read_whitelist(node: Node | None) -> Whitelist:
    """Who always gets the canary."""
    if node is None:
        return Whitelist()
    found = Whitelist(
        ips=node.texts("ips"), users=node.texts("users"), consumers=node.texts("consumers")
    )
    node.finish()
    _check_networks(node, "ips", found.ips)
    return found


def read_segment(node: Node) -> Segment:
    """A segment: who is in it, and what that means."""
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


def read_flag(node: Node) -> Flag:
    """A flag."""
    found = Flag(
        name=node.name(),
        enabled=node.yes("enabled"),
        share=node.share("percentage") or 0,
        users=node.texts("users", MAX_NAME),
        segments=node.texts("segments", MAX_NAME),
    )
    node.finish()
    return found


def read_bucketing(node: Node | None) -> Bucketing:
    """By what users are told apart for the draw."""
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


def read_identity(node: Node | None) -> Identity:
    """Which headers say who somebody is."""
    if node is None:
        return Identity()
    headers = node.table("attribute_headers")
    for name, header in headers.items():
        holder = Node({name: header}, node.where("attribute_headers"), node.complaints)
        headers[name] = holder.header(name)
    found = Identity(
        user_id_header=node.header("user_id_header") or model.DEFAULT_USER_ID_HEADER,
        attribute_headers=headers,
        flags_header=node.header("flags_header"),
    )
    node.finish()
    return found
