"""Stage 6: segments of users, the protected ones first.

A user's tier is looked up before anything else is tested: most segments are for some tiers
only, and so each user meets just the segments that their tier leaves.
"""

from __future__ import annotations

from datetime import datetime

from canary_engine.keys import Measure
from canary_engine.model import (
    Answer,
    Decision,
    Identity,
    Person,
    PersonNeeded,
    Policy,
    Reason,
    Request,
    Segment,
    Variant,
)
from canary_engine.parse import percentage
from canary_engine.segments import TIER, ByTier, Test, membership, membership_by_tier
from canary_engine.stages.stage import Stage
from canary_engine.verdicts import Measured, Verdicts

_MAX_LOOKED_UP = 10_000
"""Tiers times segments; where there are more, a tier is tested like any other criterion."""

_Protected = tuple[tuple[Test, Decision], ...]
_Eligible = tuple[tuple[Test, int | None, Decision, Measured], ...]


def segment_stage(verdicts: Verdicts, measure: Measure, policy: Policy) -> Stage:
    """Keeps protected users on stable; gives eligible ones the canary, or a share of them."""
    identity = policy.identity
    user_id_header = identity.user_id_header
    tier_header = identity.attribute_headers.get(TIER, "")
    segments = sorted(policy.segments, key=lambda segment: segment.canary_eligible)
    protects = any(not segment.canary_eligible for segment in segments)
    unknown = verdicts.plain(Variant.STABLE, Reason.DEFAULT)

    named = {tier for s in segments if s.criteria is not None for tier in s.criteria.tiers}
    if len(named) * len(segments) > _MAX_LOOKED_UP:
        named = set()
    rows = [
        (
            segment,
            membership_by_tier(segment, identity) if named else _of_any_tier(segment, identity),
            verdicts.plain(_gives(segment), Reason.SEGMENT, segment.name),
            verdicts.measured(_gives(segment), Reason.SEGMENT, segment.name),
        )
        for segment in segments
    ]

    def tests(tier: str | None) -> tuple[_Protected, _Eligible]:
        protected, eligible = [], []
        for segment, by_tier, decision, measured in rows:
            is_member = by_tier.of_these if tier in by_tier.tiers else by_tier.of_others
            if is_member is not None and segment.canary_eligible:
                eligible.append((is_member, segment.share, decision, measured))
            elif is_member is not None:
                protected.append((is_member, decision))
        return tuple(protected), tuple(eligible)

    of_tier, of_others = {tier: tests(tier) for tier in named}, tests(None)

    def decide(request: Request, person: Person | None, now: datetime) -> Answer | None:
        if person is None:
            return PersonNeeded(request.headers.get(user_id_header, ""))
        tier = person.profile.tier
        if not tier and tier_header:
            tier = request.headers.get(tier_header, "")
        protected, eligible = of_tier.get(tier, of_others)
        for is_member, decision in protected:
            if is_member(request, person, now):
                return decision
        if protects and not person.is_known:
            return unknown
        for is_member, share, decision, measured in eligible:
            if is_member(request, person, now):
                if share is None:
                    return decision
                bucket, must_keep = measure(request)
                if bucket is not None and bucket < share:
                    return measured(bucket, must_keep)
        return None

    members = [(segment, membership(segment, identity)) for segment in segments]

    def find(request: Request, person: Person, now: datetime) -> str:
        of = [_words(s) for s, is_member in members if is_member(request, person, now)]
        text = f"the user is in {', '.join(of)}" if of else "the user is in no segment"
        return (
            text if person.is_known else f"{text}, but the store did not say in time who they are"
        )

    def measures(request: Request, person: Person, now: datetime) -> bool:
        return any(s.share is not None and is_in(request, person, now) for s, is_in in members)

    return Stage(Reason.SEGMENT, decide, find, measures)


def _gives(segment: Segment) -> Variant:
    return Variant.CANARY if segment.canary_eligible else Variant.STABLE


def _of_any_tier(segment: Segment, identity: Identity) -> ByTier:
    test = membership(segment, identity)
    return ByTier(frozenset(), test, test)


def _words(segment: Segment) -> str:
    if not segment.canary_eligible:
        return f"{segment.name} (protected)"
    if segment.share is None:
        return f"{segment.name} (eligible)"
    return f"{segment.name} (eligible, {percentage(segment.share)} %)"
