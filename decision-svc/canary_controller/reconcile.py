"""Brings every release to where its plan wants it: look, measure, judge, step; once a tick.

Each release is one compare-and-set write a tick at most (``writes``). Losing the race is normal:
the next tick looks again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from canary_controller import closing, looking, telling, watched
from canary_controller.admin import FAR, Admin, Known, News, ReleaseNews
from canary_controller.closing import Reports
from canary_controller.each import Each
from canary_controller.errors import Unknown, Unreadable
from canary_controller.judging import Judge
from canary_controller.measuring import Measuring
from canary_controller.mesh.meshes import Meshes, NoMeshes
from canary_controller.metrics import Metrics
from canary_controller.slots import newest_complete
from canary_controller.standing import Shown
from canary_controller.watched import Watched
from canary_controller.writes import Writes

log = structlog.get_logger()

MOST_AT_ONCE = 32
MOST_BEHIND = 20
"""So many releases catch up at a time on outcomes that are older than BEHIND_SLOTS."""
BEHIND_SLOTS = 30


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
        self._writes = Writes(admin, metrics)
        self._each = Each(MOST_AT_ONCE)
        self._succeeded: list[Watched] = []
        self._planless: list[Watched] = []

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
        planless, self._planless = self._planless, []
        await self._each(planless, lambda w: self._hand_over(w, token, may_act, now))
        await self._each(self._to_save(now), lambda w: self._writes.save(w, token, may_act, now))
        self._talk(now)
        self._each.own_up()

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
        self._planless.clear()
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
            elif before is not None and release is not None and plan is None:
                self._planless.append(before)
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
        revision = await self._writes.act(w, token, may_act, now)
        if revision is not None:
            self._revisions[w.service_key] = revision

    def _ended(self) -> list[Watched]:
        return [w for w in self._up_to_date() if not w.release.is_in_force]

    async def _see_off(self, w: Watched, now: datetime) -> None:
        found = self._outside.measuring.found(w.service_key, w.release)
        await closing.see_off(w, found, self._outside.reports, now)

    async def _leave(
        self, w: Watched, token: int, may_act: Callable[[], bool], now: datetime
    ) -> None:
        """Report on a release that another has succeeded, whose end nobody can verify any more."""
        telling.tell_all_over(w, self._outside.people, now)
        await closing.leave(w, self._outside.reports, now)
        await self._writes.save(w, token, may_act, now)

    async def _hand_over(
        self, w: Watched, token: int, may_act: Callable[[], bool], now: datetime
    ) -> None:
        """Leave a release whose plan was removed to people: nothing of it is watched any more."""
        telling.tell_all_over(w, self._outside.people, now)
        closing.hand_over(w, now)
        await self._writes.save(w, token, may_act, now)

    def _to_save(self, now: datetime) -> list[Watched]:
        return [w for w in self._up_to_date() if w.is_to_save(now)]

    def _talk(self, now: datetime) -> None:
        """Ask and tell whom there is to ask and tell."""
        asked = {}
        for w in self._watched.values():
            asked.update(telling.bodies(w))
            telling.tell(w, self._outside.people, now)
        self._outside.webhooks.ask(asked)
        watched = self._watched.values()
        self._metrics.releases([Shown(record=w.record, findings=w.findings) for w in watched])
