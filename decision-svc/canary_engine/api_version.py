"""Which version of the API a client speaks, where it says so, and whether it is deprecated."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from canary_engine.facts import Read, reader
from canary_engine.model import (
    Answer,
    Compatibility,
    Decision,
    Deprecation,
    Person,
    Request,
    Source,
)

ACCEPT = "accept"
_EPOCH = datetime.fromtimestamp(0, UTC)

# Decision._replace() takes three times as long.
_as_decision = tuple.__new__

Decide = Callable[[Request, Person | None, datetime], Answer | None]


def places(compatibility: Compatibility) -> tuple[tuple[Source, str], ...]:
    """The parts of a request that may name the version, in the order of looking."""
    found = []
    if compatibility.header:
        found.append((Source.HEADER, compatibility.header))
    if compatibility.path_prefix:
        found.append((Source.PATH, ""))
    if compatibility.media_type:
        found.append((Source.HEADER, ACCEPT))
    return tuple(found)


def place_words(compatibility: Compatibility) -> str:
    """The same for people."""
    found = []
    if compatibility.header:
        found.append(f"header {compatibility.header}")
    if compatibility.path_prefix:
        found.append(f"the path after {compatibility.path_prefix}")
    if compatibility.media_type:
        found.append(f"{compatibility.media_type} in header {ACCEPT}")
    return ", ".join(found)


def version_reader(compatibility: Compatibility) -> Read:
    """A function that reads the client's API version; "" if the request names none.

    The first place that says something counts, whether or not that version is known.
    """
    ways: list[Read] = []
    if compatibility.header:
        ways.append(reader(Source.HEADER, compatibility.header))
    if compatibility.path_prefix:
        ways.append(_path_reader(compatibility.path_prefix))
    if compatibility.media_type:
        ways.append(_accept_reader(compatibility.media_type))
    if len(ways) == 1:
        return ways[0]

    def read(request: Request) -> str:
        for way in ways:
            if version := way(request):
                return version
        return ""

    return read


def _path_reader(prefix: str) -> Read:
    def read(request: Request) -> str:
        path = request.path
        return path[len(prefix) :].partition("/")[0] if path.startswith(prefix) else ""

    return read


def _accept_reader(media_type: str) -> Read:
    def read(request: Request) -> str:
        return accepted_version(request.headers.get(ACCEPT, ""), media_type)

    return read


def accepted_version(accept: str, media_type: str) -> str:
    """The version that the value of an Accept header names for ``media_type`` (lower case).

    With v1 either "type.v1", with or without a suffix such as "+json", or "type;version=v1". Of
    several the client's preference counts (q), then their order. What is malformed is passed over.
    """
    if media_type not in accept.lower():
        return ""
    found, best = "", 0.0
    for wanted in accept.split(","):
        name, *parameters = wanted.split(";")
        version = _version_of(name.strip(), parameters, media_type)
        if version and (preference := _preference(parameters)) > best:
            found, best = version, preference
            if best == 1.0:
                break
    return found


def _version_of(name: str, parameters: list[str], media_type: str) -> str:
    if name[: len(media_type)].lower() != media_type:
        return ""
    rest = name[len(media_type) :]
    if rest.startswith("."):
        return rest[1:].partition("+")[0]
    if rest and not rest.startswith("+"):
        return ""  # another type that begins alike
    return _parameter(parameters, "version")


def _preference(parameters: list[str]) -> float:
    """The q of a media type: 0 (not at all) to 1; 1 for what is no such number."""
    try:
        q = float(_parameter(parameters, "q") or 1)
    except ValueError:
        return 1.0
    return q if 0 <= q <= 1 else 1.0


def _parameter(parameters: list[str], wanted: str) -> str:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == wanted:
            return value.strip().strip('"')
    return ""


def deprecations(compatibility: Compatibility) -> dict[str, Deprecation]:
    """What clients are told, by API version; {} where no request could name one."""
    if not places(compatibility):
        return {}
    return {
        known.version: Deprecation(
            known.deprecated_at or _EPOCH, known.sunset_date, known.migration_guide
        )
        for known in compatibility.api_versions
        if known.deprecated
    }


def telling(compatibility: Compatibility, deciders: tuple[Decide, ...]) -> tuple[Decide, ...]:
    """``deciders`` whose decisions say that the client's API version is deprecated.

    Where none is, they are the same functions: who does not use this does not pay for it.
    """
    told = deprecations(compatibility)
    if not told:
        return deciders
    version_of = version_reader(compatibility)

    def decide(request: Request, person: Person | None, now: datetime) -> Answer | None:
        for ask in deciders:
            answer = ask(request, person, now)
            if answer is None:
                continue
            if isinstance(answer, Decision) and (found := told.get(version_of(request))):
                return _as_decision(Decision, (*answer[:-1], found))
            return answer
        return None

    return (decide,)
