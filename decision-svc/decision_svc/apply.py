"""What a policy is to be, as a file says it: pure, from a document to the next one.

Only what the file has is touched. A part that it has is what it says; of the lists whose things
have names (rules, segments, flags, versions), what it does not name stays, unless it is pruned.
The life of versions and releases is never taken from a file, but for the first stable version;
a release is started, or given its percentage, as by any other call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from canary_engine import diff, parse
from canary_engine.errors import InvalidPolicy, RefusedMove
from canary_engine.model import Policy, Release, Strategy, VersionStatus
from canary_engine.reading import Node

from decision_svc import changes
from decision_svc.changes import Document, Edit
from decision_svc.errors import BadRequest
from decision_svc.store.protocol import MemberEdit

NAMED = {"versions": "version", "rules": "name", "segments": "name", "flags": "name"}
_WHOLE = ("compatibility", "whitelist", "bucketing", "identity", "guards", "plan")
_OF_OVERRIDES = ("header", "cookie")
_NOT_FROM_A_FILE = {
    "approvals": "a person gives them: canaryctl approve",
    "membership_epoch": "the service counts it",
}
_LIFE = ("status", "release_date", "rollback_date")
_OF_THE_BUILD = ("build_number", "git_commit", "build_date")
# A release's id and dates are made anew whenever somebody asks what would change.
_OF_ITS_LIFE = (
    "id", "salt", "started_at", "ended_at", "control", "weight_since", "judged_since", "fence",
)  # fmt: skip
_UNSEEN = diff.UNSEEN | {f"release.{name}" for name in _OF_ITS_LIFE}


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRelease:
    """The release that a file asks for; None and "" where it says nothing."""

    version: str
    share: int | None
    strategy: Strategy | None
    salt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a file says: its parts in their one form, and which of them it has."""

    document: Document
    has: frozenset[str]
    release: WantedRelease | None
    prune: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseMoves:
    """How a release is started and given its percentage."""

    start: Callable[[str, int, Strategy, str], Edit]
    set_percentage: Callable[[int], Edit]


def wanted(document: Mapping[str, Any], has: Collection[str], *, prune: bool) -> Wanted:
    """What ``document`` says, of which a file has the fields ``has`` (dotted below the top).

    Raises BadRequest or InvalidPolicy with a path for each complaint.
    """
    named = frozenset(has) | document.keys()
    top = {name.partition(".")[0] for name in named} - {"service_key", "revision"}
    known = {field.name for field in fields(Policy)}
    complaints = [f"{name}: {_NOT_FROM_A_FILE[name]}" for name in top if name in _NOT_FROM_A_FILE]
    complaints += [f"{name}: unknown field" for name in top - known]
    if complaints:
        raise BadRequest(*sorted(complaints))
    release = _wanted_release(document.get("release"), named) if "release" in top else None
    given = {name: part for name, part in document.items() if name not in ("release", "revision")}
    return Wanted(
        document=parse.document(parse.fields_of(given)),
        has=frozenset(top),
        release=release,
        prune=prune,
    )


def edit(file: Wanted, moves: ReleaseMoves) -> Edit:
    """The edit that makes a policy what the file says."""

    def edited(policy: Document) -> Document:
        old_segments = policy.get("segments")
        for field, key in NAMED.items():
            if field in file.has:
                policy[field] = _merged(field, key, policy.get(field, []), file)
        for field in _WHOLE:
            if field in file.has:
                changes.replace(field, file.document.get(field))(policy)
        if "overrides" in file.has:
            policy["overrides"] = _overrides(policy, file.document)
        if policy.get("segments") != old_segments and (policy.get("segments") or old_segments):
            changes.renew_memberships(policy)
        return policy if file.release is None else _released(policy, file.release, moves)

    return edited


def dropped_members(before: Policy, after: Policy) -> tuple[MemberEdit, ...]:
    """The member edits that go with segments that are no longer there."""
    kept = {segment.name for segment in after.segments}
    gone = [segment.name for segment in before.segments if segment.name not in kept]
    return tuple(MemberEdit(segment=name, drop=True) for name in gone)


def differences(before: Policy, after: Policy) -> list[diff.Difference]:
    """What the file changes."""
    return diff.differences(parse.document(before), parse.document(after), _UNSEEN)


