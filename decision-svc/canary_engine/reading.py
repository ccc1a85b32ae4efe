"""Reads a plain document field by field and collects every complaint about it.

A complaint is one line, ``path: what to do``. Reading goes on after one, so that a person
sees all of them at once; what could not be read comes back as the field's empty value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, TypeVar

from canary_engine.model import BUCKETS

E = TypeVar("E", bound=StrEnum)

MAX_REVISION = 2**63 - 1
NEVER_READ = {
    "authorization": "authorization never leaves the gateway",
    "proxy-authorization": "proxy-authorization never leaves the gateway",
    "cookie": "the whole cookie header never leaves the gateway; use source cookie",
}
MAX_NAME = 128
MAX_VALUE = 4_096
MAX_ITEMS = 200_000

_NAME = re.compile(r"[^\x00-\x20\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?\Z")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_HALF = re.compile("[\ud800-\udfff]")
_STEP = Decimal(100) / BUCKETS


@dataclass(slots=True)
class Node:
    """A mapping inside a document, where it stands, and the complaints of the whole."""

    value: Mapping[str, Any]
    path: str
    complaints: list[str]
    seen: set[str] = field(default_factory=set)

    def complain(self, name: str, what: str) -> None:
        """Add "path.name: what"."""
        self.complaints.append(f"{self.where(name)}: {what}")

    def where(self, name: str) -> str:
        """The path of a field."""
        return ".".join(part for part in (self.path, name) if part) or "document"

    def get(self, name: str) -> Any:
        """The raw value; None if absent."""
        self.seen.add(name)
        return self.value.get(name)

    def has(self, name: str) -> bool:
        """Whether the field is given."""
        self.seen.add(name)
        return self.value.get(name) is not None

    def text(self, name: str, limit: int = MAX_VALUE) -> str:
        """Text of at most ``limit`` characters; "" if absent."""
        value = self.get(name)
        return "" if value is None else self._checked_text(name, value, limit)

    def name(self, name: str = "name") -> str:
        """A required name: printable, no blank at either end, at most 128 characters."""
        value = self.text(name, MAX_NAME)
        if not _NAME.match(value):
            self.complain(name, f"give a name of 1 to {MAX_NAME} printable characters")
        return value

    def token(self, name: str, *, lower: bool = False) -> str:
        """A header or cookie name (an HTTP token); "" if absent."""
        value = self.text(name, MAX_NAME)
        if value and not _TOKEN.match(value):
            self.complain(name, f"{value!r} is not a valid HTTP header or cookie name")
        return value.lower() if lower else value

    def header(self, name: str) -> str:
        """A header that may be read; "" if absent."""
        value = self.token(name, lower=True)
        if value in NEVER_READ:
            self.complain(name, NEVER_READ[value])
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``; 0 if absent."""
        value = self.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.complain(name, f"give a whole number from {low} to {high}, not {_shown(value)}")
            return 0
        return value

    def yes(self, name: str) -> bool:
        """True or false; False if absent."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            self.complain(name, f"give true or false, not {_shown(value)}")
        return value is True

    def share(self, name: str) -> int | None:
        """A percentage from 0 to 100 in steps of 0.001, as a share of BUCKETS; None if absent."""
        value = self.get(name)
        if value is None:
            return None
        try:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidOperation
            percentage = Decimal(str(value))
            if not 0 <= percentage <= 100 or percentage % _STEP:
                raise InvalidOperation
        except InvalidOperation:
            what = "give a percentage from 0 to 100 in steps of 0.001"
            self.complain(name, f"{what}, not {_shown(value)}")
            return None
        return int(percentage / _STEP)

    def word(self, name: str, words: type[E], default: E | None = None) -> E:
        """One of an enum's words; ``default`` if absent, a complaint if there is none."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        try:
            return words(value)
        except ValueError:
            known = ", ".join(word for word in words if word != "unspecified")
            self.complain(name, f"give one of {known}, not {_shown(value)}")
            return next(iter(words))

    def time(self, name: str) -> datetime | None:
        """An RFC 3339 time in UTC; None if absent."""
        value = self.get(name)
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
            problem = "has no time zone"
        except (ValueError, TypeError, OverflowError):  # overflows: the year 1 east of Greenwich
            problem = "is no time"
        self.complain(name, f"{_shown(value)} {problem}; write it like 2026-01-31T12:00:00Z")
        return None

    def texts(self, name: str, limit: int = MAX_VALUE) -> tuple[str, ...]:
        """A list of texts, none empty; () if absent."""
        items = self._list(name)
        texts = (self._checked_text(f"{name}[{i}]", item, limit) for i, item in enumerate(items))
        found = tuple(texts)
        for index, item in enumerate(found):
            if not item:
                self.complain(f"{name}[{index}]", "give a text that is not empty")
        return found

    def table(self, name: str) -> dict[str, str]:
        """A mapping of text to text; {} if absent."""
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.complain(name, f"give a mapping, not {_kind(value)}")
            return {}
        return {
            self._checked_text(name, key, MAX_NAME): self._checked_text(f"{name}.{key}", item)
            for key, item in value.items()
        }

    def node(self, name: str) -> Node | None:
        """The mapping in a field; None if absent."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.complain(name, f"give a mapping, not {_kind(value)}")
            return None
        return Node(value, self.where(name), self.complaints)

    def nodes(self, name: str, unique: str = "name") -> Iterator[Node]:
        """The mappings in a list; complains where two have the same ``unique`` field."""
        taken: dict[Any, int] = {}
        for index, item in enumerate(self._list(name)):
            at = f"{name}[{index}]"
            if not isinstance(item, Mapping):
                self.complain(at, f"give a mapping, not {_kind(item)}")
                continue
            key = item.get(unique) if unique else index
            if isinstance(key, str | int) and taken.setdefault(key, index) != index:
                self.complain(f"{at}.{unique}", f"{key!r} is taken by {name}[{taken[key]}]")
            yield Node(item, self.where(at), self.complaints)

    def finish(self) -> None:
        """Complain about every field that nothing has read."""
        for name in self.value:
            if name not in self.seen:
                shown = str(name)[:MAX_NAME]
                near = difflib.get_close_matches(shown, self.seen, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.complain(shown, f"unknown field{hint}")

    def _list(self, name: str) -> list[Any] | tuple[Any, ...]:
        value = self.get(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            self.complain(name, f"give a list, not {_kind(value)}")
            return ()
        if len(value) > MAX_ITEMS:
            self.complain(name, f"at most {MAX_ITEMS:,} entries, not {len(value):,}")
            return ()
        return value

    def _checked_text(self, name: str, value: Any, limit: int = MAX_VALUE) -> str:
        if not isinstance(value, str):
            self.complain(name, f"give text, not {_kind(value)}")
            return ""
        if len(value) > limit:
            self.complain(name, f"at most {limit:,} characters, not {len(value):,}")
            return ""
        if not value.isascii() and _HALF.search(value):
            self.complain(name, "give text that UTF-8 can carry, without half a surrogate pair")
            return ""
        return value


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else _shown(value)


def _shown(value: Any) -> str:
    return repr(value)[:80]
