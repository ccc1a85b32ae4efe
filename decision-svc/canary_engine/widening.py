"""Which parts of a change may give the canary to somebody whom the draw does not give it.

Nobody can count the people whom a rule reaches, so each part is judged by what it says: it only
narrows if every request that gets the canary after the change got it before. Whatever cannot be
shown to narrow may widen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from canary_engine.model import (
    BUCKETS,
    Compatibility,
    Criteria,
    Flag,
    Policy,
    Rule,
    Segment,
    Variant,
    Whitelist,
)


def widening(
    before: Policy,
    after: Policy,
    *,
    joined: Collection[str] = (),
    left: Collection[str] = (),
) -> tuple[str, ...]:
    """The parts that may give the canary to more people, by the policy's names for them.

    ``joined`` and ``left`` are the listed segments that get or lose members.
    """
    narrows = {
        "rules": _rules_narrow(before.rules, after.rules),
        "compatibility": _compatibility_narrows(before, after),
        "whitelist": _whitelist_narrows(before.whitelist, after.whitelist),
        "segments": _segments_narrow(before, after),
        "members": not _members_widen(after, joined, left),
        "flags": _flags_narrow(before.flags, after.flags),
        "bucketing": before.bucketing == after.bucketing,
        "identity": before.identity == after.identity,
    }
    return tuple(part for part, is_so in narrows.items() if not is_so)


def _rules_narrow(before: Iterable[Rule], after: Iterable[Rule]) -> bool:
    """Whether no rule that gives the canary is new, or stands before one for stable as it did not.

    A rule that gives stable must stay, too: without it a request goes on to the stages after.
    """
    old, new = (_by_what_they_say(rules) for rules in (before, after))
    last_stable = -1
    for rule in old:
        is_stable = rule.variant is Variant.STABLE
        if is_stable and rule not in new:
            return False
        if is_stable:
            last_stable = max(last_stable, new[rule])
        elif rule in new and new[rule] < last_stable:
            return False
    return all(rule in old for rule in new if rule.variant is Variant.CANARY)


def _by_what_they_say(rules: Iterable[Rule]) -> dict[Rule, int]:
    """Each rule without its name, in their order, and where it stands first."""
    found: dict[Rule, int] = {}
    for place, rule in enumerate(rules):
        found.setdefault(replace(rule, name=""), place)
    return found


def _compatibility_narrows(before: Policy, after: Policy) -> bool:
    """Whether whom the canary cannot serve is still told from the others, and kept on stable."""
    old, new = (_kept_away(policy) for policy in (before, after))
    return not old or (old <= new and _places(before.compatibility) == _places(after.compatibility))


def _kept_away(policy: Policy) -> frozenset[str]:
    version = policy.release.version if policy.release is not None else ""
    rules = policy.compatibility.rules
    return frozenset(r.source for r in rules if r.to == version and not r.compatible)


def _places(found: Compatibility) -> tuple[str, str, str]:
    return found.header, found.path_prefix, found.media_type


def _whitelist_narrows(before: Whitelist, after: Whitelist) -> bool:
    return (
        set(after.ips) <= set(before.ips)
        and set(after.users) <= set(before.users)
        and set(after.consumers) <= set(before.consumers)
    )


def _segments_narrow(before: Policy, after: Policy) -> bool:
    """Whether protected ones stay as they are, and eligible ones give it to no others."""
    old, new = ({s.name: s for s in policy.segments} for policy in (before, after))
    in_flags = {name for flag in after.flags for name in flag.segments}
    stay = all(new.get(s.name) == s for s in old.values() if not s.canary_eligible)
    return (
        stay
        and all(
            s.name in old and _who(s) == _who(old[s.name])
            for s in new.values()
            if s.canary_eligible or s.name in in_flags
        )
        and all(
            _share(s.share) <= _share(old[s.name].share) for s in new.values() if s.canary_eligible
        )
    )


def _who(segment: Segment) -> tuple[bool, Criteria | None]:
    return segment.listed, segment.criteria


def _share(share: int | None) -> int:
    return BUCKETS if share is None else share


def _members_widen(policy: Policy, joined: Collection[str], left: Collection[str]) -> bool:
    gives = {segment.name for segment in policy.segments if segment.canary_eligible}
    gives |= {name for flag in policy.flags for name in flag.segments}
    protects = {segment.name for segment in policy.segments if not segment.canary_eligible}
    return not gives.isdisjoint(joined) or not protects.isdisjoint(left)


def _flags_narrow(before: Iterable[Flag], after: Iterable[Flag]) -> bool:
    old = {flag.name: flag for flag in before}
    return all(_flag_narrows(old.get(flag.name), flag) for flag in after if flag.enabled)


def _flag_narrows(old: Flag | None, new: Flag) -> bool:
    if old is None or not old.enabled:
        return not (new.share or new.users or new.segments)
    return (
        new.share <= old.share
        and set(new.users) <= set(old.users)
        and set(new.segments) <= set(old.segments)
    )
