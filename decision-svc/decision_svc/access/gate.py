"""Who calls, by what they show; and the streams that end when it is no longer believed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from decision_svc.access.caller import ANYBODY, Caller, How
from decision_svc.access.credentials import (
    CERTIFICATE_KINDS,
    AccessFile,
    CertificateEntry,
    Grant,
    TokenEntry,
)
from decision_svc.access.jwt import Verifier
from decision_svc.access.roles import Need
from decision_svc.errors import Forbidden, Unauthenticated

MAX_TOKEN = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a caller shows; it is never written anywhere."""

    peer: str
    authorization: tuple[str, ...] = ()
    certificate: tuple[tuple[str, str], ...] | None = None
    """The names in the client's certificate, as kind and value; None: there is none."""

    def __repr__(self) -> str:
        return f"Shown(peer={self.peer!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """Everything that callers are known by, at one time."""

    file: AccessFile
    jwt: Verifier | None = None


class OpenStream:
    """A call that goes on, and what ends it once its credentials are no longer good."""

    def __init__(self, shown: Shown, need: Need, end: Callable[[], object]) -> None:
        self.shown, self.need, self._end = shown, need, end
        self.withdrawn: Unauthenticated | Forbidden | None = None
        """Why it was ended."""

    def withdraw(self, why: Unauthenticated | Forbidden) -> None:
        """End it."""
        self.withdrawn = why
        self._end()


class Gate:
    """Knows callers. ``believed`` is None where nobody is asked for credentials."""

    def __init__(self, believed: Believed | None, clock: Callable[[], datetime]) -> None:
        self._believed, self._clock = believed, clock
        self._open: set[OpenStream] = set()

    @property
    def is_insecure(self) -> bool:
        """Whether nobody is asked for credentials."""
        return self._believed is None

    def believe(self, believed: Believed) -> None:
        """From now on, know callers by these; call ``look_again`` afterwards."""
        self._believed = believed

    def who(self, shown: Shown) -> Caller:
        """Who calls. Raises Unauthenticated."""
        believed = self._believed
        if believed is None:
            return Caller(
                name="",
                peer=shown.peer,
                how=How.INSECURE,
                roles=ANYBODY.roles,
                is_gateway=True,
            )
        if shown.authorization:
            return self._by_token(believed, shown)
        if shown.certificate is not None:
            return _by_certificate(believed.file.certificates, shown)
        raise Unauthenticated("no credentials: send authorization: Bearer TOKEN")

    def admitted(self, shown: Shown, need: Need) -> Caller:
        """Who calls, if they may. Raises Unauthenticated or Forbidden."""
        caller = self.who(shown)
        check(caller, need)
        return caller

    @contextmanager
    def watching(self, stream: OpenStream) -> Iterator[None]:
        """End the stream if its credentials are withdrawn meanwhile."""
        self._open.add(stream)
        try:
            yield
        finally:
            self._open.discard(stream)

    def look_again(self) -> None:
        """End the open streams whose callers may no longer have them."""
        for stream in tuple(self._open):
            try:
                self.admitted(stream.shown, stream.need)
            except (Unauthenticated, Forbidden) as why:
                stream.withdraw(why)

    def _by_token(self, believed: Believed, shown: Shown) -> Caller:
        token = _bearer(shown.authorization)
        if (entry := _entry(believed.file.tokens, token)) is not None:
            if entry.expires_at is not None and entry.expires_at <= self._clock():
                raise Unauthenticated("the token has expired")
            return _caller(entry.name, shown, How.TOKEN, entry.grant)
        if token.count(".") == 2 and believed.jwt is not None:
            claims = believed.jwt.check(token)
            return _caller(claims.name, shown, How.JWT, claims.grant)
        raise Unauthenticated("the token is not known here, or no longer")


def check(caller: Caller, need: Need) -> None:
    """Raise Forbidden unless the caller may."""
    if not need.is_met(caller):
        raise Forbidden(f"this takes {need}; {caller.name!r} does not have it")


def _bearer(authorization: tuple[str, ...]) -> str:
    scheme, _, token = authorization[0].partition(" ")
    token = token.strip()
    is_good = len(authorization) == 1 and scheme.lower() == "bearer" and token
    if not is_good or len(token) > MAX_TOKEN:
        raise Unauthenticated("send authorization once, as: Bearer TOKEN")
    return token


def _entry(entries: tuple[TokenEntry, ...], token: str) -> TokenEntry | None:
    """The entry of a token; all are compared, each in constant time."""
    digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()
    found = None
    for entry in entries:
        if hmac.compare_digest(entry.sha256, digest):
            found = entry
    return found


def _by_certificate(entries: tuple[CertificateEntry, ...], shown: Shown) -> Caller:
    names = shown.certificate or ()
    known = {(entry.kind, entry.value): entry for entry in entries}
    for kind in CERTIFICATE_KINDS:
        for name in names:
            if name[0] == kind and (entry := known.get(name)) is not None:
                return _caller(entry.name, shown, How.CERTIFICATE, entry.grant)
    raise Unauthenticated("the access file names no name of the client's certificate")


def _caller(name: str, shown: Shown, how: How, grant: Grant) -> Caller:
    return Caller(
        name=name, peer=shown.peer, how=how, roles=grant.roles, is_gateway=grant.is_gateway
    )
