"""Applies changes to policies: read, edit, judge whole, compare-and-set, tell the snapshot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256

import structlog
from canary_engine import guards, parse, release
from canary_engine.errors import RefusedMove
from canary_engine.guards import Despite, Members
from canary_engine.model import Approval, ApprovedMove, Policy, Strategy
from canary_engine.release import Move
from canary_engine.written import Written

from decision_svc import changes
from decision_svc.access import guarding
from decision_svc.audit import revision_link
from decision_svc.changes import Document, Edit
from decision_svc.documents import stored_policy
from decision_svc.errors import AlreadyExists, BadRequest, NotFound
from decision_svc.metrics import Metrics
from decision_svc.snapshot import Snapshot
from decision_svc.store import was_saved
from decision_svc.store.pieces import in_pieces
from decision_svc.store.protocol import (
    ChainMoved,
    ChangeRecord,
    Link,
    LostRace,
    MemberEdit,
    PolicyStore,
    StoreError,
    StoreUnavailable,
    Tail,
)

log = structlog.get_logger()

MAX_TRIES = 50
MAX_TEXT = 1_000
MAX_KEY = 128
LOOKED_THROUGH = 1_000
"""In how many of the newest changes an idempotency key is looked for."""
MAX_TOLD = 3
"""How many of the changes that won a race are told to the loser."""
MAX_TOLD_TEXT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who makes a change, and why."""

    actor: str
    reason: str
    fence: int = 0
    """A controller's fencing token; 0 for a person."""
    key: str = ""
    """Names the request, so that it is done once; "" for none."""
    digest: str = ""
    """Stands for what the request asks for."""

    def check(self) -> None:
        """Raise BadRequest unless who and why are said."""
        complaints = [
            f"{name}: say {what}, in 1 to {MAX_TEXT:,} characters"
            for name, text, what in (
                ("actor", self.actor, "who asks for the change"),
                ("reason", self.reason, "why"),
            )
            if not 0 < len(text.strip()) <= MAX_TEXT
        ]
        if len(self.key) > MAX_KEY:
            complaints.append(f"idempotency_key: at most {MAX_KEY} characters")
        if complaints:
            raise BadRequest(*complaints)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Newest:
    """What an edit starts from; ``stored`` is the store's revision, 0 for none."""

    written: Written
    tail: Tail
    stored: int

    @property
    def is_lost(self) -> bool:
        """Whether the store has no policy any more, and memory's goes on."""
        return self.stored != self.written.policy.revision


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
        despite: frozenset[Despite] = frozenset(),
    ) -> int:
        """The new revision; the old one if the edit changes nothing.

        With ``expected`` the race is lost if the policy is at another revision. Without, a
        lost race is run again on the new revision, for the edit may still apply. ``despite``
        holds what speaks against a start and is overruled. Raises RefusedMove if a guard
        stands in the way.

        A policy that rules here and is gone from the store goes on from here: it is written
        with the edit, and also if that changes nothing.
        """
        who.check()
        for attempt in range(MAX_TRIES):
            try:
                return await self._try(service_key, expected, who, summary, edit, members, despite)
            except ChainMoved:
                if attempt == MAX_TRIES - 1:
                    raise
            except LostRace as lost:
                done = await self._done_before(service_key, who)
                if done is not None:
                    return done
                if expected is not None or attempt == MAX_TRIES - 1:
                    seen = lost.expected if expected is None else expected
                    raise await self._told(LostRace(service_key, seen, lost.current)) from None
        raise AssertionError("the last try returns or raises")

    async def _try(
        self,
        service_key: str,
        expected: int | None,
        who: Who,
        summary: str,
        edit: Edit,
        members: Sequence[MemberEdit],
        despite: frozenset[Despite],
    ) -> int:
        # First what there is, then whether this was done: so nobody can do it in between.
        newest = await self._newest(service_key)
        before = newest.written.policy
        done = await self._done_before(service_key, who)
        if done is not None:
            return done
        if expected is not None and expected != before.revision:
            raise LostRace(service_key, expected, before.revision)
        after = _fenced(before, _edited(newest.written, edit), who.fence)
        # An edit of segments renews the memberships, whether or not it changes any.
        is_same = after == replace(before, membership_epoch=after.membership_epoch)
        if is_same and not members and not newest.is_lost:
            return before.revision
        # The one place where guards are asked, whatever call the edit comes from.
        guarding.check(before, after)
        after = guards.passed(
            before,
            after,
            actor=who.actor,
            now=self._clock(),
            despite=despite,
            members=_members(members),
        )
        if newest.is_lost:
            summary = f"{summary[:MAX_TOLD_TEXT]}; the store had lost revision {before.revision}"
        return await self._save(newest, after, who, summary, members)

    async def _save(
        self,
        newest: _Newest,
        policy: Policy,
        who: Who,
        summary: str,
        members: Sequence[MemberEdit],
    ) -> int:
        before = newest.written.policy
        revision = before.revision + 1
        policy = replace(policy, revision=revision)
        document = newest.written.write(policy)
        record = ChangeRecord(
            revision=revision,
            actor=who.actor,
            at=self._clock(),
            reason=who.reason,
            summary=summary[:MAX_TEXT],
            key=who.key,
            digest=who.digest if who.key else "",
        )
        hash_ = sha256(await in_pieces(document, parse.canonical)).hexdigest()
        link = revision_link(newest.tail, record, before, policy, hash_, members, self._new_salt)
        await self._write(policy.service_key, document, record, members, link, newest.stored)
        # This replica need not wait for its own announcement.
        self._snapshot.documents.keep(Written(policy, document))
        self._snapshot.put(policy)
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

    async def _told(self, lost: LostRace) -> LostRace:
        """The same with who changed what since, as far as the store can say."""
        try:
            newest = await self._store.changes(lost.service_key, lost.current + 1, MAX_TOLD)
        except StoreError:
            return lost
        since = [record for record in newest if record.revision > lost.expected]
        words = [
            f"revision {r.revision} by {r.actor[:MAX_TOLD_TEXT]}: {r.summary[:MAX_TOLD_TEXT]}"
            for r in since
        ]
        if since and since[-1].revision - 1 > lost.expected:
            words.append("and more before")
        return LostRace(lost.service_key, lost.expected, lost.current, "; ".join(words))

    async def _newest(self, service_key: str) -> _Newest:
        # Memory first: a policy that comes while the store is asked is not lost.
        held = self._snapshot.get(service_key)
        stored, tail = await self._store.newest(service_key)
        if stored is None and held is not None:
            return _Newest(written=self._snapshot.documents.of(held), tail=tail, stored=0)
        written = self._snapshot.documents.read(service_key, stored)
        return _Newest(written=written, tail=tail, stored=written.policy.revision)

    async def _done_before(self, service_key: str, who: Who) -> int | None:
        """The revision that this very request made; None if it made none, or has no name.

        Raises AlreadyExists if another request had the name.
        """
        if not who.key:
            return None
        for record in await self._store.changes(service_key, limit=LOOKED_THROUGH):
            if record.key == who.key:
                if record.digest == who.digest:
                    return record.revision
                raise AlreadyExists(
                    f"idempotency_key: {who.key!r} was given to another change, which made "
                    f"revision {record.revision}: give every change a key of its own"
                )
        return None

    def _new_salt(self) -> str:
        return "".join(self._new_id() for _ in range(4))

    async def _write(
        self,
        service_key: str,
        document: Document,
        record: ChangeRecord,
        members: Sequence[MemberEdit],
        link: Link,
        current: int,
    ) -> None:
        try:
            await self._store.save(service_key, document, record, members, link, current)
        except StoreUnavailable:
            # It may have been done and the answer lost; a repeat cannot apply twice.
            try:
                await self._store.save(service_key, document, record, members, link, current)
            except LostRace:
                if not await was_saved(self._store, service_key, record):
                    raise

    def start_release(self, version: str, share: int, strategy: Strategy, salt: str) -> Edit:
        """Start a release under a new id."""
        id_ = f"r-{self._new_id()}"
        now = self._clock()
        return Moving(
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

    def set_percentage(self, share: int, control: int | None = None) -> Edit:
        """Change the share of the release in progress, and the share that stands for stable."""
        now = self._clock()
        return Moving(lambda policy: release.set_percentage(policy, share, now, control))

    def move_release(self, move: Move) -> Edit:
        """Pause, resume, halt, promote, roll back, abandon or keep the release."""
        now = self._clock()
        return Moving(lambda policy: release.BY_MOVE[move](policy, now))

    def halt_if_possible(self) -> Edit:
        """Halt the release, if there is one that can be."""
        now = self._clock()

        def halted(policy: Policy) -> Policy:
            found = policy.release
            can_be = found is not None and Move.HALT in release.MOVES[release.state_of(found)]
            return release.halt(policy, now) if can_be else policy

        return Moving(halted)

    def roll_back_later(self, why: str, delay_s: int) -> Edit:
        """Have the release rolled back, unless a person keeps it."""
        now = self._clock()
        due = now + timedelta(seconds=delay_s)
        return Moving(lambda policy: release.roll_back_later(policy, why, now, due))

    def tick(self, item: str, by: str) -> Edit:
        """Tick an item of the plan's checklist off."""
        now = self._clock()
        return Moving(lambda policy: release.tick(policy, item, by, now))

    def untick(self, item: str) -> Edit:
        """Take a tick back."""
        return Moving(lambda policy: release.untick(policy, item))

    def approve(
        self, move: ApprovedMove, version: str, share: int, who: Who, valid_s: int
    ) -> tuple[Edit, str]:
        """Consent to a move by somebody else; the edit, and the approval's id.

        A request that is sent again under its idempotency key is answered the same id.
        """
        now = self._clock()
        id_ = sha256(who.key.encode()).hexdigest()[:8] if who.key else self._new_id()
        approval = Approval(
            id=f"a-{id_}",
            move=move,
            version=version,
            share=share,
            by=who.actor.strip(),
            at=now,
            expires_at=now + timedelta(seconds=valid_s),
        )
        return changes.approve(parse.document(approval)), approval.id

    async def revert(self, service_key: str, revision: int) -> Edit:
        """Go back to an earlier revision. Raises NotFound if there is none of that number."""
        stored = await self._store.load(service_key, revision)
        if stored is None:
            raise NotFound(
                f"revision: {service_key!r} has no revision {revision}, or it is no longer kept"
            )
        try:
            earlier = stored_policy(service_key, stored)
        except StoreError as error:
            raise RefusedMove(f"cannot revert to revision {revision}: {error}") from error
        return changes.revert(parse.document(earlier))


@dataclass(frozen=True, slots=True)
class Moving:
    """An edit that the engine makes: spared the document, which may have 10,000 versions."""

    moved: Callable[[Policy], Policy]

    def __call__(self, document: Document) -> Document:
        return parse.document(self.moved(parse.policy(document)))


def _fenced(before: Policy, after: Policy, fence: int) -> Policy:
    """``after`` with the controller's token. Raises RefusedMove if a newer one was here before."""
    if not fence or after.release is None or after == before:
        return after
    newest = before.release.fence if before.release is not None else 0
    if fence < newest:
        raise RefusedMove(
            f"fencing_token: {fence} is too late, a controller with {newest} has acted since: "
            "take the lease anew"
        )
    return replace(after, release=replace(after.release, fence=fence))


def _members(edits: Sequence[MemberEdit]) -> Members:
    """The segments whose members change; those that are dropped are gone from the policy, too."""
    return Members(
        joined=frozenset(edit.segment for edit in edits if edit.add),
        left=frozenset(edit.segment for edit in edits if edit.remove),
    )


def _edited(newest: Written, edit: Edit) -> Policy:
    if not isinstance(edit, Moving):
        return newest.read(edit(newest.write(newest.policy)))
    after = edit.moved(newest.policy)
    parse.check(after)
    return after
