"""Who makes the call in progress, and what they may do."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

EVERY_KEY = "*"


class Role(IntEnum):
    """What somebody may do to a service key; each role includes the one before it."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    def __str__(self) -> str:
        return self.name.lower()


class How(StrEnum):
    """What a caller was known by."""

    TOKEN = "token"
    CERTIFICATE = "certificate"
    JWT = "jwt"
    INSECURE = "insecure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody who calls: ``name`` is empty only where nobody is asked for credentials."""

    name: str
    peer: str
    """The address that the call came from, e.g. "10.0.0.7:41234" or "unix:"."""
    how: How
    roles: Mapping[str, Role] = field(default_factory=dict)
    """Role by service key; "*" is every key."""
    is_gateway: bool = False
    """Whether they may ask for decisions."""

    @property
    def is_insecure(self) -> bool:
        """Whether nobody is asked for credentials, so that a request's actor counts."""
        return self.how is How.INSECURE

    def role(self, service_key: str) -> Role | None:
        """The highest role for a service key; None if there is none."""
        found = [r for k in (service_key, EVERY_KEY) if (r := self.roles.get(k)) is not None]
        return max(found, default=None)

    def may(self, role: Role, service_key: str) -> bool:
        """Whether the caller has at least this role for the service key."""
        found = self.role(service_key)
        return found is not None and found >= role


ANYBODY = Caller(name="", peer="", how=How.INSECURE, roles={EVERY_KEY: Role.ADMIN}, is_gateway=True)
"""Whoever calls where nobody is asked for credentials, and whoever calls no gRPC at all."""

_CURRENT: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)


def current() -> Caller:
    """Who makes the call in progress; ANYBODY outside of a call."""
    return _CURRENT.get()


def enter(caller: Caller) -> Token[Caller]:
    """Make the caller the current one, in this task; ``leave`` with what is answered."""
    return _CURRENT.set(caller)


def leave(token: Token[Caller]) -> None:
    """Make whoever was current before the current caller again."""
    _CURRENT.reset(token)
