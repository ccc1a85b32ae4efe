"""What people and webhooks are to hear of a release, and what was heard from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from canary_engine import alerts, parse
from canary_engine.alerts import Notice
from canary_engine.concerns import Sight, concerns, lost_lease
from canary_engine.judge.breaches import Reading
from canary_engine.judge.verdict import Verdict
from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import ReleaseStatus
from canary_engine.plan import Metric
from canary_engine.record_size import newest_calls
from canary_engine.webhooks import Question, noted

from canary_controller.ending import End
from canary_controller.looking import values
from canary_controller.measuring import TOLD
from canary_controller.notify.notifier import Told
from canary_controller.notify.wording import About
from canary_controller.turns import turn
from canary_controller.watched import Watched
from canary_controller.webhooks.caller import Body, Heard
from canary_controller.webhooks.messages import body_of

LEAST_REQUESTS = 20
TOLD_AGAIN_S = 5
LEASE_TOLD_AGAIN = timedelta(minutes=10)
"""No sooner are people told again of a lease that comes and goes."""
SAME_HALT = timedelta(seconds=30)
"""A halt is noted as of when it was decided; the service halts it so long after at most."""
HALTED = "halted"


class Askable(Protocol):
    """Who asks webhooks in the background."""

    def ask(self, wanted: Mapping[Question, Body]) -> None:
        """Go on with these and nobody else."""
        ...

    def heard(self) -> tuple[Heard, ...]:
        """What came in since this was called last."""
        ...


class Tellable(Protocol):
    """Who tells people in the background."""

    def tell(self, about: About, notice: Notice) -> None:
        """Have people told, once however often this is called."""
        ...

    def told(self) -> tuple[Told, ...]:
        """Who has been told what since this was called last."""
        ...


def is_due(w: Watched, now: datetime) -> bool:
    """Whether to look anew at what people should hear of."""
    at, key = w.told_at, w.service_key
    return at is None or turn(key, now, TOLD_AGAIN_S) != turn(key, at, TOLD_AGAIN_S)


def raise_alerts(w: Watched, now: datetime) -> None:
    """Bring the record's alerts up to date."""
    w.told_at = now
    found = concerns(sight(w, now))
    changed = alerts.updated(w.record.alerts, found.raised, now, found.unknown)
    if changed != w.record.alerts:
        w.record = replace(w.record, alerts=changed)


def sight(w: Watched, now: datetime) -> Sight:
    """The release in the words of ``concerns``."""
    is_failing = w.judged.verdict is Verdict.FAIL and w.release.is_in_force
    wanted = is_failing and not w.plan.rollback.automatic
    end = w.newest_noted(End)
    return Sight(
        policy=w.policy,
        plan=w.plan,
        now=now,
        canary=_settled(w.sides.drawn),
        stable=values(w.sides.control),
        gates=w.gates,
        questions=w.questions,
        calls=w.record.calls,
        missing=w.missing,
        unanswered=w.unanswered,
        halted=_why_halted(w),
        rollback_wanted=w.judged.why if wanted else "",
        verified=_why_of(w, End.VERIFIED),
        unverified=end.why if end is not None and end.what == End.UNVERIFIED else "",
        unheard=end.why if end is not None and end.what == End.UNHEARD else "",
        mesh=w.mesh,
        judged=w.judged.why if w.release.is_in_force else _why_ended(w),
        extra=w.judged.alarms if w.release.is_in_force else (),
    )


def _settled(snapshot: MetricSnapshot) -> Reading:
    """The snapshot for alerts: one error of two requests is no rate to wake anybody for."""
    read, requests = values(snapshot), snapshot.performance.requests or 0

    def settled(metric: Metric, name: str) -> float | None:
        return read(metric, name) if requests >= LEAST_REQUESTS or metric not in TOLD else None

    return settled


def tell(w: Watched, people: Tellable, now: datetime) -> None:
    """Have people told what they have not heard yet."""
    about = About(service_key=w.service_key, release_id=w.release.id, version=w.release.version)
    for notice in alerts.notices(w.record.alerts, w.plan, now):
        people.tell(about, notice)


def tell_all_over(w: Watched, people: Tellable, now: datetime) -> None:
    """Have people told at once that nothing lasts any more: nobody looks at it again."""
    w.record = replace(w.record, alerts=alerts.updated(w.record.alerts, (), now))
    tell(w, people, now + alerts.QUIET)


def tell_lost_lease(people: Tellable, other: str, now: datetime) -> None:
    """Have people told that another may act now; no record is there to note it in."""
    people.tell(About(), Notice(alert=lost_lease(other, now)))


def take_told(watched: Mapping[str, Watched], told: Iterable[Told], now: datetime) -> None:
    """Note who has been told."""
    for one in told:
        w = watched.get(one.about.service_key)
        if w is not None and w.release.id == one.about.release_id:
            w.record = replace(w.record, alerts=alerts.told(w.record.alerts, one.notice, now))


def take_heard(watched: Mapping[str, Watched], heard: Iterable[Heard], now: datetime) -> None:
    """Note what webhooks said."""
    for one in heard:
        w = watched.get(one.question.service_key)
        if w is not None and w.release.id == one.question.release_id:
            calls = noted(w.record.calls, one.question, one.answer, one.text, now)
            w.record = replace(w.record, calls=newest_calls(calls))
            w.told_at = None


def bodies(w: Watched) -> dict[Question, Body]:
    """What webhooks are to be asked now."""
    return {question: _body(w, question) for question in w.to_ask}


def is_all_told(w: Watched) -> bool:
    """Whether nobody is left to be told or asked."""
    return not w.to_ask and alerts.is_all_told(w.record.alerts, w.plan)


def _body(w: Watched, question: Question) -> Body:
    why = w.judged.why or (w.action.why if w.action is not None else "")

    def make() -> bytes:
        return body_of(question, why, _metrics(w))

    return make


def _metrics(w: Watched) -> dict[str, Any]:
    """The metrics of the last minutes as a document, by side."""
    return {
        "canary": parse.document(w.sides.drawn),
        "control": parse.document(w.sides.control),
        "chosen": parse.document(w.sides.chosen),
    }


def _why_of(w: Watched, what: str) -> str:
    return next((event.why for event in reversed(w.record.events) if event.what == what), "")


def _why_halted(w: Watched) -> str:
    """Why a controller halted it; "": a person did, or it was resumed since."""
    halts = [event for event in w.record.events if event.what == HALTED]
    since = w.release.weight_since
    if not halts or since is None or abs(since - halts[-1].at) > SAME_HALT:
        return ""
    return halts[-1].why


def _why_ended(w: Watched) -> str:
    """Why a controller ended it; "": a person did.

    One that fell between ending it and noting that has noted what it found before.
    """
    failed = "; ".join(f.why for f in w.record.findings if f.verdict == Verdict.FAIL)
    is_back = w.release.status is ReleaseStatus.ROLLED_BACK
    return _why_of(w, "rolled-back") or (failed if is_back else "")
