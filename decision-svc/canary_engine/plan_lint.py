"""Advice about plans: what a plan may do and had better not, each warning with its reason.

The figures are those that the product ships as advice; a plan that is warned about is still a
plan. What is peculiar to a policy (who is first, who is protected) is looked at where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise

from canary_engine.guards import is_frozen
from canary_engine.model import BUCKETS, Policy, Segment, Source, Strategy, Variant
from canary_engine.plan import Freeze, Plan, Weekday, length, seconds
from canary_engine.plan_cautions import Warning as Warning  # noqa: A004 - the word for it
from canary_engine.plan_cautions import cautions

POINT = BUCKETS // 100
FIRST = (1 * POINT, 5 * POINT)
STEP = (5 * POINT, 10 * POINT)
HOLD_S = (30 * 60, 120 * 60)
MOST = 50 * POINT
BUSY = ("09:00", "18:00")
"""The hours of a working day in which most people use what is released."""
WORKING_DAYS = frozenset(tuple(Weekday)[:5])
TESTERS = ("alpha", "tester", "internal", "staff", "employee")
BETA = ("beta", "pilot", "early")
ENTERPRISE = "enterprise"


def lint(plan: Plan, policy: Policy | None, now: datetime) -> list[Warning]:
    """The advice that ``plan`` does not follow, if it began ``now``."""
    found = [*_first(plan), *_steps(plan), *_holds(plan), *_most(plan), *_windows(plan)]
    if policy is not None:
        found += [*_audience(policy), *_enterprise(policy)]
    found += cautions(plan, policy)
    frozen = plan.freezes if policy is None else (*plan.freezes, *policy.guards.freezes)
    return [*found, *_blackouts(plan, frozen, now)]


def _first(plan: Plan) -> Iterator[Warning]:
    weight = plan.steps[0].weight
    low, high = FIRST
    if not low <= weight <= high:
        why = (
            "what is wrong with a version should meet few people first"
            if weight > high
            else "too few people meet it for anything to be seen"
        )
        yield Warning("steps[0].weight", f"{_share(weight)} at first; 1 to 5 % is advised", why)


def _steps(plan: Plan) -> Iterator[Warning]:
    low, high = STEP
    weights = [step.weight for step in plan.steps]
    for index, (before, after) in enumerate(pairwise(weights), 1):
        says = f"{_points(after - before)} more at once; 5 to 10 points a step are advised"
        if after - before > high:
            why = "a large step shows a fault to many people before anybody has seen it"
            yield Warning(f"steps[{index}].weight", says, why)
        elif after - before < low:
            why = "a small step takes as long to judge as a larger one and shows little more"
            yield Warning(f"steps[{index}].weight", says, why)


def _holds(plan: Plan) -> Iterator[Warning]:
    shortest, longest = HOLD_S
    for index, step in enumerate(plan.steps):
        says = f"held for {step.hold}; 30 minutes to 2 hours are advised"
        if step.hold_s < shortest:
            why = "leaks, queues and caches take a while to show"
            yield Warning(f"steps[{index}].hold", says, why)
        elif step.hold_s > longest:
            why = "two versions at once are harder to run than one, and the release drags on"
            yield Warning(f"steps[{index}].hold", says, why)


def _most(plan: Plan) -> Iterator[Warning]:
    highest = max(plan.max_weight, plan.steps[-1].weight)
    if highest > MOST:
        yield Warning(
            "max_weight",
            f"up to {_share(highest)} before the promotion; at most 50 % are advised",
            "what half of all people have used is proven: promote it rather than keep two versions",
        )


def _windows(plan: Plan) -> Iterator[Warning]:
    if not plan.windows:
        yield Warning(
            "windows",
            "the weight may be raised at any hour; an off-peak window is advised",
            "off peak, fewer people meet a fault, and there is room to react",
        )
    for index, window in enumerate(plan.windows):
        days = [day for day in window.weekdays or Weekday if day in WORKING_DAYS]
        if days and _overlaps(window.start, window.end):
            yield Warning(
                f"windows[{index}]",
                f"it is open in working hours ({BUSY[0]} to {BUSY[1]}, {window.time_zone}); "
                "off-peak hours are advised",
                "most people are there then, and meet whatever is wrong",
            )


def _overlaps(start: str, end: str) -> bool:
    """Whether hours that may go past midnight touch the busy ones of the day they begin on."""
    until = end if start < end else "24:00"
    return (start < BUSY[1] and until > BUSY[0]) or (start >= end and end > BUSY[0])


def _audience(policy: Policy) -> Iterator[Warning]:
    """Testers first, then beta, then others."""
    takes_part = _strategy(policy) in (Strategy.COMBINED, Strategy.USER_SEGMENT)
    eligible = [s for s in policy.segments if s.canary_eligible] if takes_part else []
    testers, beta = _like(eligible, TESTERS, BETA), _like(eligible, BETA, ())
    by_hand = policy.whitelist.users or policy.whitelist.ips or policy.whitelist.consumers
    if not (testers or by_hand or any(r.variant is Variant.CANARY for r in policy.rules)):
        yield Warning(
            "segments",
            "nobody gets the canary before the percentage does; internal testers first is advised",
            "they expect faults, and tell of them",
        )
    if not beta:
        yield Warning(
            "segments",
            "there is no eligible segment of beta users; after testers, they are advised",
            "they asked for what is new, so that a fault costs little trust",
        )
    others = [s for s in eligible if s not in testers and s not in beta]
    for later, sooner, who in ((beta, testers, "testers"), (others, [*testers, *beta], "beta")):
        least = min((_share_of(s) for s in sooner), default=0)
        for segment in later:
            if sooner and _share_of(segment) > least:
                yield Warning(
                    f"segments[{policy.segments.index(segment)}].percentage",
                    f"{segment.name} gets {_share(_share_of(segment))}, more than {who} do; "
                    "testers, then beta, then others is advised",
                    "those who expect faults should be the ones who meet them",
                )


def _enterprise(policy: Policy) -> Iterator[Warning]:
    for index, segment in enumerate(policy.segments):
        tiers = segment.criteria.tiers if segment.criteria is not None else ()
        if segment.canary_eligible and ENTERPRISE in tiers:
            yield Warning(
                f"segments[{index}]",
                f"{segment.name} gives enterprise users the canary; never first is advised",
                "a fault costs most with them",
            )
            return
    if not any(_protects(policy)):
        yield Warning(
            "segments",
            "nothing keeps enterprise users on stable; never first is advised",
            "a fault costs most with them: a protected segment or a rule keeps them out",
        )


def _protects(policy: Policy) -> Iterator[bool]:
    """Whether a segment or a rule keeps enterprise users on stable."""
    if _strategy(policy) in (Strategy.COMBINED, Strategy.USER_SEGMENT):
        for segment in policy.segments:
            tiers = segment.criteria.tiers if segment.criteria is not None else ()
            named = ENTERPRISE in segment.name.lower()
            yield not segment.canary_eligible and (ENTERPRISE in tiers or named)
    for rule in policy.rules:
        values = (rule.exact or "", *rule.one_of, rule.pattern or "", rule.name)
        yield (
            rule.variant is Variant.STABLE
            and rule.source in (Source.HEADER, Source.COOKIE, Source.CONSUMER)
            and any(ENTERPRISE in value.lower() for value in values)
        )


def _blackouts(plan: Plan, freezes: Iterable[Freeze], now: datetime) -> Iterator[Warning]:
    """Freezes that are in force, or begin before the plan can have ended."""
    takes_s = sum(step.hold_s for step in plan.steps)
    moments = [now + timedelta(seconds=s) for s in range(0, takes_s + 1, seconds("30m"))]
    for freeze in freezes:
        hit = next((at for at in moments if is_frozen(freeze, at)), None)
        if hit is not None:
            begins = (
                "is in force" if hit == now else f"begins within the {length(takes_s)} it takes"
            )
            yield Warning(
                "freezes",
                f"freeze {freeze.name!r} {begins}; not during a blackout is advised",
                "the release would stand still half-way, and fewer people are there to react",
            )


def _strategy(policy: Policy) -> Strategy:
    return policy.release.strategy if policy.release is not None else Strategy.COMBINED


def _like(
    segments: Iterable[Segment], words: tuple[str, ...], but: tuple[str, ...]
) -> list[Segment]:
    """The segments whose name or tags hold one of the words, and none of the others."""
    found = []
    for segment in segments:
        tags = segment.criteria.tags if segment.criteria is not None else ()
        said = " ".join((segment.name, *tags)).lower()
        if any(word in said for word in words) and not any(word in said for word in but):
            found.append(segment)
    return found


def _share_of(segment: Segment) -> int:
    return BUCKETS if segment.share is None else segment.share


def _share(share: int) -> str:
    return f"{share * 100 / BUCKETS:g} %"


def _points(share: int) -> str:
    return f"{share * 100 / BUCKETS:g} points"
