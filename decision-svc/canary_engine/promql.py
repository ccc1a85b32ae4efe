"""Fills a plan's questions to Prometheus in, so that no value can change what is asked.

A name like ``{{version}}`` is filled in inside of a quoted string, where its value is escaped;
``{{window}}`` is a length of time and may stand anywhere. What stands in a comment stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

from canary_engine.errors import CanaryError


class QueryVariable(StrEnum):
    """What a question may name."""

    SERVICE_KEY = "service_key"
    VERSION = "version"
    VARIANT = "variant"
    RELEASE_ID = "release_id"
    WINDOW = "window"


class QueryRefused(CanaryError):  # noqa: N818 - it says what was refused
    """A question cannot be filled in; the message says what to write instead."""


_PARTS = re.compile(
    r"""(?P<quoted>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<raw>`[^`]*`)|(?P<comment>\#[^\n]*)""",
    re.VERBOSE,
)
_NAME = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_QUOTE = re.compile("[\"'`]")
_BRACKET = re.compile(r"[(){}\[\]]")
_CLOSES = {"(": ")", "{": "}", "[": "]"}
# \x27 is a quote in either kind of string, \' only in one of them.
_ESCAPES = {ord(c): f"\\x{ord(c):02x}" for c in "\"'"} | {
    ord("\\"): "\\\\", ord("\n"): "\\n", ord("\r"): "\\r", 0: "\\x00",
}  # fmt: skip


def filled(promql: str, values: Mapping[QueryVariable, str]) -> str:
    """The question with its values. Raises QueryRefused."""
    return "".join(_filled(promql, values))


def complaint(promql: str) -> str:
    """What keeps the question from ever being asked; "" if nothing does."""
    try:
        filled(promql, dict.fromkeys(QueryVariable, "1s"))
    except QueryRefused as refused:
        return str(refused)
    return _unclosed(_PARTS.sub("", _NAME.sub("", promql)))


def _unclosed(bare: str) -> str:
    """What of a question without strings and comments is not closed, or never opened."""
    if quote := _QUOTE.search(bare):
        return f"a string that begins with {quote[0]} does not end"
    opened: list[str] = []
    for character in _BRACKET.findall(bare):
        if character in _CLOSES:
            opened.append(character)
        elif not opened or _CLOSES[opened.pop()] != character:
            return f"{character} closes nothing that is open; count the brackets"
    return f"{opened[-1]} is never closed; count the brackets" if opened else ""


def _filled(promql: str, values: Mapping[QueryVariable, str]) -> Iterator[str]:
    end = 0
    for part in _PARTS.finditer(promql):
        yield _NAME.sub(_bare(values), promql[end : part.start()])
        yield _in_part(part, values)
        end = part.end()
    yield _NAME.sub(_bare(values), promql[end:])


def _in_part(part: re.Match[str], values: Mapping[QueryVariable, str]) -> str:
    if part["comment"] is not None:
        return part[0]
    if part["raw"] is not None and _NAME.search(part[0]):
        raise QueryRefused(f"{part[0]} is in backquotes, where no value is safe: use double quotes")
    return _NAME.sub(lambda found: _value(found, values).translate(_ESCAPES), part[0])


def _bare(values: Mapping[QueryVariable, str]) -> Callable[[re.Match[str]], str]:
    def fill(found: re.Match[str]) -> str:
        value = _value(found, values)
        if found[1] != QueryVariable.WINDOW:
            raise QueryRefused(f'{found[0]} stands outside of a string: write "{found[0]}"')
        return value

    return fill


def _value(found: re.Match[str], values: Mapping[QueryVariable, str]) -> str:
    try:
        return values[QueryVariable(found[1])]
    except ValueError:
        known = ", ".join(f"{{{{{name}}}}}" for name in QueryVariable)
        raise QueryRefused(f"{found[0]} is unknown; there is {known}") from None
