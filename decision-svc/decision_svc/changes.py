"""The changes people make, as pure functions from a policy's document to the next one.

They take and return plain documents (see ``canary_engine.parse``) and check only what the
document alone does not show, e.g. that a name exists; the result is parsed as a whole
afterwards, so a wrong field is complained about there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from canary_engine import parse
from canary_engine.errors import RefusedMove

from decision_svc.errors import AlreadyExists, BadRequest, NotFound
from decision_svc.store.protocol import MemberEdit

Document = dict[str, Any]
Edit = Callable[[Document], Document]

MAX_MEMBERS = 10_000
MAX_APPROVALS = 100
# What befalls a version after its registration; the rest makes it this build and no other.
_LIFE = {"status": None, "release_date": None, "rollback_date": None}


def register_version(version: Mapping[str, Any]) -> Edit:
    """Add a version; registering the same one again changes nothing, but for a first stable one."""

    def edit(policy: Document) -> Document:
        if version.get("status") == "canary":
            raise BadRequest("version.status: a version becomes canary when its release starts")
        versions = policy.setdefault("versions", [])
        old = _find(versions, "version", version.get("version"))
        if old is not None:
            if _build(old) != _build(version):
                raise AlreadyExists(
                    f"version {version.get('version')!r} is registered with another build: "
                    "remove it first, or give the new build another name"
                )
            return _with_status(policy, old, version.get("status"))
        versions.append(dict(version))
        return policy

    return edit


def _with_status(policy: Document, version: Document, wanted: str | None) -> Document:
    """A version that there was with the status that is wanted of it, as far as that may be said."""
    has, name, key = version.get("status"), version["version"], policy["service_key"]
    if wanted in (None, has):
        return policy
    if wanted != "stable":
        raise RefusedMove(
            f"version {name!r} is registered already, and is not {wanted}: "
            f"canaryctl version deprecate {key} {name}"
        )
    stable = _find(policy["versions"], "status", "stable")
    if stable is not None or has is not None:
        ruling = f"{stable['version']!r} is stable" if stable else f"it is {has}"
        start = "" if has == "canary" else f"canaryctl release start {key} {name}, then "
        raise RefusedMove(
            f"version {name!r} is registered already, and {ruling}: a release makes it stable: "
            f"{start}canaryctl release promote {key}"
        )
    version["status"] = "stable"
    return policy


def deprecate_version(name: str) -> Edit:
    """Mark a version as no longer to be released."""

    def edit(policy: Document) -> Document:
        _idle_version(policy, name)["status"] = "deprecated"
        return policy

    return edit


def remove_version(name: str) -> Edit:
    """Forget a version."""

    def edit(policy: Document) -> Document:
        policy["versions"].remove(_idle_version(policy, name))
        return policy

    return edit


def revert(earlier: Mapping[str, Any]) -> Edit:
    """Go back to an earlier document, but for what must not be forgotten.

    Guards and approvals stay, so that going back is no way around them; so do the key that
    overrides are checked with and those that were revoked, and when versions were rolled back.
    Memberships are read anew.
    """

    def edit(policy: Document) -> Document:
        reverted = deepcopy(dict(earlier))
        for field in ("revision", "membership_epoch", "guards", "approvals"):
            _take(field, policy, reverted)
        _keep_trust(policy, reverted)
        _keep_rollbacks(policy, reverted)
        return reverted

    return in_turn(edit, renew_memberships)


def _keep_trust(policy: Document, reverted: Document) -> None:
    overrides = dict(reverted.get("overrides", {}))
    for field in ("public_key", "revoked"):
        _take(field, policy.get("overrides", {}), overrides)
    reverted["overrides"] = overrides


def _keep_rollbacks(policy: Document, reverted: Document) -> None:
    rollbacks = {v["version"]: v.get("rollback_date") for v in policy.get("versions", [])}
    for version in reverted.get("versions", []):
        date = rollbacks.get(version["version"])
        if date is not None and version.get("status") != "stable":
            version["rollback_date"] = date


def _take(field: str, source: Mapping[str, Any], target: Document) -> None:
    """Give ``target`` the field as ``source`` has it."""
    if field in source:
        target[field] = deepcopy(source[field])
    else:
        target.pop(field, None)


def approve(approval: Mapping[str, Any]) -> Edit:
    """Add a consent to a move of a version that there is."""

    def edit(policy: Document) -> Document:
        _existing(policy.get("versions", []), "version", approval["version"], "version")
        approvals = policy.setdefault("approvals", [])
        if len(approvals) >= MAX_APPROVALS:
            raise RefusedMove(
                f"there are {len(approvals)} approvals that nobody used: withdraw some first"
            )
        approvals.append(dict(approval))
        return policy

    return edit


def withdraw_approval(id_: str) -> Edit:
    """Take a consent back."""

    def edit(policy: Document) -> Document:
        approvals = policy.get("approvals", [])
        approvals.remove(_existing(approvals, "id", id_, "approval"))
        return policy

    return edit


def replace(field: str, value: Any) -> Edit:
    """Put ``value`` in place of a whole field; an empty value removes it."""

    def edit(policy: Document) -> Document:
        policy[field] = deepcopy(value)
        return policy

    return edit


def add_rule(rule: Mapping[str, Any], position: int | None) -> Edit:
    """Insert a rule; None is last."""

    def edit(policy: Document) -> Document:
        rules = policy.setdefault("rules", [])
        if _find(rules, "name", rule.get("name")) is not None:
            raise AlreadyExists(f"there is a rule {rule.get('name')!r}: remove it first")
        if position is not None and position > len(rules):
            raise BadRequest(f"position: there are {len(rules)} rules, give 0 to {len(rules)}")
        rules.insert(len(rules) if position is None else position, dict(rule))
        return policy

    return edit


def put(field: str, item: Mapping[str, Any]) -> Edit:
    """Create or replace the item of that name in a list."""

    def edit(policy: Document) -> Document:
        items = policy.setdefault(field, [])
        old = _find(items, "name", item.get("name"))
        if old is None:
            items.append(dict(item))
        else:
            items[items.index(old)] = dict(item)
        return policy

    return edit


def remove(field: str, name: str) -> Edit:
    """Remove the item of that name from a list."""

    def edit(policy: Document) -> Document:
        items = policy.get(field, [])
        items.remove(_existing(items, "name", name, field.removesuffix("s")))
        return policy

    return edit


def add_to_whitelist(entries: Mapping[str, Sequence[str]]) -> Edit:
    """Add entries that are not there yet."""

    def edit(policy: Document) -> Document:
        whitelist = policy.setdefault("whitelist", {})
        for kind, values in entries.items():
            whitelist[kind] = list(dict.fromkeys([*whitelist.get(kind, []), *values]))
        return policy

    return edit


def remove_from_whitelist(entries: Mapping[str, Sequence[str]]) -> Edit:
    """Remove entries; all of them must be there."""

    def edit(policy: Document) -> Document:
        whitelist = policy.get("whitelist", {})
        for kind, values in entries.items():
            gone = set(values)
            missing = gone.difference(whitelist.get(kind, ()))
            if missing:
                raise NotFound(f"whitelist.{kind} does not hold {', '.join(sorted(missing))}")
            whitelist[kind] = [value for value in whitelist[kind] if value not in gone]
        return policy

    return edit


def put_segment(segment: Mapping[str, Any]) -> Edit:
    """Create or replace a segment; copies of its users' memberships become invalid."""
    return in_turn(put("segments", segment), renew_memberships)


