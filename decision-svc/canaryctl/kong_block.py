"""A service key as Kong's declarative config: service, route, plugin and upstreams."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from canary_engine.model import (
    DEFAULT_COOKIE,
    DEFAULT_USER_ID_HEADER,
    Backend,
    Bucketing,
    Policy,
    Rule,
    Source,
    Variant,
    Version,
    VersionStatus,
)
from canary_engine.parse import percentage
from canary_istio.matches import LeftOut
from canary_istio.routes import share_of, taking_traffic

from canaryctl.errors import Misuse

PLUGIN = "canary-release"
FORMAT_VERSION = "3.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What Kong must be told and no policy says. ``targets`` are HOST:PORT by upstream."""

    url: str
    paths: Sequence[str]
    strip_path: bool = False
    targets: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """The service's host. Raises Misuse if Kong could not choose another in its place."""
        host = _host(self.url)
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host
        raise Misuse(
            f"--url: {host} is an address: Kong answers 500 when a plugin chooses an upstream for "
            "a service whose host is one",
            next_step="name the service's host, and give its address with "
            f"--target NAME={host}:PORT",
        )

    @property
    def port(self) -> int:
        """The port of the service's host."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The document, and what of the policy its baseline lacks."""

    document: dict[str, Any]
    left_out: tuple[LeftOut, ...]

    @property
    def unprotected(self) -> tuple[LeftOut, ...]:
        """What would have kept somebody on stable."""
        return tuple(part for part in self.left_out if part.protects)


def block(policy: Policy, place: Place, *, with_baseline: bool) -> Block:
    """The block of a service key. Raises Misuse.

    With a baseline the gateway gives the canary what the policy gives it now also after the
    release has ended; without one it gives everybody stable then.
    """
    key = policy.service_key
    config, left_out = _reading(policy), tuple[LeftOut, ...]()
    if with_baseline:
        baseline, left_out = _baseline(policy)
        config |= baseline
    route = {"name": f"{key}-route", "service": key, "paths": list(place.paths)}
    document = {
        "_format_version": FORMAT_VERSION,
        "services": [{"name": key, "url": place.url}],
        "routes": [{**route, "strip_path": place.strip_path}],
        "plugins": [{"name": PLUGIN, "service": key, "config": config}],
        "upstreams": list(_upstreams(policy, place)),
    }
    return Block(document={k: v for k, v in document.items() if v}, left_out=left_out)


def _host(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misuse(f"--url: {url!r} is none; write e.g. http://orders:8080")
    return parts.hostname


def _upstreams(policy: Policy, place: Place) -> Iterator[dict[str, Any]]:
    """An upstream for each version that has one, and for the service's host if it has targets."""
    named = [v.backend.upstream for v in _served(policy) if v.backend and v.backend.upstream]
    host = place.host
    if host in place.targets:
        named.insert(0, host)
    if unknown := sorted(place.targets.keys() - set(named)):
        known = ", ".join([host, *named])
        raise Misuse(*(f"--target: no upstream is called {name}, only {known}" for name in unknown))
    for name in dict.fromkeys(named):
        targets = place.targets.get(name) or [f"{name}:{place.port}"]
        yield {"name": name, "targets": [{"target": target} for target in targets]}


def _served(policy: Policy) -> list[Version]:
    """The versions that a request may go to, stable first."""
    stable = policy.version_with(VersionStatus.STABLE)
    return [version for version in (stable, _canary(policy)) if version is not None]


def _canary(policy: Policy) -> Version | None:
    release = policy.release
    if release is None or not release.is_in_force:
        return policy.version_with(VersionStatus.CANARY)
    return policy.version_named(release.version)


def _reading(policy: Policy) -> dict[str, Any]:
    """How the plugin tells clients apart, where it is not as by default."""
    keys = policy.bucketing.hash_on
    said = {
        "hash_on": [f"{key.source}:{key.key}" if key.key else str(key.source) for key in keys],
        "anonymous": _unless(policy.bucketing.anonymous, Bucketing().anonymous),
        "cookie": _unless(policy.bucketing.cookie, DEFAULT_COOKIE),
        "user_id_header": _unless(policy.identity.user_id_header, DEFAULT_USER_ID_HEADER),
    }
    return {name: value for name, value in said.items() if value}


def _unless(value: str, default: str) -> str:
    return "" if value == default else str(value)


def _baseline(policy: Policy) -> tuple[dict[str, Any], tuple[LeftOut, ...]]:
    """What the plugin's own config can say of the policy now in force, and what it cannot."""
    release, canary = taking_traffic(policy), _canary(policy)
    if release is None or canary is None:
        raise Misuse(
            "--baseline: no release takes traffic, so there is nothing to declare",
            next_step="leave --baseline out: the gateway then gives everybody stable",
        )
    rules = [rule for rule in policy.rules if _is_said(rule)]
    config = {
        "percentage": percentage(share_of(release)),
        **_where(canary, policy.service_key),
        "salt": release.salt,
        "whitelisted_ips": list(policy.whitelist.ips),
        "whitelisted_cookies": list(_pairs(rules, Source.COOKIE)),
        "whitelisted_headers": list(_pairs(rules, Source.HEADER)),
    }
    said = {name: value for name, value in config.items() if value not in ("", [])}
    return said, tuple(_unsaid(policy))


def _where(canary: Version, key: str) -> dict[str, Any]:
    backend = canary.backend or Backend()
    if not backend.upstream:
        raise Misuse(
            f"--baseline: version {canary.version} has no upstream that the plugin could name",
            next_step=f"register it with one: canaryctl version register {key} "
            f"{canary.version} --upstream NAME",
        )
    return {"canary_upstream": backend.upstream, "upstream_host_header": backend.host_header}


def _is_said(rule: Rule) -> bool:
    return (
        rule.variant is Variant.CANARY
        and rule.source in (Source.HEADER, Source.COOKIE)
        and rule.pattern is None
    )


def _pairs(rules: list[Rule], source: Source) -> Iterator[dict[str, str]]:
    for rule in rules:
        for value in (rule.exact,) if rule.exact is not None else rule.one_of:
            if rule.source is source:
                yield {"name": rule.key, "value": value}


def _unsaid(policy: Policy) -> Iterator[LeftOut]:
    why = "a baseline has none"
    for rule in policy.rules:
        if not _is_said(rule):
            is_stable = rule.variant is Variant.STABLE
            yield LeftOut(f"rule {rule.name}", "a baseline has no such rule", protects=is_stable)
    if policy.compatibility.rules:
        yield LeftOut("compatibility rules", why, protects=True)
    if policy.whitelist.users or policy.whitelist.consumers:
        yield LeftOut("whitelisted users and consumers", why)
    for segment in policy.segments:
        yield LeftOut(f"segment {segment.name}", why, protects=not segment.canary_eligible)
    for flag in policy.flags:
        yield LeftOut(f"flag {flag.name}", why)
