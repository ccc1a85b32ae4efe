"""Log lines as requests: nginx's combined format, Kong's JSON log, described requests.

Whole blocks of lines are read at once. The request that is given is the same object each time:
making one for every line would take as long as deciding it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec
from canary_engine.model import NOBODY, Person, Profile, Request

MAX_VALUE = 4_096
"""What a gateway sends of a value at most."""
MAX_NAMES = 1_000
"""Of how many header names it is remembered that they are in lower case."""


class Format(StrEnum):
    """How a log is written."""

    COMBINED = "combined"
    KONG = "kong"
    REQUESTS = "requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is read from lines. Without a ``service_key`` lines of all services count."""

    service_key: str
    user_headers: tuple[str, ...]
    cookies: frozenset[str]
    reads_time: bool
    now: datetime


@dataclass(slots=True)
class Found:
    """What came of the lines so far besides requests."""

    lines: int = 0
    bad: int = 0
    of_others: int = 0
    formats: set[Format] = field(default_factory=set)
    file: str = ""
    """What is read now."""
    passed: int = 0
    """How many lines of it are behind, blank ones too."""
    first_bad: tuple[str, int] | None = None
    """The file of the first line that could not be read, and its number there, from 1."""

    def open(self, file: str) -> None:
        """Go on with a part of a file; where it is another one, its lines count from 1."""
        if file != self.file:
            self.file, self.passed = file, 0

    def note_bad(self, block: bytes, line: bytes) -> None:
        """A line of a block cannot be read."""
        if self.first_bad is None:
            # One that stands before it and says the same is as bad.
            start = 0 if block.startswith(line + b"\n") else block.find(b"\n" + line) + 1
            self.first_bad = self.file, self.passed + block.count(b"\n", 0, start) + 1
        self.bad += 1

    def merge(self, other: Found) -> None:
        """Add what came of the lines after these."""
        before = self.passed if other.file == self.file else 0
        if self.first_bad is None and other.first_bad is not None:
            file, line = other.first_bad
            self.first_bad = file, line + before
        self.file, self.passed = other.file, other.passed + before
        self.lines += other.lines
        self.bad += other.bad
        self.of_others += other.of_others
        self.formats |= other.formats


Seen = tuple[Request, Person, datetime]
Read = Callable[[bytes, Wanted, Found], Iterator[Seen]]


def detect(sample: bytes) -> Format:
    """The format of a log that begins so."""
    line = next((line for line in sample.splitlines() if line.strip()), b"")
    if not line.lstrip().startswith(b"{"):
        return Format.COMBINED
    try:
        fields = msgspec.json.decode(line)
    except msgspec.DecodeError:
        fields = {}
    is_kong = isinstance(fields.get("request"), dict) or "started_at" in fields
    return Format.KONG if is_kong else Format.REQUESTS


# nginx writes quotes inside of a field as \x22, so that a field ends at the next one. What stands
# after the user agent, or instead of it, is passed over.
_COMBINED = re.compile(
    r'^(\S+) \S+ ([^\n\[]*?) \[([^\]\n]+)\] "[A-Z]+ ([^\s?"]+)[^"\n]*" \d{3} '
    r'(?:\d+|-)(?: "([^"\n]*)" "([^"\n]*)")?.*$',
    re.MULTILINE,
)


def read_combined(block: bytes, wanted: Wanted, found: Found) -> Iterator[Seen]:
    """Requests of lines in nginx's combined format. They tell neither cookies nor other headers."""
    text = block.decode("utf-8", "surrogateescape")
    rows = _COMBINED.findall(text)
    lines = _count(block)
    found.lines += lines
    if lines > len(rows) and found.first_bad is None:
        found.note_bad(block, next(line for line in block.split(b"\n") if _is_bad(line)))
        found.bad -= 1  # it is one of these
    found.bad += lines - len(rows)
    request, at, reads_time = Request(), wanted.now, wanted.reads_time
    user_headers = wanted.user_headers
    for ip, user, moment, path, referer, agent in rows:
        headers = {"user-agent": agent, "referer": referer}
        if user != "-":
            for name in user_headers:
                headers[name] = user
        if reads_time:
            at = _nginx_time(moment) or wanted.now
        request.headers, request.client_ip, request.path = headers, ip, path
        request.fallback_key = ip + agent
        yield request, NOBODY, at
    found.passed += block.count(b"\n")


def _is_bad(line: bytes) -> bool:
    """Whether a line is in no combined format, and not blank."""
    return bool(line.strip()) and not _COMBINED.match(line.decode("utf-8", "surrogateescape"))


@lru_cache(maxsize=4_096)
def _nginx_time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%d/%b/%Y:%H:%M:%S %z").astimezone(UTC)
    except ValueError:
        return None


class _KongRequest(msgspec.Struct):
    headers: dict[str, str] = {}
    uri: str = ""


class _KongRequestOfMany(msgspec.Struct):
    headers: dict[str, str | list[str]] = {}
    uri: str = ""


class _KongConsumer(msgspec.Struct):
    username: str | None = None
    id: str | None = None


class _KongService(msgspec.Struct):
    name: str | None = None


_R = TypeVar("_R")


