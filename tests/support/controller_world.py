"""A world for controllers, in memory: the service's own editor and store, a clock, and faults.

What a policy may become is decided by the real editor on the real store, with its compare-and-set
and its fencing. Between it and each controller is a wire that delays, loses and cuts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any, TypeVar

from canary_controller.admin import (
    Counted,
    Known,
    Lease,
    News,
    OutcomeSlot,
    ReleaseNews,
    Write,
)
from canary_controller.errors import AdminError, LostRace, Refused, Unknown, Unreachable
from canary_controller.judging import Case, EngineJudge, Judged
from canary_controller.judging import Known as Evidence
from canary_controller.lease import Lease as HeldLease
from canary_controller.loop import Controller
from canary_controller.measuring import Measuring
from canary_controller.metrics import Metrics
from canary_controller.notify.notifier import Told
from canary_controller.notify.wording import About
from canary_controller.reconcile import Outside, Reconciler
from canary_controller.slots import slot_of
from canary_controller.webhooks.caller import Body, Heard
from canary_engine import parse, release
from canary_engine.alerts import Notice
from canary_engine.errors import CanaryError
from canary_engine.judge import evidence
from canary_engine.judge.slots import Slot
from canary_engine.judge.verdict import Verdict
from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import (
    Cohort,
    Policy,
    Release,
    Strategy,
    Variant,
    Version,
    VersionStatus,
)
from canary_engine.outcomes import Tally
from canary_engine.plan import Plan
from canary_engine.record import ReleaseRecord
from canary_engine.release import Move
from canary_engine.step import Do
from canary_engine.webhooks import Question
from decision_svc.editor import Editor, Who
from decision_svc.metrics import Metrics as ServiceMetrics
from decision_svc.snapshot import Snapshot
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import ChangeRecord, Document, Link
from decision_svc.store.protocol import LostRace as StoreLostRace

SHOP = "shop"
STABLE_REQUESTS = [
    Counted(version=version, variant=Variant.STABLE, release_id="", requests=100, errors=0)
    for version in ("v1", "v2")
]
MOST_TURNS = 60
TALLY = Tally({200: 10})
NO_EVIDENCE = Evidence(evidence=evidence.begin(()))
MOVES = {
    Do.PROMOTE: Move.PROMOTE,
    Do.PAUSE: Move.PAUSE,
    Do.HALT: Move.HALT,
    Do.ROLL_BACK: Move.ROLL_BACK,
}
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SERVICE_METRICS, METRICS = ServiceMetrics(), Metrics()
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A write of a controller that was accepted, with the release before and after it."""

    write: Write
    before: Release
    after: Release
    latest: datetime
    """The latest time that anybody was ever told; the service's clock may have been set back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What the first change of a policy saved."""

    policy: Policy
    document: Document
    record: ChangeRecord
    link: Link

    @classmethod
    async def of(cls, store: MemoryStore, policy: Policy) -> Started:
        """What was saved of a policy that has one revision."""
        (record,) = await store.changes(SHOP)
        document, tail = await store.newest(SHOP)
        assert document is not None, "it was saved"
        assert tail.last is not None, "it was saved"
        return cls(policy=policy, document=document, record=record, link=tail.last)

    async def into(self, store: MemoryStore) -> None:
        """Save the same again."""
        await store.save(SHOP, self.document, self.record, (), self.link)


_STARTED: dict[tuple[Plan, int], Started] = {}


