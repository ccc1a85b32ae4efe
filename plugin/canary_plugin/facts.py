"""The facts of a request that may leave the gateway: what the policy in force reads, no more."""

from __future__ import annotations

import hmac

from canary_engine.model import Request

from canary_plugin.config import Config
from canary_plugin.deciders.protocol import Projection
from canary_plugin.gateway import Gateway, Headers

MAX_VALUE = 4_096
# Whatever the service asks for.
NEVER_SENT = ("authorization", "proxy-authorization", "cookie")


def gather(
    gateway: Gateway,
    headers: Headers,
    projection: Projection,
    config: Config,
    fallback_key: str,
) -> Request:
    """The facts that are read. Asks Kong only for those that are not headers."""
    reads = projection.reads
    chosen = {
        name: value[:MAX_VALUE]
        for name in reads.headers
        if (value := headers.get(name)) is not None and name not in NEVER_SENT
    }
    if config.user_id_hash_key:
        # A policy may know users by another header than the config does.
        for name in {config.user_id_header, projection.user_id_header} & chosen.keys():
            chosen[name] = hashed(config.user_id_hash_key, chosen[name])
    baked = cookies(headers.get("cookie") or "", reads.cookies) if reads.cookies else {}
    reads_ip = reads.client_ip
    if reads.client_ip_for_overrides:
        # Nearly nobody carries an override, and asking Kong costs as much as all of this.
        reads_ip = projection.override_header in chosen or projection.override_cookie in baked
    return Request(
        headers=chosen,
        cookies=baked,
        client_ip=gateway.client_ip() if reads_ip else "",
        path=gateway.path()[:MAX_VALUE] if reads.path else "",
        consumer=gateway.consumer() if reads.consumer else "",
        flags=config.flags,
        fallback_key=fallback_key,
    )


def cookies(header: str, wanted: frozenset[str]) -> dict[str, str]:
    """The wanted cookies; what is malformed is passed over, of several the first counts."""
    found: dict[str, str] = {}
    for pair in header.split(";"):
        name, _, value = pair.partition("=")
        name = name.strip()
        if name in wanted and name not in found:
            found[name] = value.strip().strip('"')[:MAX_VALUE]
    return found


def hashed(key: bytes, user: str) -> str:
    """A user id as HMAC-SHA-256 under ``key``, hexadecimal: what leaves instead of it."""
    return hmac.digest(key, user.encode("utf-8", "surrogateescape"), "sha256").hex()
