"""Who is in a segment: listed one by one in the store, or like its criteria at a moment.

An attribute is what the stored profile says; where it is silent, what the request's header says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import NamedTuple

from canary_engine.model import Criteria, Identity, Person, Profile, Registered, Request, Segment

TIER, REGION, TAGS, REGISTERED_AT = "tier", "region", "tags", "registered_at"

Test = Callable[[Request, Person, datetime], bool]


def membership(segment: Segment, identity: Identity) -> Test:
    """A function that says whether a user is in the segment at a moment."""
    name = segment.name
    like = _like(segment.criteria, identity) if segment.criteria is not None else None
    if not segment.listed:
        return like or (lambda request, person, now: False)
    if like is None:
        return lambda request, person, now: name in person.listed_in
    return lambda request, person, now: name in person.listed_in or like(request, person, now)


class ByTier(NamedTuple):
    """A segment's test for users of the tiers it names, and for all others (None: nobody is)."""

    tiers: frozenset[str]
    of_these: Test
    of_others: Test | None


def membership_by_tier(segment: Segment, identity: Identity) -> ByTier:
    """The same as ``membership``, for a caller who looks the user's tier up first."""
    criteria = segment.criteria
    if criteria is None or not criteria.tiers:
        test = membership(segment, identity)
        return ByTier(frozenset(), test, test)
    rest = replace(segment, criteria=replace(criteria, tiers=()))
    listed = membership(replace(segment, criteria=None), identity) if segment.listed else None
    return ByTier(frozenset(criteria.tiers), membership(rest, identity), listed)


def _like(criteria: Criteria, identity: Identity) -> Test:
    tests = tuple(_tests(criteria, identity))
    if len(tests) == 1:  # the usual case needs no loop
        return tests[0]
    if not tests:
        return lambda request, person, now: True

    def holds_all(request: Request, person: Person, now: datetime) -> bool:
        for test in tests:  # noqa: SIM110 - all() takes as long as two tests
            if not test(request, person, now):
                return False
        return True

    return holds_all


def _tests(criteria: Criteria, identity: Identity) -> Iterator[Test]:
    """A test for every criterion that is given."""
    headers = identity.attribute_headers
    if criteria.tiers:
        yield _text(TIER, headers.get(TIER, ""), criteria.tiers)
    if criteria.regions:
        yield _text(REGION, headers.get(REGION, ""), criteria.regions)
    if criteria.tags:
        yield _tagged(headers.get(TAGS, ""), criteria.tags)
    if criteria.registered:
        yield _registered(headers.get(REGISTERED_AT, ""), criteria.registered)
    for name, value in criteria.custom.items():
        yield _text(name, headers.get(name, ""), (value,))


def _text(name: str, header: str, wanted: tuple[str, ...]) -> Test:
    accepted, of_profile = frozenset(wanted), _of_profile(name)
    if not header:
        return lambda request, person, now: of_profile(person.profile) in accepted
    if name == REGION:  # as below without a call; tiers are mostly looked up, see ByTier
        return lambda request, person, now: (
            (person.profile.region or request.headers.get(header, "")) in accepted
        )
    return lambda request, person, now: (
        (of_profile(person.profile) or request.headers.get(header, "")) in accepted
    )


def _of_profile(name: str) -> Callable[[Profile], str]:
    if name in (TIER, REGION):
        return attrgetter(name)
    return lambda profile: profile.custom.get(name, "")


def _tagged(header: str, wanted: tuple[str, ...]) -> Test:
    accepted = frozenset(wanted)

    def is_tagged(request: Request, person: Person, now: datetime) -> bool:
        tags = person.profile.tags
        if tags or not header:
            return not accepted.isdisjoint(tags)
        # A header names several separated by commas.
        for tag in request.headers.get(header, "").split(","):
            if tag.strip() in accepted and tag.strip():
                return True
        return False

    return is_tagged


def _registered(header: str, when: Registered) -> Test:
    def is_registered(request: Request, person: Person, now: datetime) -> bool:
        moment = person.profile.registered_at
        if moment is None and header:
            moment = _moment(request.headers.get(header, ""))
        return moment is not None and _falls_within(when, moment, now)

    return is_registered


def _moment(text: str) -> datetime | None:
    """The moment a header names; None if what it says is no time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _falls_within(when: Registered, moment: datetime, now: datetime) -> bool:
    if when.last_days:
        return now - timedelta(days=when.last_days) <= moment <= now
    after_start = when.start is None or when.start <= moment
    return after_start and (when.end is None or moment < when.end)