class World:
    """One release with a plan, whatever befalls it, and all that was written by controllers."""

    def __init__(self, plan: Plan, share: int) -> None:
        self.plan, self.share = plan, share
        self.passed_s = 0.0
        self.jumped_s = 0.0
        self.latest = START
        self.verdict: Verdict | None = Verdict.PASS
        """None: a look at it is a mistake."""
        self.accepted: list[Accepted] = []
        self.checked = 0
        self.by_person = {share}
        self.pending: list[asyncio.Future[None]] = []
        self.records: dict[str, ReleaseRecord] = {}
        self.refused: dict[Do, str] = {}
        """Moves of controllers that the service refuses, and what it says."""
        self.mistake: Exception | None = None
        """What becomes of a record that is to be kept."""
        self.unread: AdminError | None = None
        """Why no record can be read."""
        self.counted: Sequence[Counted] = STABLE_REQUESTS
        """What is heard of the latest requests."""
        self.looked: Case | None = None
        """What was judged last."""
        self._holder, self._token, self._until = "", 0, 0.0
        numbers = count(1)
        self._snapshot = Snapshot()
        self._store = MemoryStore()
        self._editor = Editor(
            self._store,
            self._snapshot,
            SERVICE_METRICS,
            clock=lambda: self.now,
            new_id=lambda: f"n{next(numbers)}",
        )

    @property
    def now(self) -> datetime:
        """The service's time."""
        return START + timedelta(seconds=self.passed_s + self.jumped_s)

    @property
    def policy(self) -> Policy:
        """The newest policy."""
        found = self._snapshot.get(SHOP)
        assert found is not None, "a release was started"
        return found

    @property
    def release(self) -> Release:
        """The release as it is."""
        found = self.policy.release
        assert found is not None, "a release was started"
        return found

    async def begin(self) -> None:
        """Start the release, as it was started for the first world that had the same plan."""
        kind = (self.plan, self.share)
        if kind not in _STARTED:
            await self._start()
            _STARTED[kind] = await Started.of(self._store, self.policy)
        else:
            await _STARTED[kind].into(self._store)
            self._snapshot.put(_STARTED[kind].policy)

    async def _start(self) -> None:
        versions = (
            Version(version="v1", status=VersionStatus.STABLE),
            Version(version="v2"),
        )
        started = release.start(
            Policy(service_key=SHOP, versions=versions, plan=self.plan),
            id="r-1",
            version="v2",
            share=self.share,
            strategy=Strategy.COMBINED,
            salt="",
            now=self.now,
        )
        await self.change("kim", lambda _: parse.document(started))

    async def change(
        self, actor: str, edit: Any, expected: int | None = None, fence: int = 0
    ) -> int:
        """A change by anybody."""
        who = Who(actor=actor, reason="why", fence=fence)
        return await self._editor.change(SHOP, expected, who, "what", edit)

    async def person(self, edit: Callable[[Editor], Any]) -> None:
        """A person does something; it may be refused."""
        try:
            await self.change("kim", edit(self._editor))
        except CanaryError:
            return
        self.by_person.add(self.release.share)

    @property
    def is_closed(self) -> bool:
        """Whether the release has ended, and everything about it is done."""
        record = self.records.get(self.release.id)
        return not self.release.is_in_force and record is not None and record.is_closed

    def hold_lease(self, holder: str, valid_s: int) -> Lease:
        """The lease as the service gives it."""
        if self._holder != holder or self.passed_s >= self._until:
            if self.passed_s < self._until:
                left_s = self._until - self.passed_s
                return Lease(is_held=False, holder=self._holder, token=self._token, left_s=left_s)
            self._holder, self._token = holder, self._token + 1
        self._until = self.passed_s + valid_s
        return Lease(is_held=True, holder=holder, token=self._token, left_s=valid_s)

    def drop_lease(self, holder: str) -> None:
        """Give it up."""
        if holder == self._holder:
            self._until = 0.0

    def follow(self, known: Collection[Known]) -> News:
        """What is new of the one release."""
        policy, found = self.policy, self.release
        self.latest = max(self.latest, self.now)
        revision, after = next(((one.revision, one.slot) for one in known), (0, 0))
        record = self.records.get(found.id)
        if not found.is_in_force and record is not None and record.is_closed:
            return News(now=self.now, releases=())
        new = ReleaseNews(
            service_key=SHOP,
            revision=policy.revision,
            policy=policy if policy.revision != revision else None,
            outcomes=[one for one in self._outcomes() if found.is_in_force and after < one.slot],
        )
        return News(now=self.now, releases=(new,))

    def _outcomes(self) -> Sequence[OutcomeSlot]:
        """Some of the canary, now."""
        now = OutcomeSlot(
            slot=slot_of(self.now), cohort=Cohort.DRAWN, requests=10, tally=lambda: TALLY
        )
        return (now,) if self.release.share else ()

    async def write(self, write: Write) -> int:
        """A controller's write, by the real editor."""
        before, action, editor = self.release, write.action, self._editor
        if action.do in self.refused:
            raise Refused(self.refused[action.do])
        if action.do in (Do.RAISE, Do.WIDEN):
            assert action.share is not None
            edit: Any = editor.set_percentage(action.share, action.control)
        elif action.do is Do.ROLL_BACK_LATER:
            edit = editor.roll_back_later(action.why, action.delay_s)
        else:
            edit = editor.move_release(MOVES[action.do])
        try:
            revision = await self.change("controller", edit, write.revision, write.token)
        except StoreLostRace as lost:
            raise LostRace(str(lost)) from lost
        except CanaryError as refused:
            raise Refused(str(refused)) from refused
        self.accepted.append(
            Accepted(write=write, before=before, after=self.release, latest=self.latest)
        )
        return revision

    def put_record(self, record: ReleaseRecord) -> None:
        """Keep a record, unless a newer controller wrote one."""
        kept = self.records.get(record.release_id)
        if self.mistake is not None:
            raise self.mistake
        if kept is not None and kept.fence > record.fence:
            raise Refused("too late")
        self.records[record.release_id] = record