def summary(found: Sequence[diff.Difference]) -> str:
    """What was changed, in words that name no user."""
    counts: dict[str, int] = {}
    for difference in found:
        field = difference.path.partition("[")[0].partition(".")[0].partition(" ")[0]
        counts[field] = counts.get(field, 0) + 1
    listed = ", ".join(f"{count} in {field}" for field, count in counts.items())
    return f"apply a file: {listed or 'nothing in it differs'}"


def _wanted_release(part: Any, has: Collection[str]) -> WantedRelease:
    if not isinstance(part, Mapping):
        raise InvalidPolicy(["release: give a mapping with the version"])
    complaints: list[str] = []
    node = Node(part, "release", complaints)
    share = node.share("percentage")
    found = WantedRelease(
        version=node.name("version"),
        share=0 if share is None and "release.percentage" in has else share,
        strategy=node.word("strategy", Strategy) if node.has("strategy") else None,
        salt=node.name("salt") if node.has("salt") else "",
    )
    # What befell the release may stand in the file, as policy show prints it, and is not taken.
    node.seen.update(field.name for field in fields(Release))
    node.finish()
    if complaints:
        raise InvalidPolicy(complaints)
    return found


def _released(policy: Document, file: WantedRelease, moves: ReleaseMoves) -> Document:
    found = parse.policy(policy)
    release, stable = found.release, found.version_with(VersionStatus.STABLE)
    if release is None or not release.is_in_force or release.version != file.version:
        if stable is not None and stable.version == file.version:
            return policy  # the release that the file asks for was promoted
        strategy = file.strategy or Strategy.COMBINED
        return moves.start(file.version, file.share or 0, strategy, file.salt)(policy)
    if file.strategy not in (None, release.strategy):
        _refuse("strategy", str(release.strategy), str(file.strategy), release)
    if file.salt not in ("", release.salt):
        _refuse("salt", release.salt, file.salt, release)
    if file.share is None or file.share == release.share:
        return policy
    return moves.set_percentage(file.share)(policy)


def _refuse(field: str, has: str, wanted: str, release: Release) -> None:
    raise RefusedMove(
        f"release.{field}: release {release.id} was started with {has!r} and cannot change to "
        f"{wanted!r}: leave the field out, or abandon the release and start another"
    )


def _merged(field: str, key: str, old: list[Document], file: Wanted) -> list[Document]:
    """The list with what the file names in the file's order, in the places these had."""
    given = {item[key]: item for item in file.document.get(field, [])}
    if field == "versions":
        known = {item[key]: item for item in old}
        has_stable = any(item.get("status") == "stable" for item in old)
        given = {n: _version(known.get(n), item, has_stable) for n, item in given.items()}
        if file.prune:
            _check_idle(item for item in old if item[key] not in given)
    if file.prune:
        return list(given.values())
    rest = list(given.values())
    merged: list[Document] = []
    places = sum(item[key] in given for item in old)
    for item in old:
        if item[key] not in given:
            merged.append(item)
            continue
        places -= 1
        taken = 1 if places else len(rest)  # those without a place follow the last that has one
        merged += rest[:taken]
        rest = rest[taken:]
    return [*merged, *rest]


def _version(old: Document | None, given: Document, has_stable: bool) -> Document:
    """The version with what the file says of its build, and the life it has."""
    build = {name: value for name, value in given.items() if name not in _LIFE}
    if given.get("status") == "stable" and not has_stable and "status" not in (old or {}):
        build["status"] = "stable"
    if old is None:
        return build
    for name in _OF_THE_BUILD:
        if name in build and old.get(name) not in (None, build[name]):
            raise BadRequest(
                f"versions[{old['version']}].{name}: it is registered with {old[name]!r}: "
                "give another build another name"
            )
    return {**old, **build}


def _check_idle(pruned: Any) -> None:
    for version in pruned:
        if version.get("status") in ("stable", "canary"):
            raise RefusedMove(
                f"versions: the file does not name {version['version']!r}, which is "
                f"{version['status']} and cannot be pruned"
            )


def _overrides(policy: Document, file: Document) -> Document:
    """The overrides with the file's header and cookie; whom to believe is not for a file."""
    kept = {n: v for n, v in policy.get("overrides", {}).items() if n not in _OF_OVERRIDES}
    given = file.get("overrides", {})
    return {**kept, **{name: given[name] for name in _OF_OVERRIDES if name in given}}
