"""JWTs: checked against the issuer's keys, which come from a file or a URL."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
import structlog

from decision_svc.access.caller import Role
from decision_svc.access.credentials import Grant, JwtEntry, is_name
from decision_svc.errors import BadAccess, Unauthenticated

log = structlog.get_logger()

MAX_BYTES = 1 << 20
FETCH_TIMEOUT_S = 5.0
FETCH_EVERY_S = 300.0
# A key that nobody knows makes us ask anew, but not more often: anybody can name such a key.
FETCH_PAUSE_S = 10.0


class UnknownKey(Unauthenticated):
    """The JWT names a key that the issuer may have published since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a JWT that is believed says."""

    name: str
    grant: Grant
    expires_at: datetime


class Verifier:
    """Checks JWTs by one entry of the access file; ``keys`` is a JWKS, None while none is known."""

    def __init__(self, entry: JwtEntry, keys: str | None) -> None:
        self.entry = entry
        self._keys = () if keys is None else _usable(keys)

    def check(self, token: str) -> Claims:
        """What the JWT says. Raises Unauthenticated."""
        entry = self.entry
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in entry.algorithms or "crit" in header:
                raise Unauthenticated("the JWT is signed in a way that is not accepted here")
            claims = jwt.decode(
                token,
                self._key(header.get("kid"), algorithm).key,
                algorithms=[algorithm],
                audience=entry.audience,
                issuer=entry.issuer,
                leeway=entry.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
            expires_at = datetime.fromtimestamp(int(claims["exp"]), UTC)
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the JWT has expired") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the JWT is for another audience") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the JWT is by another issuer") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, OSError):
            raise Unauthenticated("the JWT is not valid") from None
        name = claims.get(entry.name_claim)
        if not isinstance(name, str) or not is_name(name):
            raise Unauthenticated(f"the JWT names nobody: it lacks the claim {entry.name_claim}")
        grants = [entry.grants[v] for v in _values(claims, entry.roles_claim) if v in entry.grants]
        return Claims(name=name, grant=_merged(grants), expires_at=expires_at)

    def _key(self, name: object, algorithm: str) -> jwt.PyJWK:
        if not self._keys:
            raise UnknownKey("JWTs cannot be checked yet: the issuer's keys could not be read")
        found = [key for key in self._keys if name is None or key.key_id == name]
        if not found:
            raise UnknownKey("the JWT is signed with a key that its issuer has not published")
        if len(found) > 1:
            raise Unauthenticated("the JWT does not say which of the issuer's keys signed it")
        if found[0].stated not in (None, algorithm):
            raise Unauthenticated("the JWT is signed in a way that its key is not meant for")
        return found[0].jwk


@dataclass(frozen=True, slots=True)
class _Key:
    """A public key; ``stated`` is the algorithm that the issuer keeps it for."""

    jwk: jwt.PyJWK
    key_id: str | None
    stated: str | None


def check_keys(text: str) -> None:
    """Raise BadAccess unless this is a JWKS with a key that can be used."""
    _usable(text)


def _usable(text: str) -> tuple[_Key, ...]:
    try:
        document = json.loads(text)
        found = document["keys"]
        assert isinstance(found, list)
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise BadAccess('the JWKS: give JSON with a list "keys"') from None
    keys = []
    for item in found:
        # A shared key would let everybody who may check also sign.
        if not isinstance(item, dict) or item.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        if item.get("use", "sig") != "sig":
            continue
        try:
            keys.append(_Key(jwt.PyJWK(item), item.get("kid"), item.get("alg")))
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
    if not keys:
        raise BadAccess("the JWKS: it has no public key that signatures can be checked with")
    return tuple(keys)


def _values(claims: Mapping[str, Any], path: str) -> Iterable[str]:
    """The texts in a claim; a claim inside another is written with dots."""
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return (found,)
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else ()


def _merged(grants: Iterable[Grant]) -> Grant:
    roles: dict[str, Role] = {}
    is_gateway = False
    for grant in grants:
        is_gateway = is_gateway or grant.is_gateway
        for key, role in grant.roles.items():
            roles[key] = max(role, roles.get(key, role))
    return Grant(roles=roles, is_gateway=is_gateway)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from where the file says, or not at all."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def fetch(url: str) -> str:
    """The JWKS at a URL. Raises OSError or ValueError."""
    opener = urllib.request.build_opener(_NoRedirect)
    request = urllib.request.Request(url, headers={"accept": "application/json"})
    with opener.open(request, timeout=FETCH_TIMEOUT_S) as answer:
        text: bytes = answer.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"the JWKS is larger than {MAX_BYTES:,} bytes")
    return text.decode()


class Fetcher:
    """Keeps the keys of a URL fresh: every few minutes, and soon after an unknown key.

    ``url`` says which one, "" for none; ``hear`` gets each JWKS, and raises BadAccess for one
    that is of no use. What cannot be fetched leaves the keys as they are.
    """

    def __init__(
        self,
        url: Callable[[], str],
        hear: Callable[[str], None],
        tell_state: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._hear, self._tell_state, self._clock = url, hear, tell_state, clock
        self._last = float("-inf")
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Fetch until cancelled."""
        while True:
            is_well = await self.fetch()
            await asyncio.sleep(FETCH_EVERY_S if is_well else FETCH_PAUSE_S)

    async def fetch(self) -> bool:
        """Fetch unless that was done just now; whether the keys are fresh."""
        asked_at = self._clock()
        async with self._lock:
            url = self._url()
            if not url or self._last > asked_at or asked_at < self._last + FETCH_PAUSE_S:
                return True
            self._last = self._clock()
            try:
                self._hear(await asyncio.to_thread(fetch, url))
            except (OSError, ValueError, BadAccess) as error:
                log.error("the keys for JWTs cannot be fetched", url=url, error=str(error))
                self._tell_state(False)
                return False
            self._tell_state(True)
            return True
