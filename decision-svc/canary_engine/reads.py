"""What a decision under a policy reads from a request: a gateway sends no more than this."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from canary_engine import api_version
from canary_engine.model import (
    Anonymous,
    HashKey,
    Policy,
    Reads,
    Rule,
    Source,
    Strategy,
)

NOTHING = Reads()
_FLAGS = ("client_ip", "path", "consumer", "client_ip_for_overrides")


def hash_keys(policy: Policy) -> tuple[HashKey, ...]:
    """Where the hash key is looked for, the sticky cookie last."""
    keys = policy.bucketing.hash_on or (
        HashKey(source=Source.CONSUMER),
        HashKey(source=Source.HEADER, key=policy.identity.user_id_header),
    )
    if policy.bucketing.anonymous is Anonymous.STICKY_COOKIE:
        keys += (HashKey(source=Source.COOKIE, key=policy.bucketing.cookie),)
    return keys


def of(policy: Policy) -> Reads:
    """The reads of ``policy``; while no release takes traffic, what it takes to tell clients
    that their API version is deprecated.
    """
    others: set[tuple[Source, str]] = set()
    for_overrides: set[tuple[Source, str]] = set()
    if api_version.deprecations(policy.compatibility):
        others.update(api_version.places(policy.compatibility))
    release = policy.release
    if release is not None and release.is_in_force and not release.halted:
        others.update(_sources(policy))
        for_overrides.update(_of_overrides(policy))
    sources = others | for_overrides
    kinds = {source for source, _ in sources}
    found = Reads(
        headers=frozenset(key for source, key in sources if source is Source.HEADER and key),
        cookies=frozenset(key for source, key in sources if source is Source.COOKIE),
        client_ip=Source.IP in kinds,
        path=Source.PATH in kinds,
        consumer=Source.CONSUMER in kinds,
        client_ip_for_overrides=bool(for_overrides) and (Source.IP, "") not in others,
    )
    return found if policy.shadow is None else _both(found, of(policy.shadow.policy))


def _both(one: Reads, other: Reads) -> Reads:
    return Reads(
        headers=one.headers | other.headers,
        cookies=one.cookies | other.cookies,
        client_ip=one.client_ip or other.client_ip,
        path=one.path or other.path,
        consumer=one.consumer or other.consumer,
    )


def digest(reads: Reads) -> str:
    """A short name for exactly these reads."""
    lines = [
        *(f"header:{name}" for name in sorted(reads.headers)),
        *(f"cookie:{name}" for name in sorted(reads.cookies)),
        *(name for name in _FLAGS if getattr(reads, name)),
    ]
    return sha256("\n".join(lines).encode()).hexdigest()[:16]


def _sources(policy: Policy) -> Iterator[tuple[Source, str]]:
    assert policy.release is not None
    yield from map(_of_rule, policy.rules)
    if policy.compatibility.rules:
        yield from api_version.places(policy.compatibility)
    if policy.whitelist.ips:
        yield Source.IP, ""
    if policy.whitelist.consumers:
        yield Source.CONSUMER, ""
    if policy.whitelist.users:
        yield Source.HEADER, policy.identity.user_id_header
    strategy = policy.release.strategy
    has_segments = policy.segments and strategy in (Strategy.COMBINED, Strategy.USER_SEGMENT)
    has_flags = policy.flags and strategy in (Strategy.COMBINED, Strategy.FEATURE_FLAG)
    if has_segments or has_flags:
        yield Source.HEADER, policy.identity.user_id_header
        for header in policy.identity.attribute_headers.values():
            yield Source.HEADER, header
    if has_flags:
        yield Source.HEADER, policy.identity.flags_header
    if _has_shares(policy):
        for key in hash_keys(policy):
            yield key.source, key.key


def _of_overrides(policy: Policy) -> Iterator[tuple[Source, str]]:
    """Where a token may be, and what it may be bound to."""
    if not policy.overrides.public_key:
        return
    yield Source.HEADER, policy.overrides.header
    yield Source.COOKIE, policy.overrides.cookie
    yield Source.HEADER, policy.identity.user_id_header
    yield Source.IP, ""


def _of_rule(rule: Rule) -> tuple[Source, str]:
    return rule.source, rule.key


def _has_shares(policy: Policy) -> bool:
    """Whether any stage that takes part looks at a bucket."""
    assert policy.release is not None
    match policy.release.strategy:
        case Strategy.USER_SEGMENT:
            return any(segment.share is not None for segment in policy.segments)
        case Strategy.FEATURE_FLAG:
            return any(flag.share for flag in policy.flags)
        case _:
            return True
