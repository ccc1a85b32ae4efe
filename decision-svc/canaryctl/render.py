"""How values are written: for people as words and tables, for scripts as one JSON document."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from canary_documents import enum_word, to_document
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

UNBOUNDED_COLUMNS = 10_000
NOTHING = "-"


def number(value: float) -> str:
    """A share as people write it: steps of 0.001, no noise of binary fractions."""
    text = f"{Decimal(repr(value)):.3f}"
    return text.rstrip("0").rstrip(".")


def percent(value: float) -> str:
    """A share with its sign."""
    return f"{number(value)} %"


def moment(at: Timestamp) -> str:
    """RFC 3339 in UTC; a timestamp that was never set is nothing."""
    if at == Timestamp():
        return NOTHING
    when: datetime = at.ToDatetime(UTC)
    precision = "milliseconds" if when.microsecond else "seconds"
    return when.isoformat(timespec=precision).replace("+00:00", "Z")


def short(digest: str) -> str:
    """As much of a hash as tells it from others."""
    return digest[:12]


def word(enum: EnumDescriptor, value: int) -> str:
    """The word for an enum value: lower case, dashes, no prefix; unspecified is nothing."""
    return words_by_value(enum).get(value, NOTHING)


def words_by_value(enum: EnumDescriptor) -> dict[int, str]:
    """Every word of an enum except unspecified, by value."""
    return {v.number: enum_word(enum, v.number) for v in enum.values if v.number}


def cell(value: object) -> str:
    """Text that cannot steer a terminal: control characters are shown, not obeyed."""
    text = str(value)
    return "".join(c if unicodedata.category(c) != "Cc" else repr(c)[1:-1] for c in text)


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], emphasised: int | None = None
) -> str:
    """A table; ``emphasised`` is the row that stands out."""
    lines = SIMPLE_HEAD if "utf" in (sys.stdout.encoding or "utf").lower() else None
    grid = Table(box=lines, pad_edge=False, show_edge=False, header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for index, row in enumerate(rows):
        style = "bold" if index == emphasised else ""
        grid.add_row(*(Text(cell(value) or NOTHING) for value in row), style=style)
    return _drawn(grid)


def filled(
    headings: Sequence[str], rows: Iterable[Sequence[object]]
) -> tuple[list[str], list[list[object]]]:
    """Only the columns in which some row says something."""
    found = list(rows)
    kept = [i for i in range(len(headings)) if any(row[i] not in ("", NOTHING) for row in found)]
    return [headings[i] for i in kept], [[row[i] for i in kept] for row in found]


def section(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table under its title; one line that says so when there is nothing in it."""
    found = list(rows)
    return f"{title}\n{table(headings, found)}" if found else f"{title}: none"


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values, one a line, the values aligned."""
    found = [(name, cell(value) or NOTHING) for name, value in rows]
    width = max(len(name) for name, _ in found)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in found)


def listed(values: Iterable[object]) -> str:
    """Values in one cell."""
    return ", ".join(str(value) for value in values)


def counted(count: int, noun: str, nouns: str = "") -> str:
    """How many there are, in words: "1 rule", "2,000 rules"."""
    return f"1 {noun}" if count == 1 else f"{count:,} {nouns or noun + 's'}"


def mapped(values: Mapping[str, str]) -> str:
    """A small mapping in one cell."""
    return listed(f"{name}={values[name]}" for name in sorted(values))


def _drawn(grid: Table) -> str:
    is_terminal = sys.stdout.isatty()
    sheet = io.StringIO()
    width = None if is_terminal else UNBOUNDED_COLUMNS
    console = Console(
        file=sheet, width=width, force_terminal=is_terminal, highlight=False, markup=False
    )
    console.print(grid)
    return "\n".join(line.rstrip() for line in sheet.getvalue().splitlines())


def document(message: Message) -> dict[str, Any]:
    """A message as a plain document, its shares free of binary noise."""
    plain: dict[str, Any] = _tidy(to_document(message))
    return plain


def documents(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as plain documents."""
    return [document(message) for message in messages]


def as_json(value: object) -> str:
    """One JSON document."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _tidy(value: Any) -> Any:
    match value:
        case float():
            # steps of 0.001 are all that the protos' doubles hold
            rounded = round(value, 3)
            return int(rounded) if rounded.is_integer() else rounded
        case dict():
            return {name: _tidy(item) for name, item in value.items()}
        case list():
            return [_tidy(item) for item in value]
        case _:
            return value
