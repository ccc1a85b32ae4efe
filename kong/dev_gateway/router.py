"""Which route takes a request: Kong's order of precedence, computed once, walked per request."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dev_gateway.address import split_host_port
from dev_gateway.context import RequestContext
from dev_gateway.entities import Route

_Rank = tuple[int, int, int, int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The route, and the part of the path by which it matched."""

    route: Route
    matched_path: str
    captures: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One route with one of its paths: routes with several paths compete path by path."""

    route: Route
    prefix: str | None
    regex: re.Pattern[str] | None
    hosts: tuple[re.Pattern[str], ...]
    headers: tuple[tuple[str, tuple[re.Pattern[str], ...]], ...]
    rank: _Rank


class Router:
    """Immutable; a reload makes a new one."""

    def __init__(self, routes: Sequence[Route]) -> None:
        entries = [entry for index, route in enumerate(routes) for entry in _entries(route, index)]
        self._entries = tuple(sorted(entries, key=lambda entry: entry.rank, reverse=True))

    def find(self, ctx: RequestContext, host_header: str) -> Match | None:
        """The first entry, in order of precedence, that the request satisfies."""
        host = host_header.lower()
        for entry in self._entries:
            match = _match_path(entry, ctx.path)
            if match is not None and _fits(entry, ctx, host):
                return match
        return None


def _entries(route: Route, index: int) -> Iterator[_Entry]:
    hosts = tuple(_host_pattern(host) for host in route.hosts)
    headers = tuple(
        (name, tuple(_value_pattern(value) for value in values))
        for name, values in route.headers.items()
    )
    for path in route.paths or (None,):
        is_regex = path is not None and path.startswith("~")
        yield _Entry(
            route=route,
            prefix=None if is_regex else path,
            regex=re.compile(path[1:]) if path is not None and is_regex else None,
            hosts=hosts,
            headers=headers,
            rank=_rank(route, path, index),
        )


def _rank(route: Route, path: str | None, index: int) -> _Rank:
    kinds = (route.hosts, route.headers, route.paths, route.methods)
    is_plain_host = bool(route.hosts) and not any("*" in host for host in route.hosts)
    is_regex = path is not None and path.startswith("~")
    return (
        sum(bool(kind) for kind in kinds),
        int(is_plain_host),
        len(route.headers),
        int(is_regex),
        route.regex_priority if is_regex else 0,
        len(path or ""),
        -index,
    )


def _host_pattern(host: str) -> re.Pattern[str]:
    name, port = split_host_port(host)
    shape = re.escape(name).replace(r"\*", ".+")
    return re.compile(shape + (rf":{port}" if port else r"(:\d+)?"))


def _value_pattern(value: str) -> re.Pattern[str]:
    if value.startswith("~*"):
        return re.compile(f".*(?:{value[2:]}).*", re.IGNORECASE)
    return re.compile(re.escape(value), re.IGNORECASE)


def _match_path(entry: _Entry, path: str) -> Match | None:
    if entry.regex is not None:
        found = entry.regex.match(path)
        if found is None:
            return None
        captures = {str(n): value for n, value in enumerate(found.groups()) if value is not None}
        captures.update(
            {name: value for name, value in found.groupdict().items() if value is not None}
        )
        return Match(route=entry.route, matched_path=found[0], captures=captures)
    if entry.prefix is not None and not path.startswith(entry.prefix):
        return None
    return Match(route=entry.route, matched_path=entry.prefix or "", captures={})


def _fits(entry: _Entry, ctx: RequestContext, host: str) -> bool:
    route = entry.route
    if route.methods and ctx.method not in route.methods:
        return False
    if entry.hosts and not any(pattern.fullmatch(host) for pattern in entry.hosts):
        return False
    return all(
        _any_match(patterns, ctx.headers.getall(name, ())) for name, patterns in entry.headers
    )


def _any_match(patterns: Iterable[re.Pattern[str]], values: Sequence[str]) -> bool:
    return any(pattern.fullmatch(value) for pattern in patterns for value in values)


def upstream_path(match: Match, path: str, base: str) -> str:
    """Kong's path handling v0: the service's path, then what of the request's path is kept."""
    if not match.route.strip_path:
        if base.endswith("/"):
            return base + path[1:]
        return base if path == "/" else base + path
    rest = path[len(match.matched_path) :]
    if not rest:
        return _bare(path, base)
    if base.endswith("/"):
        return base[:-1] + rest if rest.startswith("/") else base + rest
    return base + rest if rest.startswith("/") else f"{base}/{rest}"


def _bare(path: str, base: str) -> str:
    """Nothing is left of the request's path: its trailing slash decides about the base's."""
    if base.endswith("/"):
        return base if base == "/" or path.endswith("/") else base[:-1]
    return f"{base}/" if len(path) > 1 and path.endswith("/") else base
