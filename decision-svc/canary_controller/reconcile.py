"""Brings every release to where its plan wants it: look, measure, judge, step; once a tick.

Each release is one compare-and-set write a tick at most, with the revision that was looked at and
the token of the lease. Losing the race is normal: the next tick looks again. What the write did is
noted in the record after it, so a record may lack an event but never tells of one that was not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, TypeVar

import structlog
from canary_engine.model import Policy
from canary_engine.record import Event, ReleaseRecord
from canary_engine.step import Action, Do

from canary_controller import evidence, looking, telling, watched
from canary_controller.admin import FAR, Admin, Known, News, ReleaseNews, Write
from canary_controller.closing import is_over, verified
from canary_controller.ending import AT_MOST, End
from canary_controller.errors import (
    AdminError,
    LostRace,
    Refused,
    Unknown,
    Unreachable,
    Unreadable,
)
from canary_controller.judging import Judge
from canary_controller.measuring import Measuring
from canary_controller.mesh.meshes import Meshes, NoMeshes
from canary_controller.metrics import Metrics
from canary_controller.slots import newest_complete
from canary_controller.standing import Shown
from canary_controller.watched import Refusal, Watched

log = structlog.get_logger()

MOST_AT_ONCE = 32
MOST_BEHIND = 20
"""So many releases catch up at a time on outcomes that are older than BEHIND_SLOTS."""
BEHIND_SLOTS = 30
DONE = {
    Do.RAISE: "raised",
    Do.WIDEN: "control-widened",
    Do.PROMOTE: "promoted",
    Do.PAUSE: "paused",
    Do.HALT: "halted",
    Do.ROLL_BACK: "rolled-back",
    Do.ROLL_BACK_LATER: "rollback-due",
}


class Keyed(Protocol):
    """Whatever is of one service key."""

    @property
    def service_key(self) -> str:
        """Which one."""
        ...


Item = TypeVar("Item", bound=Keyed)


class Reports(Protocol):
    """Keeps what is left of a release when it is over."""

    async def write(self, policy: Policy, record: ReleaseRecord) -> None:
        """Write its report; a trouble is logged and keeps nothing from going on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Everybody whom the controller talks to besides the admin API."""

    measuring: Measuring
    webhooks: telling.Askable
    people: telling.Tellable
    reports: Reports
    meshes: Meshes = field(default_factory=NoMeshes)


class Reconciler:
    """See the module; all that it holds is forgotten as soon as another may have acted."""

    def __init__(self, admin: Admin, judge: Judge, outside: Outside, metrics: Metrics) -> None:
        self._admin, self._judge, self._outside = admin, judge, outside
        self._metrics = metrics
        self._watched: dict[str, Watched] = {}
        self._unreadable: dict[str, str] = {}
        self._revisions: dict[str, int] = {}
        self._token = 0
        self._now: datetime | None = None
        self._lease_told: datetime | None = None
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._succeeded: list[Watched] = []
        self._mistakes: list[Exception] = []

    async def tick(self, token: int, may_act: Callable[[], bool]) -> None:
        """Look at everything once.

        Raises AdminError if the service cannot be asked, and, once all are seen to, ExceptionGroup
        with what went wrong with single releases.
        """
        if token != self._token:
            self.forget()
            await self._admit((await self._admin.follow(await self._all())), token)
            self._token = token
        news = await self._admin.follow(self._known())
        has_news = await self._take(news)
        now = self._now = news.now
        telling.take_heard(self._watched, self._outside.webhooks.heard(), now)
        telling.take_told(self._watched, self._outside.people.told(), now)
        for w in self._up_to_date():
            self._look(w, now, has_news=w.service_key in has_news)
        await self._each(self._acting(now), lambda w: self._act(w, token, may_act, now))
        # After the writes: a mesh follows what is stored, and hears of a rollback at once.
        self._outside.meshes.see(self._revisions, now, may_act)
        await self._each(self._ended(), lambda w: self._see_off(w, now))
        succeeded, self._succeeded = self._succeeded, []
        await self._each(succeeded, lambda w: self._leave(w, token, may_act, now))
        await self._each(self._to_save(now), lambda w: self._save(w, token, may_act, now))
        self._talk(now)
        self._own_up()

    def lost_lease(self, other: str) -> None:
        """Another may act: nothing here is to be believed any more, nobody is to be asked."""
        self.forget()
        self._outside.webhooks.ask({})
        self._metrics.releases(())
        before, now = self._lease_told, self._now
        if now is not None and (before is None or now - before >= telling.LEASE_TOLD_AGAIN):
            self._lease_told = now
            telling.tell_lost_lease(self._outside.people, other, now)

    def forget(self) -> None:
        """Begin with what the service says."""
        self._token = 0
        self._watched.clear()
        self._succeeded.clear()
        self._outside.meshes.forget()

    async def _all(self) -> list[Known]:
        """All service keys, of which only the policies are wanted."""
        return [Known(service_key=key, slot=FAR) for key in await self._admin.services()]

    def _known(self) -> list[Known]:
        """What is known; of releases that are far behind, only some ask for their outcomes.

        Those that have ended are not judged, and so are behind for ever.
        """
        room, found = MOST_BEHIND, []
        for w in self._watched.values():
            newest = w.newest_slot if w.release.is_in_force else None
            is_behind = newest is not None and newest - w.seen.slot > BEHIND_SLOTS
            room -= is_behind
            w.is_up_to_date = not is_behind or room >= 0
            slot = w.heard_slot if w.is_up_to_date else FAR
            heard = w.slots.heard(slot)
            known = Known(
                service_key=w.service_key, revision=w.policy.revision, slot=slot, requests=heard
            )
            found.append(known)
        return found

    async def _take(self, news: News) -> set[str]:
        """Follow what is new; the service keys of which there were new outcomes."""
        await self._admit(news, self._token)
        self._revisions = {one.service_key: one.revision for one in news.releases}
        has_news = set()
        for one in news.releases:
            w = self._watched.get(one.service_key)
            if w is None:
                continue
            w.keep_time(self._judge, news.now)
            if w.slots.hear(one.outcomes):
                has_news.add(one.service_key)
            if one.more_after:
                until = min(one.more_after, newest_complete(news.now))
                looking.gather(w, self._judge, until)
                w.is_up_to_date = False
        return has_news

    async def _admit(self, news: News, token: int) -> None:
        """Take new policies over, load the records of new releases, and let go what is over."""
        followed = {one.service_key for one in news.releases}
        for key in self._watched.keys() - followed:
            del self._watched[key]
        self._outside.measuring.keep(followed)
        fresh = [one for one in news.releases if self._follow(one, news.now) is None]
        await self._each(fresh, lambda one: self._load(one, news.now))

    def _follow(self, one: ReleaseNews, now: datetime) -> Watched | None:
        """The release, at its newest policy; None if it was not watched yet."""
        w = self._watched.get(one.service_key)
        if one.policy is None:
            self._tell_unreadable(one)
            if w is not None and one.trouble:
                w.is_up_to_date = False
            return w
        release, plan = one.policy.release, one.policy.plan
        if w is None or release is None or release.id != w.release.id or plan is None:
            before = self._watched.pop(one.service_key, None)
            if before is not None and release is not None and release.id != before.release.id:
                self._succeeded.append(before)
            return None
        w.follow(one.policy, self._judge, now)
        return w

    async def _load(self, one: ReleaseNews, now: datetime) -> None:
        policy = one.policy
        if policy is None or policy.release is None or policy.plan is None:
            return
        try:
            record = await self._admin.record(one.service_key, policy.release.id)
        except Unknown:
            record = None
        except Unreadable as error:
            log.error("a record is begun anew", service_key=one.service_key, why=str(error))
            record = None
        w = watched.begin(policy, record, self._judge, now)
        if w is not None:
            w.keep_time(self._judge, now)
            self._watched[one.service_key] = w

    def _tell_unreadable(self, one: ReleaseNews) -> None:
        if one.trouble and self._unreadable.get(one.service_key) != one.trouble:
            log.error("a policy cannot be read", service_key=one.service_key, why=one.trouble)
        self._unreadable[one.service_key] = one.trouble

    def _up_to_date(self) -> list[Watched]:
        return [w for w in self._watched.values() if w.is_up_to_date]

    def _look(self, w: Watched, now: datetime, *, has_news: bool) -> None:
        """Measure, judge and step one release; a mistake of ours costs it alone its turn."""
        try:
            self._look_at(w, now, has_news=has_news)
        except Exception as error:
            if repr(error) != w.mistake:
                log.exception("a release is not seen to", service_key=w.service_key)
            w.mistake, w.action = repr(error), None
        else:
            w.mistake = ""

    def _look_at(self, w: Watched, now: datetime, *, has_news: bool) -> None:
        self._outside.measuring.want(w.policy, w.record.stable_version, now)
        w.see(self._outside.meshes.sight(w.policy, now))
        if w.release.is_in_force:
            found = self._outside.measuring.found(w.service_key, w.release)
            looking.judge_it(w, self._judge, found, now, has_news=has_news)
        if telling.is_due(w, now):
            looking.look_around(w, now)
            telling.raise_alerts(w, now)
        action = looking.step_it(w, now)
        if action.do in looking.GIVES and (held := self._outside.meshes.hold(w.policy, now)):
            w.see(replace(w.mesh, held=held))
            action = looking.step_it(w, now)
        looking.note_state(w, action, now)

    def _acting(self, now: datetime) -> list[Watched]:
        return [
            w
            for w in self._up_to_date()
            if w.action is not None
            and w.action.is_write
            and not (w.refusal and w.refusal.holds(w.action, now))
        ]

    async def _act(
        self, w: Watched, token: int, may_act: Callable[[], bool], now: datetime
    ) -> None:
        """One write; what it did is seen at the next tick."""
        action = w.action
        if action is None or not may_act():
            return
        write = Write(
            service_key=w.service_key, revision=w.policy.revision, action=action, token=token
        )
        try:
            revision = await self._admin.write(write)
        except LostRace:
            self._metrics.wrote(action.do, "lost-race")
        except Unreachable:
            self._metrics.wrote(action.do, "unknown")
        except Refused as refusal:
            self._refuse(w, action, str(refusal), now)
        else:
            self._did(w, action, revision, now)

    def _did(self, w: Watched, action: Action, revision: int, now: datetime) -> None:
        self._metrics.wrote(action.do, "done")
        self._revisions[w.service_key] = revision
        w.note(Event(at=now, what=DONE[action.do], why=action.why, revision=revision))
        log.info(
            DONE[action.do],
            service_key=w.service_key,
            release=w.release.id,
            revision=revision,
            why=action.why,
        )

    def _refuse(self, w: Watched, action: Action, why: str, now: datetime) -> None:
        self._metrics.wrote(action.do, "refused")
        w.refusal = Refusal(do=action.do, at=now, why=f"{action.do} was refused: {why}")
        w.record = replace(w.record, waits_for=w.refusal.why)
        log.warning("a move was refused", service_key=w.service_key, do=action.do, why=why)

    def _ended(self) -> list[Watched]:
        return [w for w in self._up_to_date() if not w.release.is_in_force]

    async def _see_off(self, w: Watched, now: datetime) -> None:
        """Verify the end, leave a report, and close the record once everybody has heard."""
        found = self._outside.measuring.found(w.service_key, w.release)
        end, why = verified(w, found, now)
        before = w.newest_noted(End)
        if end is not End.PENDING and (before is None or before.what != end):
            w.note(Event(at=now, what=end, why=why))
            w.told_at = None
            return
        is_done = is_over(w, end, now) and not w.mesh.held and telling.is_all_told(w)
        if is_done or now - (w.release.ended_at or now) > AT_MOST:
            await self._outside.reports.write(w.policy, w.record)
            w.record = replace(w.record, is_closed=True, waits_for="")

    async def _leave(
        self, w: Watched, token: int, may_act: Callable[[], bool], now: datetime
    ) -> None:
        """Report on a release that another has succeeded: nobody can verify its end any more."""
        w.note(Event(at=now, what="succeeded", why="another was started"))
        telling.tell_all_over(w, self._outside.people, now)
        w.record = replace(w.record, is_closed=True, waits_for="")
        await self._outside.reports.write(w.policy, w.record)
        await self._save(w, token, may_act, now)

    def _to_save(self, now: datetime) -> list[Watched]:
        return [w for w in self._up_to_date() if w.is_to_save(now)]

    async def _save(
        self, w: Watched, token: int, may_act: Callable[[], bool], now: datetime
    ) -> None:
        if not may_act():
            return
        record = replace(
            w.record,
            written_at=now,
            fence=token,
            evidence=evidence.text(w.seen),
            findings=w.findings(),
        )
        try:
            await self._admin.put_record(record)
        except AdminError as error:
            self._metrics.noted("failed")
            log.warning("a record was not written", service_key=w.service_key, error=str(error))
        else:
            self._metrics.noted("done")
            w.saved = w.record = record

    def _talk(self, now: datetime) -> None:
        """Ask and tell whom there is to ask and tell."""
        asked = {}
        for w in self._watched.values():
            asked.update(telling.bodies(w))
            telling.tell(w, self._outside.people, now)
        self._outside.webhooks.ask(asked)
        watched = self._watched.values()
        self._metrics.releases([Shown(record=w.record, findings=w.findings) for w in watched])

    async def _each(self, items: Iterable[Item], do: Callable[[Item], Awaitable[None]]) -> None:
        """Do it for all, some at a time; what goes wrong with one keeps no other from it."""

        async def one(item: Item) -> None:
            async with self._places:
                try:
                    await do(item)
                except (LostRace, Unreachable):
                    pass  # the next tick looks again
                except Exception as error:
                    error.add_note(f"service key: {item.service_key}")
                    self._mistakes.append(error)

        await asyncio.gather(*map(one, items))

    def _own_up(self) -> None:
        """Raise what went wrong with single releases, now that all others were seen to."""
        mistakes, self._mistakes = self._mistakes, []
        if mistakes:
            raise ExceptionGroup("not every release is seen to", mistakes)
