"""The access file: whose credentials are believed, and what each may do.

It is YAML, and read whole: every complaint is told at once, and a file with one is not used.
Complaints never repeat a value, for somebody may have put a token where its hash belongs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml

from decision_svc.access.caller import EVERY_KEY, Role
from decision_svc.errors import BadAccess

GATEWAY = "gateway"
MAX_BYTES = 4 << 20
MAX_NAME = 128
ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Signatures by a key which only the issuer has; "none" and shared keys are not among them."""

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,19}\Z")
_PRINTABLE = re.compile(r"[^\x00-\x20\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What somebody may do: roles by service key, or ask for decisions as a gateway does."""

    roles: Mapping[str, Role] = field(default_factory=dict)
    is_gateway: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEntry:
    """A static token by the SHA-256 of it."""

    name: str
    sha256: str
    grant: Grant
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateEntry:
    """A certificate by one of its names; ``kind`` says which."""

    name: str
    kind: str
    value: str
    grant: Grant


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtEntry:
    """How JWTs are checked, and what the values of a claim may do."""

    issuer: str
    audience: str
    jwks_file: str = ""
    jwks_url: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    name_claim: str = "sub"
    roles_claim: str = "groups"
    grants: Mapping[str, Grant] = field(default_factory=dict)
    leeway_s: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessFile:
    """All that the file says."""

    tokens: tuple[TokenEntry, ...] = ()
    certificates: tuple[CertificateEntry, ...] = ()
    jwt: JwtEntry | None = None


def is_name(text: str) -> bool:
    """Whether somebody can be called that: 1 to 128 printable characters, no blank at the ends."""
    return len(text) <= MAX_NAME and bool(_PRINTABLE.match(text))


CERTIFICATE_KINDS = ("uri", "dns", "common_name")
"""The names of a certificate, in the order in which they are looked for."""


def parse(text: str) -> AccessFile:
    """What an access file says. Raises BadAccess with every complaint."""
    complaints: list[str] = []
    document = _loaded(text)
    if not isinstance(document, dict):
        raise BadAccess("document: give a mapping with tokens, certificates or jwt")
    root = _Fields(document, "", complaints)
    tokens = tuple(_token(node) for node in root.nodes("tokens"))
    certificates = tuple(_certificate(node) for node in root.nodes("certificates"))
    jwt = _jwt(node) if (node := root.node("jwt")) else None
    root.finish()
    _refuse_twice(tokens, "tokens", lambda t: t.sha256, "sha256", complaints)
    _refuse_twice(certificates, "certificates", lambda c: (c.kind, c.value), "name", complaints)
    if not (tokens or certificates or jwt or complaints):
        complaints.append("document: nobody could call; give tokens, certificates or jwt")
    if complaints:
        raise BadAccess(*complaints)
    return AccessFile(tokens=tokens, certificates=certificates, jwt=jwt)


def _token(node: _Fields) -> TokenEntry:
    sha256 = node.text("sha256").lower()
    if not _SHA256.match(sha256):
        node.complain("sha256", "give the SHA-256 of the token, 64 hexadecimal digits")
    entry = TokenEntry(
        name=node.name("name"),
        sha256=sha256,
        grant=_grant(node, "roles"),
        expires_at=node.time("expires_at"),
    )
    node.finish()
    return entry


def _certificate(node: _Fields) -> CertificateEntry:
    given = [(kind, value) for kind in CERTIFICATE_KINDS if (value := node.text(kind))]
    if len(given) != 1:
        node.complain("", "name the certificate by one of uri, dns or common_name")
    kind, value = given[0] if given else ("", "")
    name = node.name("name") if node.has("name") else value
    entry = CertificateEntry(name=name, kind=kind, value=value, grant=_grant(node, "roles"))
    node.finish()
    return entry


def _jwt(node: _Fields) -> JwtEntry:
    standard = JwtEntry(issuer="", audience="")
    for required in ("issuer", "audience"):
        if not node.text(required):
            node.complain(required, "say which one is believed")
    file, url = node.text("jwks_file"), node.text("jwks_url")
    if bool(file) == bool(url):
        node.complain("", "give one of jwks_file and jwks_url")
    if url and not _is_safe(url):
        node.complain("jwks_url", "give an https:// URL; http:// is for 127.0.0.1 and [::1] only")
    algorithms = node.texts("algorithms") or standard.algorithms
    if not set(algorithms) <= set(ALGORITHMS):
        node.complain("algorithms", f"give some of {', '.join(ALGORITHMS)}")
    grants = {}
    if (roles := node.node("roles")) is not None:
        grants = {value: _grant(roles, value) for value in roles.names()}
        roles.finish()
    if not grants:
        node.complain("roles", "say what callers may do, by the values of the claim")
    entry = JwtEntry(
        issuer=node.text("issuer"),
        audience=node.text("audience"),
        jwks_file=file,
        jwks_url=url,
        algorithms=algorithms,
        name_claim=node.text("name_claim") or standard.name_claim,
        roles_claim=node.text("roles_claim") or standard.roles_claim,
        grants=grants,
        leeway_s=node.whole("leeway_s", 0, 300, standard.leeway_s),
    )
    node.finish()
    return entry


def _is_safe(url: str) -> bool:
    loopback = re.match(r"http://(127\.0\.0\.1|\[::1\])(:[0-9]+)?/", url)
    return bool(loopback) or bool(re.match(r"https://[^/@\s]+/?", url))


def _grant(node: _Fields, name: str) -> Grant:
    """Roles by service key; gateway is for every service key, and goes with no other role."""
    found = node.node(name)
    if found is None:
        node.complain(name, 'give roles by service key, e.g. {"*": viewer}')
        return Grant()
    words = {key: found.text(key) for key in found.names()}
    found.finish()
    if GATEWAY in words.values():
        if words != {EVERY_KEY: GATEWAY}:
            node.complain(name, 'the role gateway stands alone, as {"*": gateway}')
        return Grant(is_gateway=True)
    known = {str(role): role for role in Role}
    for key, word in words.items():
        if word not in known:
            found.complain(key, f"give one of {', '.join(known)} and gateway")
        if not is_name(key):
            node.complain(name, "a service key has 1 to 128 printable characters")
    if not words:
        node.complain(name, 'give roles by service key, e.g. {"*": viewer}')
    return Grant(roles={key: known[word] for key, word in words.items() if word in known})


def _refuse_twice(
    entries: tuple[Any, ...],
    where: str,
    key_of: Callable[[Any], Hashable],
    what: str,
    complaints: list[str],
) -> None:
    seen: dict[Hashable, int] = {}
    for index, entry in enumerate(entries):
        first = seen.setdefault(key_of(entry), index)
        if first != index:
            complaints.append(f"{where}[{index}]: has the {what} of {where}[{first}]")


class _Fields:
    """A mapping of the file, where it stands, and the complaints of the whole."""

    def __init__(self, found: Mapping[str, Any], path: str, complaints: list[str]) -> None:
        self._found, self._path, self._complaints = found, path, complaints
        self._seen: set[str] = set()

    def complain(self, name: str, what: str) -> None:
        where = ".".join(part for part in (self._path, _shown(name)) if part)
        self._complaints.append(f"{where or 'document'}: {what}")

    def names(self) -> list[str]:
        return list(self._found)

    def has(self, name: str) -> bool:
        return name in self._found

    def text(self, name: str) -> str:
        self._seen.add(name)
        value = self._found.get(name, "")
        if isinstance(value, str):
            return value
        self.complain(name, "give text")
        return ""

    def name(self, name: str) -> str:
        value = self.text(name)
        if not is_name(value):
            self.complain(name, f"give a name of 1 to {MAX_NAME} printable characters")
        return value

    def time(self, name: str) -> datetime | None:
        value = self.text(name)
        if not value:
            return None
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        self.complain(name, "give a time with its zone, like 2027-01-31T12:00:00Z")
        return None

    def whole(self, name: str, low: int, high: int, default: int) -> int:
        value = self.text(name)
        if not value:
            return default
        if value.isascii() and value.isdigit() and low <= int(value[:9]) <= high:
            return int(value[:9])
        self.complain(name, f"give a whole number from {low} to {high}")
        return default

    def texts(self, name: str) -> tuple[str, ...]:
        self._seen.add(name)
        value = self._found.get(name, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        self.complain(name, "give a list of texts")
        return ()

    def node(self, name: str) -> _Fields | None:
        self._seen.add(name)
        value = self._found.get(name)
        if value is None:
            return None
        return self._child(name, value)

    def nodes(self, name: str) -> Iterator[_Fields]:
        self._seen.add(name)
        value = self._found.get(name, [])
        if not isinstance(value, list):
            self.complain(name, "give a list")
            return
        for index, item in enumerate(value):
            child = self._child(f"{name}[{index}]", item)
            if child is not None:
                yield child

    def finish(self) -> None:
        for name in self._found:
            if name not in self._seen:
                self.complain(name, f"unknown; known are {', '.join(sorted(self._seen))}")

    def _child(self, name: str, value: Any) -> _Fields | None:
        if not isinstance(value, dict):
            self.complain(name, "give a mapping")
            return None
        where = ".".join(part for part in (self._path, _shown(name)) if part)
        return _Fields(value, where, self._complaints)


def _shown(name: str) -> str:
    """A field's name, unless it may be something else that came to stand there."""
    bare = re.sub(r"\[\d+\]\Z", "", name)
    return name if not bare or bare == EVERY_KEY or _FIELD.match(bare) else "(a field)"


class _Loader(yaml.BaseLoader):
    """Every scalar is text, so that nothing is guessed; a key that comes twice is refused."""


class _TwiceError(yaml.YAMLError):
    pass


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise _TwiceError(f"line {line}: a field's name must be text")
        if key_node.value in found:
            raise _TwiceError(f"line {line}: a field that stands there already")
        found[key_node.value] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _loaded(text: str) -> Any:
    if len(text) > MAX_BYTES:
        raise BadAccess(f"document: at most {MAX_BYTES:,} characters")
    try:
        return yaml.load(text, _Loader)
    except _TwiceError as error:
        raise BadAccess(str(error)) from None
    except yaml.MarkedYAMLError as error:
        # The error's own text shows the line, and the line may hold a token.
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        star = ' ("*" needs its quotation marks)' if "alias" in str(error.context) else ""
        raise BadAccess(f"line {line}: not YAML{star}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise BadAccess("document: not YAML") from None
