"""Reads one fact of a request, or the first that it has of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter

from canary_engine.model import HashKey, Request, Source

Read = Callable[[Request], str]


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


def first_reader(facts: Iterable[HashKey]) -> Read:
    """A function that reads the first of these facts that a request has; "" if it has none."""
    match list(facts):
        case [fact]:
            return reader(fact.source, fact.key)
        case [HashKey(source=Source.CONSUMER), HashKey(source=Source.HEADER, key=key), *others]:
            # What a policy gets that names none: worth one call instead of four.
            read_others = first_reader(others)
            return lambda request: (
                request.consumer or request.headers.get(key) or read_others(request)
            )
        case [fact, *others]:
            read, read_others = reader(fact.source, fact.key), first_reader(others)
            return lambda request: read(request) or read_others(request)
        case _:
            return lambda request: ""
