"""Rules as Istio's matches, or the reason why they cannot be.

Istio's regular expressions are RE2 like ours, and match a whole value where ours search in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import re2
from canary_engine.model import Compatibility, Rule, Source, Variant
from canary_engine.pattern import pattern_options

Match = dict[str, Any]
"""An HTTPMatchRequest as a plain document."""

# Istio takes these for parts of the request that are no headers, and passes them over.
NO_HEADERS = frozenset({"uri", "scheme", "method", "authority"})

_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of a policy that routes do not have. ``protects``: it keeps somebody on stable."""

    what: str
    why: str
    protects: bool = False


def of_rule(rule: Rule) -> tuple[Match, ...] | LeftOut:
    """The matches of a rule, of which one must hold."""
    found = _of(rule)
    if isinstance(found, str):
        return LeftOut(f"rule {rule.name}", found, protects=rule.variant is Variant.STABLE)
    return found


def _of(rule: Rule) -> tuple[Match, ...] | str:
    values = (rule.exact,) if rule.exact is not None else rule.one_of
    match rule.source:
        case Source.HEADER if rule.key in NO_HEADERS:
            return f"a mesh takes {rule.key} for something else than a header"
        case Source.HEADER if rule.pattern is not None:
            whole = _whole(rule.pattern)
            return whole or (_header(rule.key, {"regex": _searching(rule.pattern)}),)
        case Source.HEADER:
            return tuple(_header(rule.key, {"exact": value}) for value in values)
        case Source.COOKIE if rule.pattern is not None:
            return "a mesh cannot tell where in the header a cookie's value ends"
        case Source.COOKIE:
            return tuple(_header("cookie", {"regex": _cookie(rule.key, value)}) for value in values)
        case Source.PATH if rule.pattern is not None:
            return ({"uri": {"regex": _searching(rule.pattern)}},)
        case Source.PATH:
            return tuple({"uri": {"exact": value}} for value in values)
        case Source.IP:
            return "a mesh does not match a client's address"
        case Source.CONSUMER:
            return "a mesh does not know the gateway's consumers"


def incompatible(
    compatibility: Compatibility, version: str
) -> Iterator[tuple[Match, ...] | LeftOut]:
    """Matches of clients whose API version ``version`` cannot serve.

    A client that names several versions counts if one of them is such: rather too many on stable
    than one on a canary that cannot serve them.
    """
    for rule in compatibility.rules:
        if rule.compatible or rule.to != version:
            continue
        found: list[Match] = []
        if compatibility.header and compatibility.header not in NO_HEADERS:
            found.append(_header(compatibility.header, {"exact": rule.source}))
        if compatibility.path_prefix:
            path = compatibility.path_prefix + rule.source
            found += [{"uri": {"exact": path}}, {"uri": {"prefix": f"{path}/"}}]
        if found:
            yield tuple(found)
        if compatibility.media_type or compatibility.header in NO_HEADERS:
            where = compatibility.media_type or compatibility.header
            why = f"a mesh cannot read the version that {where} names"
            yield LeftOut(f"clients of API version {rule.source}", why, protects=True)


def _header(name: str, how: dict[str, str]) -> Match:
    return {"headers": {name: how}}


def _whole(pattern: str) -> str:
    """Why a pattern cannot be used for headers; "" if it can."""
    # To us a header without a value is none; a mesh would match it.
    if re2.compile(pattern, pattern_options()).search("") is not None:
        return "it matches an empty value, which a mesh takes for one too"
    return ""


def _searching(pattern: str) -> str:
    return f"(?s:.*)(?:{pattern})(?s:.*)"


def _cookie(name: str, value: str) -> str:
    """Of a cookie that is sent twice either counts; to us the first does."""
    blank = "[ \\t]*"
    pair = f'{blank}{_quoted(name)}{blank}={blank}"?{_quoted(value)}"?{blank}'
    return f"(.*;)?{pair}(;.*)?"


def _quoted(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