class Wire:
    """What is between one controller and the service: it may delay, lose, and be cut."""

    def __init__(self, world: World, chance: Random) -> None:
        self._world, self._chance = world, chance
        self.is_cut = False
        self.is_faulty = True
        self.waiting = 0
        self.refusals: list[str] = []

    async def hold_lease(self, holder: str, valid_s: int) -> Lease:
        """See Leases."""
        return await self._call(lambda: self._world.hold_lease(holder, valid_s))

    async def drop_lease(self, holder: str) -> None:
        """See Leases."""
        await self._call(lambda: self._world.drop_lease(holder))

    async def services(self) -> Sequence[str]:
        """See Admin."""
        return await self._call(lambda: [SHOP])

    async def follow(self, known: Collection[Known]) -> News:
        """See Admin."""
        return await self._call(lambda: self._world.follow(known))

    async def write(self, write: Write) -> int:
        """See Admin."""
        await self._way()
        try:
            revision = await self._world.write(write)
        except Refused as refused:
            self.refusals.append(str(refused))
            raise
        await self._way()
        return revision

    async def record(self, service_key: str, release_id: str) -> ReleaseRecord:
        """See Admin."""
        if self._world.unread is not None:
            raise self._world.unread
        found = await self._call(lambda: self._world.records.get(release_id))
        if found is None:
            raise Unknown(release_id)
        return found

    async def put_record(self, record: ReleaseRecord) -> None:
        """See Admin."""
        await self._call(lambda: self._world.put_record(record))

    async def metrics(self, service_key: str, window_s: int) -> Mapping[Cohort, MetricSnapshot]:
        """See Figures."""
        return await self._call(dict)

    async def counted(self, service_key: str, window_s: int) -> Sequence[Counted]:
        """See Figures."""
        return await self._call(lambda: self._world.counted)

    async def _call(self, done: Callable[[], Answer]) -> Answer:
        await self._way()
        answer = done()
        await self._way()
        return answer

    async def _way(self) -> None:
        """There, or back: so an answer may be lost although it was done."""
        if self.is_faulty and self._chance.random() < 0.1:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._world.pending.append(waiting)
            self.waiting += 1
            try:
                await waiting
            finally:
                self.waiting -= 1
        if self.is_cut or (self.is_faulty and self._chance.random() < 0.05):
            raise Unreachable("the wire is cut")


class People:
    """Hear everything at once."""

    def __init__(self) -> None:
        self._told: list[Told] = []

    def tell(self, about: About, notice: Notice) -> None:
        """See Tellable."""
        self._told.append(Told(about=about, notice=notice, by="people"))

    def told(self) -> tuple[Told, ...]:
        """See Tellable."""
        found, self._told = tuple(self._told), []
        return found


class Nobody:
    """No webhooks, no reports; counts how often it was said whom to ask."""

    def __init__(self) -> None:
        self.asked = 0
        self.reported: list[str] = []

    def ask(self, wanted: Mapping[Question, Body]) -> None:
        """See Askable."""
        self.asked += 1

    def heard(self) -> tuple[Heard, ...]:
        """See Askable."""
        return ()

    async def write(self, policy: Policy, record: ReleaseRecord) -> None:
        """See Reports."""
        self.reported.append(record.release_id)


class Scripted(EngineJudge):
    """Says what the world says."""

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self, plan: Plan) -> Evidence:
        """See Judge."""
        return NO_EVIDENCE

    def add(self, known: Evidence, slot: Slot) -> Evidence:
        """See Judge."""
        return known

    def look(self, case: Case) -> Judged:
        """See Judge."""
        self._world.looked, verdict = case, self._world.verdict
        if verdict is None:
            raise ZeroDivisionError("a mistake")
        return Judged(verdict=verdict, why="as the world says", known=case.known)


class Machine:
    """One controller on a machine that may be stopped, crash and start anew.

    Its clock is its own: it begins anywhere and only grows.
    """

    def __init__(self, world: World, name: str, chance: Random) -> None:
        self._world, self.name, self._chance = world, name, chance
        self._offset_s = chance.uniform(0, 1_000_000)
        self._task: asyncio.Task[None] | None = None
        self.wire = Wire(world, chance)
        self.start()

    def start(self) -> None:
        """A controller that knows nothing."""
        measuring = Measuring(self.wire, None)
        self._measuring = measuring
        self.webhooks = self.reports = Nobody()
        outside = Outside(
            measuring=measuring, webhooks=self.webhooks, people=People(), reports=self.reports
        )
        self._controller = Controller(
            HeldLease(self.wire, self.name, 10, self._monotonic),
            Reconciler(self.wire, Scripted(self._world), outside, METRICS),
            METRICS,
            look_every_s=1,
            monotonic=self._monotonic,
        )

    async def crash(self) -> None:
        """End it in the middle of whatever it does, and start another."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._measuring.close()
        self._task = None
        self.start()

    async def tick(self) -> None:
        """Let it tick, as far as it gets before the wire makes it wait."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._controller.tick())
        await self.go_on()

    async def go_on(self) -> None:
        """Give it the time to do whatever it can."""
        for turn in range(MOST_TURNS):
            is_stuck = self.wire.waiting and turn > 2
            if self._task is None or self._task.done() or is_stuck:
                return
            await asyncio.sleep(0)

    @property
    def is_well(self) -> bool:
        """Whether its newest tick went well."""
        return self._controller.is_well

    def sleep(self, seconds: float) -> None:
        """The machine is suspended: its clock does not count the time that passes meanwhile."""
        self._world.passed_s += seconds
        self._offset_s -= seconds

    def _monotonic(self) -> float:
        return self._world.passed_s + self._offset_s
