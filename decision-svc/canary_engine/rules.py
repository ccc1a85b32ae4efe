"""Ordered rules, indexed so that a thousand exact values cost as much as ten.

Values that match by equality are looked up in a table by source and key; patterns and
networks are tried one by one, and only while they stand before the best match so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter

import re2

from canary_engine.model import Request, Rule, Source
from canary_engine.network import NetworkSet
from canary_engine.parse import pattern_options

Read = Callable[[Request], str]
_Table = dict[str, tuple[int, Rule]]
_NAMED = {Source.HEADER: attrgetter("headers"), Source.COOKIE: attrgetter("cookies")}
_FEW = 8


class RuleIndex:
    """Finds the first rule that a request matches."""

    __slots__ = ("_few", "_last", "_many", "_single", "_tests")

    def __init__(self, rules: Iterable[Rule]) -> None:
        tables: dict[Source, dict[str, _Table]] = {source: {} for source in Source}
        tests: list[tuple[int, Callable[[Request], bool], Rule]] = []
        rank = -1
        for rank, rule in enumerate(rules):
            if rule.source is Source.IP or rule.pattern is not None:
                tests.append((rank, _test(rule), rule))
                continue
            table = tables[rule.source].setdefault(rule.key, {})
            for value in (rule.exact,) if rule.exact is not None else rule.one_of:
                table.setdefault(value, (rank, rule))
        named = [(values_of, tables.pop(source)) for source, values_of in _NAMED.items()]
        # A few names are looked for in the request; of many, those that the request has.
        self._few = tuple(
            (values_of, name, table)
            for values_of, by_name in named
            if len(by_name) <= _FEW
            for name, table in by_name.items()
        )
        self._many = tuple(entry for entry in named if len(entry[1]) > _FEW)
        self._single: tuple[tuple[Read, _Table], ...] = tuple(
            (reader(source, ""), table)
            for source, by_key in tables.items()
            for table in by_key.values()
        )
        self._tests = tuple(tests)
        self._last = rank + 1

    def first(self, request: Request) -> Rule | None:
        """The first rule that matches; None if none does."""
        best, found = self._last, None
        for values_of, name, table in self._few:
            values: Mapping[str, str] = values_of(request)
            if name in values:
                hit = table.get(values[name])
                if hit is not None and hit[0] < best:
                    best, found = hit
        for values_of, by_name in self._many:
            for name, value in values_of(request).items():
                if name in by_name:
                    hit = by_name[name].get(value)
                    if hit is not None and hit[0] < best:
                        best, found = hit
        for read, table in self._single:
            hit = table.get(read(request))
            if hit is not None and hit[0] < best:
                best, found = hit
        for rank, test, rule in self._tests:
            if rank >= best:
                break
            if test(request):
                return rule
        return found


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


def reader(source: Source, key: str) -> Read:
    """A function that reads ``source`` (and ``key``) from a request; "" if absent."""
    match source:
        case Source.HEADER:
            return lambda request: request.headers.get(key, "")
        case Source.COOKIE:
            return lambda request: request.cookies.get(key, "")
        case Source.IP:
            return attrgetter("client_ip")
        case Source.PATH:
            return attrgetter("path")
        case Source.CONSUMER:
            return attrgetter("consumer")


def first_of(readers: tuple[Read, ...]) -> Read:
    """A function that reads the first of these that a request has; "" if it has none."""
    if not readers:
        return lambda request: ""
    if len(readers) == 1:
        return readers[0]
    read, read_others = readers[0], first_of(readers[1:])
    return lambda request: read(request) or read_others(request)
