"""Who is in a segment: listed one by one in the store, or like its criteria at a moment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from canary_engine.model import Criteria, Identity, Person, Registered, Request, Segment

TIER, REGION, TAGS, REGISTERED_AT = "tier", "region", "tags", "registered_at"


class Attributes:
    """A user's attributes: the stored profile first, the request's headers where it is silent."""

    __slots__ = ("_headers", "_person", "_request")

    def __init__(self, request: Request, person: Person, identity: Identity) -> None:
        self._request, self._person = request, person
        self._headers: Mapping[str, str] = identity.attribute_headers

    def _header(self, name: str) -> str:
        header = self._headers.get(name)
        return self._request.headers.get(header, "") if header else ""

    def text(self, name: str) -> str:
        """The attribute of that name; "" if nobody says."""
        profile = self._person.profile
        if name == TIER:
            return profile.tier or self._header(TIER)
        if name == REGION:
            return profile.region or self._header(REGION)
        return profile.custom.get(name, "") or self._header(name)

    def tags(self) -> frozenset[str]:
        """The user's tags; a header names several separated by commas."""
        if self._person.profile.tags:
            return self._person.profile.tags
        return frozenset(tag.strip() for tag in self._header(TAGS).split(",") if tag.strip())

    def registered_at(self) -> datetime | None:
        """When the user registered; None if nobody says or what a header says is no time."""
        if self._person.profile.registered_at is not None:
            return self._person.profile.registered_at
        try:
            moment = datetime.fromisoformat(self._header(REGISTERED_AT))
        except ValueError:
            return None
        return moment if moment.tzinfo is not None else None


def is_member(segment: Segment, person: Person, attributes: Attributes, now: datetime) -> bool:
    """Whether the user is in the segment at ``now``."""
    if segment.listed and segment.name in person.listed_in:
        return True
    return segment.criteria is not None and _meets(segment.criteria, attributes, now)


def _meets(criteria: Criteria, attributes: Attributes, now: datetime) -> bool:
    if criteria.tiers and attributes.text(TIER) not in criteria.tiers:
        return False
    if criteria.regions and attributes.text(REGION) not in criteria.regions:
        return False
    if criteria.tags and attributes.tags().isdisjoint(criteria.tags):
        return False
    if criteria.registered and not _registered_in(
        criteria.registered, attributes.registered_at(), now
    ):
        return False
    return all(attributes.text(name) == value for name, value in criteria.custom.items())


def _registered_in(when: Registered, moment: datetime | None, now: datetime) -> bool:
    if moment is None:
        return False
    if when.last_days:
        return now - timedelta(days=when.last_days) <= moment <= now
    after_start = when.start is None or when.start <= moment
    return after_start and (when.end is None or moment < when.end)
