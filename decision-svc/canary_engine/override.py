"""Overrides: signed, expiring tokens by which testers force a variant.

A token is a JWT signed with Ed25519, and nothing else is believed: not another algorithm, not a
token for another service key, not one with claims that are unknown here (they might restrict it).
A policy holds the public key only. Verifying takes some tenths of a millisecond, so what came
lately is remembered, and what has not the shape of a token is not verified at all.

Whether a token is genuine does not depend on the moment; whether it has expired does, so that is
asked for each request, with its own ``now``.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from canary_engine.model import Variant
from canary_engine.network import address_number, network_range

ALGORITHM = "EdDSA"
MAX_TOKEN = 2_048
MAX_VALID_S = 30 * 86_400
_REMEMBERED = 4_096
# The last character of 64 bytes has four bits to spare: with any of them set it would be the same
# signature in another writing.
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{85}[AQgw]\Z")
_LAST_SECOND = 253_402_300_799
_CLAIMS = frozenset({"aud", "exp", "jti", "variant", "user", "cidr"})
_UNTIMED: Any = {
    "require": ["aud", "exp", "jti"],
    "strict_aud": True,
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class Override(NamedTuple):
    """A genuine token: what it forces, until when, and for whom. ``network`` is ``cidr`` as the
    numbers of its first and last address.
    """

    id: str
    variant: Variant
    expires_s: int
    user: str = ""
    cidr: str = ""
    network: tuple[int, int] | None = None

    @property
    def expires_at(self) -> datetime:
        """The first moment at which it is worth nothing."""
        return datetime.fromtimestamp(self.expires_s, UTC)


Judged = Override | str
"""A genuine token, or why it is none."""


def judged(token: str, public_key: str, service_key: str) -> Judged:
    """What a token says, if it was signed for ``service_key`` with the key of ``public_key``."""
    if len(token) > MAX_TOKEN or _SHAPE.match(token) is None:
        return "it has not the shape of a token"
    return _verified(token, public_key, service_key)


def objection(found: Override, user: str, address: str, now: datetime) -> str:
    """Why a genuine token does not count for this request; "" if it does."""
    if now.timestamp() >= found.expires_s:
        return f"override {found.id} expired at {found.expires_at:%Y-%m-%dT%H:%M:%SZ}"
    if found.user and found.user != user:
        return f"override {found.id} is for another user"
    if found.network is not None:
        first, last = found.network
        if not first <= address_number(address) <= last:
            return f"override {found.id} is for addresses in {found.cidr}"
    return ""


def claims(
    service_key: str, id_: str, variant: Variant, expires_s: int, user: str = "", cidr: str = ""
) -> dict[str, Any]:
    """What is signed for an override. Raises ValueError for a ``cidr`` that is none."""
    if cidr:
        network_range(cidr)
    said = {
        "aud": service_key,
        "exp": expires_s,
        "jti": id_,
        "variant": str(variant),
        "user": user,
        "cidr": cidr,
    }
    return {name: value for name, value in said.items() if value != ""}


@lru_cache(maxsize=_REMEMBERED)
def _verified(token: str, public_key: str, service_key: str) -> Judged:
    try:
        key = _key(public_key)
        said = jwt.decode(
            token, key, algorithms=[ALGORITHM], audience=service_key, options=_UNTIMED
        )
        return _override(said)
    except jwt.InvalidAudienceError:
        return "it is for another service key"
    except jwt.InvalidSignatureError:
        return "it was not signed with the key that this policy believes"
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        return "it is not a token for an override"


@lru_cache(maxsize=_REMEMBERED)
def _key(public_key: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(b64decode(public_key))


def _override(said: Mapping[str, Any]) -> Override:
    expires_s, texts = said["exp"], [said.get(name, "") for name in ("jti", "user", "cidr")]
    if type(expires_s) is not int or not 0 < expires_s <= _LAST_SECOND:
        raise ValueError("exp")
    if not said.keys() <= _CLAIMS or not all(isinstance(text, str) for text in texts):
        raise ValueError("claims")
    id_, user, cidr = texts
    if not id_:
        raise ValueError("jti")
    return Override(
        id_,
        Variant(said.get("variant", "")),
        expires_s,
        user,
        cidr,
        network_range(cidr) if cidr else None,
    )
