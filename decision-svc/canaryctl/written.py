"""What a write did, told from the revisions before and after it: no other's change goes unseen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from canary.admin.v1 import admin_pb2

from canaryctl import render
from canaryctl.client import Client
from canaryctl.errors import UNAVAILABLE, Refusal

if TYPE_CHECKING:
    from canary_engine.diff import Difference

LATELY_S = 60
"""Another's change that is no older than this is told, whether or not it was seen before."""
MAX_OTHERS = 3
MAX_TOLD = 20
MAX_LINE = 400

# What the service notes by itself; and what a start makes of it.
_NOTED = (
    "id", "salt", "started_at", "ended_at", "control", "weight_since", "judged_since", "fence",
)  # fmt: skip
_UNSEEN = frozenset({"service_key", *(f"release.{name}" for name in _NOTED)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is known of a write: what it changed, and who else changed something just before it."""

    is_made: bool = True
    """Whether it made a revision; else there was nothing to change."""
    changes: Sequence[Difference] = ()
    others: Sequence[admin_pb2.ChangeRecord] = ()
    at_s: float = 0.0
    """When it was made, seconds since 1970 by the service's clock."""


def newest(client: Client, service_key: str) -> int | None:
    """The revision before a write; 0 if there is none, None if it must not be seen.

    Raises Refusal if nobody answers, for then a write would not be heard either.
    """
    request = admin_pb2.ListChangesRequest(service_key=service_key, limit=1)
    try:
        found = client.call(client.admin.ListChanges, request).changes
    except Refusal as refusal:
        if refusal.exit_code == UNAVAILABLE:
            raise
        return 0 if refusal.code == "not-found" else None
    return found[0].revision if found else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A write and its answer. ``read`` is the revision that was the newest before.

    ``is_alone``: the command made no other, so that what the revision changed is all it did.
    ``is_named``: it has an idempotency key, so that the revision may have been made before.
    """

    service_key: str
    reason: str
    revision: int
    read: int | None
    is_alone: bool = True
    is_named: bool = False


def told(client: Client, write: Write) -> Told:
    """What the write did.

    As much as can be read: that it cannot be told is no reason to say that the write failed.
    """
    try:
        return _told(client, write)
    except Refusal:
        return Told()


def _told(client: Client, write: Write) -> Told:
    revision, read = write.revision, write.read
    if read is not None and revision <= read and not write.is_named:
        return Told(is_made=False)
    request = admin_pb2.ListChangesRequest(
        service_key=write.service_key, before_revision=revision + 1, limit=MAX_OTHERS + 1
    )
    found = client.call(client.admin.ListChanges, request).changes
    if not found or found[0].revision != revision:
        return Told()
    own = found[0]
    if own.reason != write.reason:
        return Told(is_made=False)  # it was made meanwhile by somebody else, and left nothing to do
    return Told(
        changes=_changes(client, write.service_key, revision) if write.is_alone else (),
        others=tuple(others(found, read)),
        at_s=_seconds(own),
    )


def others(
    found: Sequence[admin_pb2.ChangeRecord], read: int | None
) -> Iterator[admin_pb2.ChangeRecord]:
    """Those of the changes before the first that somebody else made lately, or after ``read``."""
    own = found[0]
    for record in found[1:]:
        is_new = read is not None and record.revision > read
        is_late = _seconds(own) - _seconds(record) <= LATELY_S
        if record.actor != own.actor and (is_new or is_late):
            yield record


def _changes(client: Client, service_key: str, revision: int) -> list[Difference]:
    from canary_engine import diff  # here, for commands that write nothing start without it

    try:
        before, after = (
            _document(client, service_key, number) if number else {}
            for number in (revision - 1, revision)
        )
    except Refusal:  # it may no longer be kept, or be too large to be told in time
        return []
    return [
        difference
        for difference in diff.differences(before, after, diff.UNSEEN | _UNSEEN)
        if not difference.path.endswith((".release_date", ".rollback_date"))
    ]


def _document(client: Client, service_key: str, revision: int) -> dict[str, Any]:
    request = admin_pb2.GetPolicyRequest(service_key=service_key, revision=revision)
    return render.document(client.call(client.admin.GetPolicy, request).policy)


def _seconds(record: admin_pb2.ChangeRecord) -> float:
    return record.at.seconds + record.at.nanos / 1e9


def lines(told: Told) -> list[str]:
    """The same for people: from and to, then who else."""
    found = [shortened(*difference) for difference in told.changes[:MAX_TOLD]]
    if len(told.changes) > MAX_TOLD:
        found.append(f"and {render.counted(len(told.changes) - MAX_TOLD, 'more change')}")
    return [*found, *(_other(told, record) for record in told.others)]


def shortened(path: str, before: str, after: str) -> str:
    """A difference in one line that is not too long."""
    text = line(path, before, after)
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 2]} …"


def line(path: str, before: str, after: str) -> str:
    """A difference in one line."""
    if not before:
        return render.cell(f"+ {path}: {after}")
    if not after:
        return render.cell(f"- {path}: {before}")
    return render.cell(f"~ {path}: {before} -> {after}")


def _other(told: Told, record: admin_pb2.ChangeRecord) -> str:
    before_s = max(told.at_s - _seconds(record), 0)
    what = render.cell(f"{record.actor} made revision {record.revision}: {record.summary}")
    return f"{before_s:.0f} s before this, {what}"


def documents(told: Told) -> dict[str, Any]:
    """The same for scripts; what is empty is absent."""
    found: dict[str, Any] = {}
    if not told.is_made:
        found["nothing_changed"] = True
    if told.changes:
        found["changes"] = [_read(difference) for difference in told.changes]
    if told.others:
        found["others"] = render.documents(told.others)
    return found


def _read(difference: Difference) -> dict[str, Any]:
    sides = (("before", difference.before), ("after", difference.after))
    return {
        "path": difference.path,
        **{name: json.loads(text) for name, text in sides if text},
    }
