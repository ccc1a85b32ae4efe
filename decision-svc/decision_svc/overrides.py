"""Overrides: tokens are signed here, and the policy learns whom to believe and whom no more."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any

import jwt
from canary_engine import override
from canary_engine.model import Variant
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from decision_svc.changes import Document, Edit
from decision_svc.errors import AlreadyExists, BadRequest, BadSettings, NotFound, OverrideRefused
from decision_svc.store.protocol import Link

EVERY = "*"
"""In place of an id: all tokens there are."""
MAX_REVOKED = 1_000
_ID = re.compile(r"o-[0-9a-f]{16}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A token, which is shown once, and what may be said of it elsewhere."""

    id: str
    token: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What is known before an override is signed: "" and None for what is chosen then."""

    id: str = ""
    expires_at: datetime | None = None


def id_of(service_key: str, key: str) -> str:
    """The id of the override that a request with that idempotency key makes; "" without one."""
    digest = sha256(f"{service_key}\0{key}".encode()).hexdigest()
    return f"o-{digest[:16]}" if key else ""


def expiry_told(links: Iterable[Link], id_: str, request: str) -> datetime | None:
    """When the override of that id expires, by the audit links of its making; None: not made.

    ``request`` is the mark of what was asked for. Raises AlreadyExists if something else was.
    """
    for link in links:
        if id_ not in link.entry:
            continue
        told = _fields(link).get("override")
        if not isinstance(told, dict) or told.get("id") != id_:
            continue
        if told.get("request") != request:
            raise AlreadyExists(
                f"idempotency_key: it was given to another override, {id_}: give every "
                "override a key of its own"
            )
        return _moment(told["expires_at"])
    return None


def _fields(link: Link) -> Mapping[str, Any]:
    try:
        fields = json.loads(link.entry)
    except (ValueError, RecursionError):
        return {}  # Somebody edited it, which is for verification to say.
    return fields if isinstance(fields, dict) else {}


class Signer:
    """Signs tokens with one private key. The clock gives UTC; ``new_id`` 16 hexadecimal digits."""

    def __init__(
        self, key: Ed25519PrivateKey, clock: Callable[[], datetime], new_id: Callable[[], str]
    ) -> None:
        self._key, self._clock, self._new_id = key, clock, new_id
        self.public_key = b64encode(key.public_key().public_bytes_raw()).decode()

    def sign(
        self, service_key: str, variant: Variant, valid_s: int, user: str, cidr: str, as_: Named
    ) -> Signed:
        """A token that forces ``variant``: the same one for the same wish and name.

        Raises BadRequest.
        """
        _check_wish(valid_s, user)
        id_, expires_at = as_.id or f"o-{self._new_id()}", as_.expires_at
        if expires_at is None:
            expires_at = self._clock() + timedelta(seconds=valid_s)
        expires_s = ceil(expires_at.timestamp())
        try:
            claims = override.claims(service_key, id_, variant, expires_s, user, cidr)
        except ValueError as error:
            raise BadRequest(f"cidr: {error}") from None
        token = jwt.encode(claims, self._key, algorithm=override.ALGORITHM)
        if len(token) > override.MAX_TOKEN:
            raise BadRequest("user: the token would be too long for a header; give a shorter one")
        return Signed(id=id_, token=token, expires_at=datetime.fromtimestamp(expires_s, UTC))


def read_key(path: str) -> Ed25519PrivateKey:
    """The private key in a PEM file. Raises BadSettings."""
    try:
        key = load_pem_private_key(Path(path).read_bytes(), None)
    except OSError as error:
        raise BadSettings(f"--override-key: {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadSettings(
            f"--override-key: {path} is no Ed25519 private key without a password; "
            "make one with canaryctl override keygen"
        )
    return key


def believe(public_key: str) -> Edit:
    """Have tokens checked with this key; a policy that believes another is left alone."""

    def edit(policy: Document) -> Document:
        overrides = policy.setdefault("overrides", {})
        known = overrides.setdefault("public_key", public_key)
        if known != public_key:
            raise OverrideRefused(
                "the policy believes another key than this service's: start every replica with "
                "the same --override-key; to change the key, take the old one out first "
                "(canaryctl override revoke SERVICE --all)"
            )
        return policy

    return edit


def revoke(id_: str, expires_at: datetime, now: datetime) -> Edit:
    """Believe this override no more; forget those that have expired anyhow."""

    def edit(policy: Document) -> Document:
        overrides = policy.setdefault("overrides", {})
        kept = [r for r in overrides.get("revoked", []) if _moment(r["expires_at"]) > now]
        if id_ not in {r["id"] for r in kept}:
            kept.append({"id": id_, "expires_at": expires_at.isoformat()})
        if len(kept) > MAX_REVOKED:
            raise OverrideRefused(
                f"{MAX_REVOKED:,} overrides are revoked already: change the key instead"
            )
        overrides["revoked"] = kept
        return policy

    return edit


def believe_none() -> Edit:
    """Take the key out, so that no token counts. What was revoked stays revoked."""

    def edit(policy: Document) -> Document:
        policy.setdefault("overrides", {}).pop("public_key", None)
        return policy

    return edit


def look_in(header: str, cookie: str) -> Edit:
    """Look for tokens in that header and cookie; "" is the one by default."""

    def edit(policy: Document) -> Document:
        overrides = policy.setdefault("overrides", {})
        for name, value in (("header", header), ("cookie", cookie)):
            overrides[name] = value or None
        return policy

    return edit


def named(given: str, policy: Document, now: datetime) -> tuple[str, datetime]:
    """The id of an override, given it or the token, and when it expires at the latest.

    Raises BadRequest and NotFound. Nobody keeps ids, so whether there is an override of that id
    cannot be said.
    """
    if _ID.match(given):
        return given, now + timedelta(seconds=override.MAX_VALID_S)
    if "." not in given:
        raise BadRequest("id: give an override's id, like o-0123456789abcdef, or the token")
    public_key = policy.get("overrides", {}).get("public_key", "")
    if not public_key:
        raise NotFound("id: the policy believes no token, so there is none to revoke")
    found = override.judged(given, public_key, policy["service_key"])
    if isinstance(found, str):
        raise BadRequest(f"id: {found}")
    if found.expires_at <= now:
        raise BadRequest(f"id: {override.objection(found, '', '', now)}")
    return found.id, found.expires_at


def _check_wish(valid_s: int, user: str) -> None:
    complaints = []
    if not 0 < valid_s <= override.MAX_VALID_S:
        complaints.append(f"valid_s: give 1 to {override.MAX_VALID_S:,}, which is 30 days")
    if len(user) > 128 or not all(c.isprintable() for c in user) or user != user.strip():
        complaints.append("user: give a user id of at most 128 printable characters")
    if complaints:
        raise BadRequest(*complaints)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
