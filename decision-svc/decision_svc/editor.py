"""Applies changes to policies: read, edit, judge whole, compare-and-set, tell the snapshot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from canary_engine import parse, release
from canary_engine.errors import InvalidPolicy
from canary_engine.model import Policy, Strategy

from decision_svc.changes import Document, Edit
from decision_svc.documents import stored_policy
from decision_svc.errors import BadRequest
from decision_svc.metrics import Metrics
from decision_svc.snapshot import Snapshot
from decision_svc.store import was_saved
from decision_svc.store.protocol import (
    ChangeRecord,
    LostRace,
    MemberEdit,
    PolicyStore,
    StoreUnavailable,
)

log = structlog.get_logger()

MAX_TRIES = 10
MAX_TEXT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who makes a change, and why."""

    actor: str
    reason: str

    def check(self) -> None:
        """Raise BadRequest unless both are said."""
        complaints = [
            f"{name}: say {what}, in 1 to {MAX_TEXT:,} characters"
            for name, text, what in (
                ("actor", self.actor, "who asks for the change"),
                ("reason", self.reason, "why"),
            )
            if not 0 < len(text.strip()) <= MAX_TEXT
        ]
        if complaints:
            raise BadRequest(*complaints)


class Editor:
    """Makes revisions. The clock gives UTC; ``new_id`` a short random name."""

    def __init__(
        self,
        store: PolicyStore,
        snapshot: Snapshot,
        metrics: Metrics,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._store, self._snapshot, self._metrics = store, snapshot, metrics
        self._clock, self._new_id = clock, new_id

    async def change(
        self,
        service_key: str,
        expected: int | None,
        who: Who,
        summary: str,
        edit: Edit,
        members: Sequence[MemberEdit] = (),
    ) -> int:
        """The new revision; the old one if the edit changes nothing.

        With ``expected`` the race is lost if the policy is at another revision. Without, a
        lost race is run again on the new revision, for the edit may still apply.
        """
        who.check()
        for attempt in range(MAX_TRIES):
            try:
                return await self._try(service_key, expected, who, summary, edit, members)
            except LostRace:
                if expected is not None or attempt == MAX_TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _try(
        self,
        service_key: str,
        expected: int | None,
        who: Who,
        summary: str,
        edit: Edit,
        members: Sequence[MemberEdit],
    ) -> int:
        before = await self._current(service_key)
        if expected is not None and expected != before.revision:
            raise LostRace(service_key, expected, before.revision)
        after = parse.policy(edit(parse.document(before)))
        # An edit of segments renews the memberships, whether or not it changes any.
        if after == replace(before, membership_epoch=after.membership_epoch) and not members:
            return before.revision
        return await self._save(after, before.revision + 1, who, summary, members)

    async def _save(
        self, policy: Policy, revision: int, who: Who, summary: str, members: Sequence[MemberEdit]
    ) -> int:
        document = {**parse.document(policy), "revision": revision}
        record = ChangeRecord(
            revision=revision,
            actor=who.actor,
            at=self._clock(),
            reason=who.reason,
            summary=summary[:MAX_TEXT],
        )
        await self._write(policy.service_key, document, record, members)
        # This replica need not wait for its own announcement.
        self._snapshot.put(parse.policy(document))
        self._metrics.changes.labels(policy.service_key).inc()
        self._metrics.revision.labels(policy.service_key).set(revision)
        log.info(
            "policy changed",
            service_key=policy.service_key,
            revision=revision,
            actor=who.actor,
            reason=who.reason,
            summary=summary,
        )
        return revision

    async def _current(self, service_key: str) -> Policy:
        stored = await self._store.load(service_key)
        if stored is None:
            return parse.policy({"service_key": service_key})
        return stored_policy(service_key, stored)

    async def _write(
        self,
        service_key: str,
        document: Document,
        record: ChangeRecord,
        members: Sequence[MemberEdit],
    ) -> None:
        try:
            await self._store.save(service_key, document, record, members)
        except StoreUnavailable:
            # It may have been done and the answer lost; a repeat cannot apply twice.
            try:
                await self._store.save(service_key, document, record, members)
            except LostRace:
                if not await was_saved(self._store, service_key, record):
                    raise

    def start_release(self, version: str, share: int, strategy: Strategy, salt: str) -> Edit:
        """Start a release under a new id."""
        id_ = f"r-{self._new_id()}"
        now = self._clock()
        return _moving(
            lambda policy: release.start(
                policy,
                id=id_,
                version=version,
                share=share,
                strategy=strategy,
                salt=salt,
                now=now,
            )
        )

    def set_percentage(self, share: int) -> Edit:
        """Change the share of the release in progress."""
        return _moving(lambda policy: release.set_percentage(policy, share))

    def end_release(self, status: str) -> Edit:
        """Complete the release or roll it back."""
        now = self._clock()
        match status:
            case "completed":
                return _moving(lambda policy: release.complete(policy, now))
            case "rolled-back":
                return _moving(lambda policy: release.roll_back(policy, now))
        raise InvalidPolicy(["status: give completed or rolled-back"])


def _moving(move: Callable[[Policy], Policy]) -> Edit:
    def edit(document: Document) -> Document:
        return parse.document(move(parse.policy(document)))

    return edit
