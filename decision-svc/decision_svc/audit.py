"""The audit trail: every change becomes one link of a chain, which nothing changes afterwards.

A link is JSON with sorted keys. It names the SHA-256 of the link before it, so one that was
edited, removed, inserted or moved is noticed; its own SHA-256 stands beside it. There is a chain
for each service key and one, named "", for what belongs to none.

User ids are hashed under the salt that the chain's first link carries: somebody can be followed
through one chain, and not from one to another. Who makes changes is named, for that is the point.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from canary_engine import parse, reads
from canary_engine.diff import Difference, differences
from canary_engine.model import Policy, Rule, Source
from canary_engine.pseudonyms import Hash, address_of_one, hashing, is_personal, is_plain_name

from decision_svc.access import caller
from decision_svc.store.protocol import (
    AuditStore,
    ChainMoved,
    ChangeRecord,
    Document,
    Link,
    MemberEdit,
    StoreUnavailable,
    Tail,
)

GENERAL = ""
"""The chain of what belongs to no service key."""
MAX_CHANGES = 1_000
MAX_VALUE = 8_192
MAX_VALUES = 262_144
MAX_TRIES = 50

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who asks for something, why and when."""

    actor: str
    reason: str
    at: datetime


class Audit:
    """Notes what makes no revision of a policy. The clock gives UTC."""

    def __init__(
        self,
        store: AuditStore,
        *,
        clock: Callable[[], datetime],
        new_salt: Callable[[], str],
    ) -> None:
        self._store, self._clock, self._new_salt = store, clock, new_salt
        self._one_at_a_time = asyncio.Lock()

    async def note(
        self,
        service_key: str,
        actor: str,
        reason: str,
        summary: str,
        told: Callable[[Hash], Fields] = lambda _: {},
    ) -> None:
        """Add a link; ``told`` says what there is to say, with ids hashed by what it is given.

        Call it before the change is made: a change without a link must not be. Raises
        StoreUnavailable, and then a link may have been written all the same.
        """
        author = Author(actor=actor, reason=reason, at=self._clock())
        async with self._one_at_a_time:
            for attempt in range(MAX_TRIES):
                tail = await self._store.tail(service_key)
                link = self._next(service_key, tail, author, summary, told)
                try:
                    await self._append(service_key, link)
                except ChainMoved:
                    if attempt == MAX_TRIES - 1:
                        raise
                else:
                    return

    def _next(
        self,
        service_key: str,
        tail: Tail,
        author: Author,
        summary: str,
        told: Callable[[Hash], Fields],
    ) -> Link:
        salt = salt_of(tail) or self._new_salt()
        fields = {**_said(author, summary, service_key), **told(hashing(salt))}
        return _link(tail, salt, fields)

    async def _append(self, service_key: str, link: Link) -> None:
        try:
            await self._store.append(service_key, link)
        except StoreUnavailable:
            # It may have been done and the answer lost.
            last = (await self._store.tail(service_key)).last
            if last != link:
                await self._store.append(service_key, link)


def revision_link(
    tail: Tail,
    record: ChangeRecord,
    before: Policy,
    after: Policy,
    document_hash: str,
    members: Sequence[MemberEdit],
    new_salt: Callable[[], str],
) -> Link:
    """The link of a new revision, ``after``; ``document_hash`` is ``parse.content_hash`` of it."""
    salt = salt_of(tail) or new_salt()
    hash_ = hashing(salt)
    author = Author(actor=record.actor, reason=record.reason, at=record.at)
    old, new = _without_same_plan(*_without_same_versions(before, after))
    found = differences(masked(old, hash_), masked(new, hash_))
    fields = {
        **_said(author, record.summary, before.service_key),
        "revision": record.revision,
        "document": document_hash,
        **changes_told(found),
    }
    if record.key:
        fields["idempotency_key"] = record.key
    if members:
        fields["members"] = [_member_edit(edit, hash_) for edit in members]
    return _link(tail, salt, fields)


def _without_same_versions(before: Policy, after: Policy) -> tuple[Policy, Policy]:
    """Both without the versions that are the same in both: a policy may have 10,000."""
    if before.versions is after.versions:
        return replace(before, versions=()), replace(after, versions=())
    old = {version.version: version for version in before.versions}
    new = {version.version: version for version in after.versions}
    if [name for name in old if name in new] != [name for name in new if name in old]:
        return before, after  # the order has changed, which is said of the whole
    # Nearly all are the same object, which is seen without comparing their fields.
    same = {name for name, v in old.items() if (w := new.get(name)) is v or w == v}
    return (
        replace(before, versions=tuple(v for name, v in old.items() if name not in same)),
        replace(after, versions=tuple(v for name, v in new.items() if name not in same)),
    )


def _without_same_plan(before: Policy, after: Policy) -> tuple[Policy, Policy]:
    """Both without the plan if it is the same: it is long, and hardly any change is about it."""
    if before.plan is None or before.plan != after.plan:
        return before, after
    return replace(before, plan=None), replace(after, plan=None)


def salt_of(tail: Tail) -> str:
    """The salt that the chain's first link carries; "" if there is none, or nobody can read it."""
    return "" if tail.first is None else _salt_in(tail.first.entry)


# The first link of a chain is asked for at each of its changes.
@lru_cache(maxsize=1_024)
def _salt_in(entry: str) -> str:
    try:
        fields = json.loads(entry)
    except (ValueError, RecursionError):
        return ""  # Somebody edited it. That is for verification to say; changes go on.
    salt = fields.get("salt") if isinstance(fields, dict) else None
    return salt if isinstance(salt, str) else ""