def remove_segment(name: str) -> Edit:
    """Remove a segment; its members are dropped by ``member_edit(name, drop=True)``."""
    return in_turn(remove("segments", name), renew_memberships)


def change_members(name: str, users: Sequence[str]) -> Edit:
    """Check that ``users`` may be added to or removed from a segment."""

    def edit(policy: Document) -> Document:
        segment = _existing(policy.get("segments", []), "name", name, "segment")
        if not segment.get("listed"):
            raise BadRequest(
                f"segment: {name!r} lists no users; put it with listed: true to add some"
            )
        if not 0 < len(users) <= MAX_MEMBERS:
            raise BadRequest(f"users: give 1 to {MAX_MEMBERS:,} user ids, not {len(users):,}")
        for index, user in enumerate(users):
            if not 0 < len(user) <= 128:
                raise BadRequest(f"users[{index}]: give a user id of 1 to 128 characters")
        return policy

    return in_turn(edit, renew_memberships)


def renew_memberships(policy: Document) -> Document:
    """Make copies of memberships that were read before invalid."""
    policy["membership_epoch"] = policy.get("membership_epoch", 0) + 1
    return policy


def in_turn(*edits: Edit) -> Edit:
    """One edit after the other."""

    def edit(policy: Document) -> Document:
        for step in edits:
            policy = step(policy)
        return policy

    return edit


def member_edit(segment: str, **what: Any) -> tuple[MemberEdit, ...]:
    """The member edit that goes with a change."""
    return (MemberEdit(segment=segment, **what),)


def _build(version: Mapping[str, Any]) -> Document:
    """What makes it this build, however its times and empty fields are written."""
    policy = parse.policy({"service_key": "any", "versions": [{**version, **_LIFE}]})
    return parse.document(policy.versions[0])


def _find(items: list[Document], field: str, name: Any) -> Document | None:
    return next((item for item in items if item.get(field) == name), None)


def _existing(items: list[Document], field: str, name: str, kind: str) -> Document:
    found = _find(items, field, name)
    if found is None:
        names = ", ".join(str(item.get(field)) for item in items[:10]) or "none"
        raise NotFound(f"there is no {kind} {name!r}; there is: {names}")
    return found


def _idle_version(policy: Document, name: str) -> Document:
    version = _existing(policy.get("versions", []), "version", name, "version")
    if version.get("status") in ("stable", "canary"):
        raise RefusedMove(f"version {name!r} is {version['status']}: release another one first")
    return version
