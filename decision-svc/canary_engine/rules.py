"""Ordered rules, indexed so that a thousand exact values cost as much as ten.

Values that match by equality are looked up in a table by source and key; patterns and
networks are tried one by one, and only while they stand before the best match so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import re2

from canary_engine.model import Request, Rule, Source
from canary_engine.network import NetworkSet
from canary_engine.parse import pattern_options

_Ranked = tuple[int, Rule]
_Tables = dict[str, dict[str, _Ranked]]


class RuleIndex:
    """Finds the first rule that a request matches."""

    __slots__ = ("_consumers", "_cookies", "_headers", "_last", "_paths", "_tests")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._headers: _Tables = {}
        self._cookies: _Tables = {}
        self._paths: dict[str, _Ranked] = {}
        self._consumers: dict[str, _Ranked] = {}
        self._tests: list[tuple[int, Callable[[Request], bool], Rule]] = []
        rank = -1
        for rank, rule in enumerate(rules):
            if rule.source is Source.IP or rule.pattern is not None:
                self._tests.append((rank, _test(rule), rule))
                continue
            table = self._table(rule)
            for value in (rule.exact,) if rule.exact is not None else rule.one_of:
                table.setdefault(value, (rank, rule))
        self._last = rank + 1

    def _table(self, rule: Rule) -> dict[str, _Ranked]:
        match rule.source:
            case Source.HEADER:
                return self._headers.setdefault(rule.key, {})
            case Source.COOKIE:
                return self._cookies.setdefault(rule.key, {})
            case Source.PATH:
                return self._paths
            case _:
                return self._consumers

    def first(self, request: Request) -> Rule | None:
        """The first rule that matches; None if none does."""
        best, found = self._last, None
        for tables, values in (
            (self._headers, request.headers),
            (self._cookies, request.cookies),
        ):
            if tables:
                rank, rule = _lowest(tables, values, best)
                if rule is not None:
                    best, found = rank, rule
        for table, value in (
            (self._paths, request.path),
            (self._consumers, request.consumer),
        ):
            if table and (hit := table.get(value)) is not None and hit[0] < best:
                best, found = hit
        for rank, test, rule in self._tests:
            if rank >= best:
                break
            if test(request):
                return rule
        return found


def _lowest(tables: _Tables, values: Mapping[str, str], best: int) -> tuple[int, Rule | None]:
    """The lowest-ranked hit under ``best``, walking whichever side has fewer names."""
    found = None
    for name in tables if len(tables) <= len(values) else values:
        value, table = values.get(name), tables.get(name)
        if value is not None and table is not None:
            hit = table.get(value)
            if hit is not None and hit[0] < best:
                best, found = hit
    return best, found


def _test(rule: Rule) -> Callable[[Request], bool]:
    if rule.source is Source.IP and rule.pattern is None:
        networks = NetworkSet(rule.cidrs or rule.one_of or (rule.exact or "",))
        return lambda request: bool(networks.find(request.client_ip))
    assert rule.pattern is not None
    search = re2.compile(rule.pattern, pattern_options()).search
    read = reader(rule.source, rule.key)

    def is_match(request: Request) -> bool:
        value = read(request)
        return bool(value) and search(_encodable(value)) is not None

    return is_match


def _encodable(value: str) -> str:
    """The text with bytes that were no UTF-8 replaced: RE2 refuses lone surrogates."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def reader(source: Source, key: str) -> Callable[[Request], str]:
    """A function that reads ``source`` (and ``key``) from a request; "" if absent."""
    match source:
        case Source.HEADER:
            return lambda request: request.headers.get(key, "")
        case Source.COOKIE:
            return lambda request: request.cookies.get(key, "")
        case Source.IP:
            return lambda request: request.client_ip
        case Source.PATH:
            return lambda request: request.path
        case Source.CONSUMER:
            return lambda request: request.consumer