def masked(policy: Policy, hash_: Hash) -> Document:
    """The policy's document with the ids of people hashed, wherever they may be.

    Besides users those are the values that a request is hashed by, so consumers too unless
    the policy looks elsewhere for hash keys; addresses of one household; and values of headers,
    cookies and attributes whose names do not say that they are of a kind of people.
    """
    document = parse.document(policy)
    if policy.shadow is not None:
        document["shadow"]["policy"] = masked(policy.shadow.policy, hash_)
    people = {(key.source, key.key) for key in reads.hash_keys(policy)}
    people.add((Source.HEADER, policy.identity.user_id_header))
    if plan := document.get("plan"):
        document["plan"] = _without_secrets(plan, hash_)
    if whitelist := document.get("whitelist"):
        kinds = ["users"] + ["consumers"] * ((Source.CONSUMER, "") in people)
        hidden = _hashed(whitelist, kinds, hash_)
        document["whitelist"] = _hashed(hidden, ["ips"], _of_household(hash_))
    if flags := document.get("flags"):
        document["flags"] = [_hashed(flag, ["users"], hash_) for flag in flags]
    if rules := document.get("rules"):
        document["rules"] = [
            _rule(rule, written, hash_, is_hidden=is_personal(rule, people, policy.identity))
            for rule, written in zip(policy.rules, rules, strict=True)
        ]
    if segments := document.get("segments"):
        document["segments"] = [_segment(segment, hash_) for segment in segments]
    return document


def changes_told(found: Sequence[Difference]) -> Fields:
    """Before and after, as far as a link has room; ``more`` says how many fields differ besides."""
    told: list[Fields] = []
    room = MAX_VALUES
    for difference in found[:MAX_CHANGES]:
        change: Fields = {"path": difference.path}
        for side in ("before", "after"):
            written = getattr(difference, side)
            if written:
                change[side] = _shortened(written)
        room -= len(_json(change))
        if room < 0:
            break
        told.append(change)
    more = len(found) - len(told)
    return {"changes": told} | ({"more": more} if more else {})


def _said(author: Author, summary: str, service_key: str) -> Fields:
    who = caller.current()
    fields: Fields = {
        "actor": author.actor,
        "at": author.at.isoformat(),
        "how": str(who.how),
        "peer": who.peer,
        "reason": author.reason,
        "service_key": service_key,
        "summary": summary,
    }
    role = who.role(service_key)
    return fields | ({"role": str(role)} if role is not None else {})


def _link(tail: Tail, salt: str, fields: Fields) -> Link:
    """The next link. A chain that somebody spoiled goes on: verification says so, and a
    rollback must be possible all the same."""
    sequence = tail.length + 1
    if salt != salt_of(tail):
        fields["salt"] = salt
    entry = _json(fields | {"sequence": sequence, "previous": tail.last.hash if tail.last else ""})
    return Link(
        sequence=sequence,
        entry=entry,
        hash=sha256(entry.encode()).hexdigest(),
    )


def _member_edit(edit: MemberEdit, hash_: Hash) -> Fields:
    fields: Fields = {"segment": edit.segment}
    if edit.drop:
        fields["dropped"] = True
    if edit.add:
        fields["added"] = sorted(map(hash_, edit.add))
    if edit.remove:
        fields["removed"] = sorted(map(hash_, edit.remove))
    return fields


def _hashed(table: Mapping[str, Any], names: Iterable[str], hash_: Hash) -> Fields:
    """The table with the texts, and lists of texts, of those names hashed."""
    result = dict(table)
    for name in names:
        value = result.get(name)
        if value is not None:
            result[name] = hash_(value) if isinstance(value, str) else list(map(hash_, value))
    return result


def _rule(rule: Rule, written: Fields, hash_: Hash, *, is_hidden: bool) -> Fields:
    if is_hidden:
        return _hashed(written, ["exact", "one_of", "pattern", "cidrs"], hash_)
    if rule.source is not Source.IP:
        return written
    hidden = _hashed(written, ["pattern"], hash_)
    return _hashed(hidden, ["exact", "one_of", "cidrs"], _of_household(hash_))


def _of_household(hash_: Hash) -> Hash:
    """Hashes addresses of one household, and leaves wider networks as they are."""
    return lambda text: hash_(one) if (one := address_of_one(text)) else text


def _segment(segment: Mapping[str, Any], hash_: Hash) -> Mapping[str, Any]:
    criteria = segment.get("criteria") or {}
    if not (custom := criteria.get("custom")):
        return segment
    told = {
        name: value if is_plain_name(name) and "@" not in value else hash_(value)
        for name, value in custom.items()
    }
    return {**segment, "criteria": {**criteria, "custom": told}}


def _without_secrets(value: Any, hash_: Hash) -> Any:
    """The value with the paths of webhooks hashed, for whoever knows one may call it."""
    match value:
        case Mapping():
            return {
                name: _without_path(item, hash_)
                if name == "url" and isinstance(item, str)
                else _without_secrets(item, hash_)
                for name, item in value.items()
            }
        case list():
            return [_without_secrets(item, hash_) for item in value]
        case _:
            return value


def _without_path(url: str, hash_: Hash) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}/{hash_(url)}"


def _shortened(text: str) -> Any:
    """The value, or what tells it from others if it is too long."""
    if len(text) <= MAX_VALUE:
        return json.loads(text)
    return {"characters": len(text), "sha256": sha256(text.encode()).hexdigest()}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
