"""Ordered rules, indexed so that a thousand exact values cost as much as ten.

Values that match by equality are looked up in a table by source and key; patterns and
networks are tried one by one, and only while they stand before the best match so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter

import re2

from canary_engine.facts import Read, reader
from canary_engine.model import Request, Rule, Source
from canary_engine.network import NetworkSet
from canary_engine.pattern import pattern_options

_Table = dict[str, tuple[int, Rule]]
_NAMED = {Source.HEADER: attrgetter("headers"), Source.COOKIE: attrgetter("cookies")}
_FEW = 8


class RuleIndex:
    """Finds the first rule that a request matches."""

    __slots__ = ("_cookies", "_has_others", "_headers", "_last", "_many", "_single", "_tests")

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
        self._last = rank + 1
        # A few names are looked for in the request; of many, those that the request has.
        named = {source: tables.pop(source) for source in _NAMED}
        few = {source: by_name if len(by_name) <= _FEW else {} for source, by_name in named.items()}
        self._headers = tuple(few[Source.HEADER].items())
        self._cookies = tuple(few[Source.COOKIE].items())
        self._many = tuple(
            (_NAMED[source], by_name) for source, by_name in named.items() if len(by_name) > _FEW
        )
        self._single: tuple[tuple[Read, _Table], ...] = tuple(
            (reader(source, ""), table)
            for source, by_key in tables.items()
            for table in by_key.values()
        )
        self._tests = tuple(tests)
        self._has_others = bool(self._many or self._single or self._tests)

    def first(self, request: Request) -> Rule | None:
        """The first rule that matches; None if none does."""
        best, found = self._last, None
        # Most policies read a few headers and cookies and nothing else, most requests have
        # none of them: that is said without a further call, in one loop for either.
        headers = request.headers
        for name, table in self._headers:
            if name in headers:
                hit = table.get(headers[name])
                if hit is not None and hit[0] < best:
                    best, found = hit
        cookies = request.cookies
        for name, table in self._cookies:
            if name in cookies:
                hit = table.get(cookies[name])
                if hit is not None and hit[0] < best:
                    best, found = hit
        return self._or_before(best, found, request) if self._has_others else found

    def _or_before(self, best: int, found: Rule | None, request: Request) -> Rule | None:
        """The first of the other rules if it stands before ``best``, else what was found."""
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