class _KongLine(msgspec.Struct, Generic[_R]):
    request: _R
    client_ip: str = ""
    started_at: float = 0
    consumer: _KongConsumer | None = None
    service: _KongService | None = None


_usual_kong_line = msgspec.json.Decoder(_KongLine[_KongRequest]).decode
_any_kong_line = msgspec.json.Decoder(_KongLine[_KongRequestOfMany]).decode


def _kong_line(raw: bytes) -> _KongLine[_KongRequest]:
    """A line of which no header is a list of values: that is rare, and dear to look for."""
    try:
        return _usual_kong_line(raw)
    except msgspec.ValidationError:
        line = _any_kong_line(raw)
    found = {
        name: value if isinstance(value, str) else ", ".join(value)
        for name, value in line.request.headers.items()
    }
    request = _KongRequest(found, line.request.uri)
    return _KongLine(request, line.client_ip, line.started_at, line.consumer, line.service)


def read_kong(block: bytes, wanted: Wanted, found: Found) -> Iterator[Seen]:
    """Requests of lines that Kong's log plugins write."""
    request, at = Request(), wanted.now
    for raw in block.split(b"\n"):
        if not raw or raw.isspace():
            continue
        found.lines += 1
        try:
            line = _kong_line(raw)
            if wanted.reads_time and line.started_at:
                at = datetime.fromtimestamp(line.started_at / 1_000, UTC)
        except (msgspec.DecodeError, ValueError, OverflowError, OSError):
            found.note_bad(block, raw)
            continue
        service, consumer = line.service, line.consumer
        if service is not None and service.name not in (None, wanted.service_key):
            found.of_others += 1
            continue
        request.headers = headers = line.request.headers
        request.cookies = _cookies(headers.get("cookie", ""), wanted.cookies)
        request.client_ip = line.client_ip
        request.path = line.request.uri.partition("?")[0][:MAX_VALUE]
        request.consumer = (consumer.username or consumer.id or "") if consumer else ""
        request.fallback_key = line.client_ip + headers.get("user-agent", "")
        yield request, NOBODY, at
    found.passed += block.count(b"\n")


class _Described(msgspec.Struct, forbid_unknown_fields=True):
    headers: dict[str, str] = {}
    cookies: dict[str, str] = {}
    client_ip: str = ""
    path: str = ""
    consumer: str = ""
    flags: tuple[str, ...] = ()
    fallback_key: str = ""
    service_key: str = ""
    at: datetime | None = None
    person: dict[str, Any] | None = None


_described = msgspec.json.Decoder(_Described).decode


def read_requests(block: bytes, wanted: Wanted, found: Found) -> Iterator[Seen]:
    """Requests that are described: the fields of a DecideRequest, ``at``, and the ``person``."""
    request = Request()
    lower: set[str] = set()
    for raw in block.split(b"\n"):
        if not raw or raw.isspace():
            continue
        found.lines += 1
        try:
            line = _described(raw)
            person = NOBODY if line.person is None else _person(line.person)
            at = wanted.now if line.at is None else line.at.astimezone(UTC)
        except (msgspec.DecodeError, ValueError, TypeError, AttributeError, OverflowError):
            found.note_bad(block, raw)
            continue
        if line.service_key not in ("", wanted.service_key):
            found.of_others += 1
            continue
        headers = line.headers
        if not headers.keys() <= lower:
            headers = {name.lower(): value for name, value in headers.items()}
            if len(lower) < MAX_NAMES:
                lower.update(headers)
        request.headers = headers
        request.cookies, request.client_ip, request.path = line.cookies, line.client_ip, line.path
        request.consumer, request.flags = line.consumer, line.flags
        agent = headers.get("user-agent", "")
        request.fallback_key = line.fallback_key or line.client_ip + agent
        yield request, person, at
    found.passed += block.count(b"\n")


def _person(fields: dict[str, Any]) -> Person:
    profile: dict[str, Any] = fields.get("profile") or {}
    registered = profile.get("registered_at")
    return Person(
        listed_in=frozenset(fields.get("listed_in", ())),
        profile=Profile(
            tier=profile.get("tier", ""),
            region=profile.get("region", ""),
            tags=frozenset(profile.get("tags", ())),
            custom=dict(profile.get("custom", {})),
            registered_at=datetime.fromisoformat(registered) if registered else None,
        ),
        is_known=fields.get("is_known", True),
    )


def _cookies(header: str, wanted: frozenset[str]) -> dict[str, str]:
    """The wanted cookies, read as the gateway reads them."""
    for name in wanted:
        if name in header:
            break
    else:
        return {}  # so it is nearly always
    found: dict[str, str] = {}
    for pair in header.split(";"):
        name, _, value = pair.partition("=")
        name = name.strip()
        if name in wanted and name not in found:
            found[name] = value.strip().strip('"')[:MAX_VALUE]
    return found


def _count(block: bytes) -> int:
    """How many lines hold anything."""
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    if b"\n\n" in block or b"\r\n" in block or block[:1] == b"\n":
        lines = sum(1 for line in block.split(b"\n") if line.strip())
    return lines


READERS: dict[Format, Read] = {
    Format.COMBINED: read_combined,
    Format.KONG: read_kong,
    Format.REQUESTS: read_requests,
}
