"""The beats measure, judge and step of one release, on what is in memory: pure but for that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from canary_engine.gates import gate_states, with_since
from canary_engine.judge.breaches import Reading
from canary_engine.judge.slots import SLOT_S
from canary_engine.judge.verdict import Verdict
from canary_engine.metric_snapshot import MetricSnapshot, of_tally, value
from canary_engine.model import BUCKETS, Cohort, Release, ReleaseStatus
from canary_engine.outcomes import Tally
from canary_engine.plan import GateKind, Plan
from canary_engine.record import GateState, Point
from canary_engine.record_size import named_alone, thinned
from canary_engine.step import Action, Because, Do, Look, current_step, next_weight, step
from canary_engine.webhooks import questions_after, questions_before, refusal, unanswered

from canary_controller import evidence
from canary_controller.admin import FAR
from canary_controller.judging import Case, Judge
from canary_controller.measuring import TOLD, Found, all_limits, named, window
from canary_controller.slots import first_slot, newest_complete, slot_of
from canary_controller.sources.source import MetricKey, Trouble, onto
from canary_controller.turns import turn
from canary_controller.watched import Sides, Watched

LOOK_ANYWAY = timedelta(seconds=5)
"""Without anything new, conditions that must hold for a time are looked at so often."""
NO_OUTCOMES = timedelta(minutes=1)
RATE_SLOTS = 6
SIDES_EVERY_S = 3
OUTCOMES = "outcomes"
GIVES = frozenset({Do.RAISE, Do.PROMOTE})
_POINT_EVERY_S = 5


def judge_it(w: Watched, judge: Judge, found: Found, now: datetime, *, has_news: bool) -> None:
    """Take complete slots for evidence, and say what follows from all that is known."""
    before = w.seen.slot
    gather(w, judge, newest_complete(now))
    is_due = w.looked_at is None or not timedelta(0) <= now - w.looked_at < LOOK_ANYWAY
    if not (has_news or is_due or w.seen.slot != before):
        return
    w.looked_at = now
    renew_sides(w, found, now)
    w.missing = missing(w, found, now)
    since = (w.seen.missing_since or now) if w.missing else None
    w.judged = judge.look(_case(w, found, now))
    w.seen = replace(w.seen, missing_since=since, known=w.judged.known)


def gather(w: Watched, judge: Judge, until: int) -> None:
    """Take the slots up to ``until`` for evidence, and keep those of the last minutes."""
    if until <= w.seen.slot:
        return
    w.seen = evidence.gathered(w.seen, w.slots, judge, w.mix, until)
    w.heard_slot = w.seen.slot
    w.slots.forget(w.seen.slot - window(w.plan) // SLOT_S)


def _case(w: Watched, found: Found, now: datetime) -> Case:
    held = current_step(w.plan, w.release.share)
    has_chosen = w.sides.chosen.performance.requests
    return Case(
        plan=w.plan,
        known=w.seen.known,
        recent=w.growing.made(w.slots.after(w.seen.slot), w.mix),
        drawn=values(w.sides.drawn),
        control=values(w.sides.control),
        chosen=values(w.sides.chosen) if has_chosen else None,
        now=now,
        silent={(trouble.metric, trouble.name) for trouble in _troubles(w, found)},
        is_counting=OUTCOMES not in w.missing,
        requests=samples(w),
        min_samples=held.min_samples if held is not None else 0,
    )


def step_it(w: Watched, now: datetime) -> Action:
    """What to do now. Nobody gets more by gates that were looked at a while ago."""
    look = look_of(w, now)
    action = step(w.policy, look, now)
    if action.do in GIVES:
        w.gates = gates(w, now)
        action = step(w.policy, replace(look, gates=w.gates), now)
    w.action = action
    return action


def look_of(w: Watched, now: datetime) -> Look:
    """What was found out, in the words of ``step``."""
    verdict, why = verdict_of(w), w.judged.why
    if _lacks_data(w):
        why = "; ".join(f"no data for {what}: {said}" for what, said in sorted(w.missing.items()))
    no = refusal(w.questions, w.record.calls)
    return Look(
        verdict=verdict,
        why=why,
        samples=samples(w),
        requests_per_check=requests_per_check(w),
        no_data_s=(now - w.seen.missing_since).total_seconds() if w.seen.missing_since else 0.0,
        gates=w.gates,
        mesh=w.mesh.held,
        refusal=f"webhook {no.name!r} said no{f': {no.text}' if no.text else ''}" if no else "",
    )


def verdict_of(w: Watched) -> Verdict:
    """The judge's verdict, unless something that the plan needs is not known."""
    return Verdict.ERROR if _lacks_data(w) else w.judged.verdict


def _lacks_data(w: Watched) -> bool:
    return bool(w.missing) and w.judged.verdict is not Verdict.FAIL


def look_around(w: Watched, now: datetime) -> None:
    """Renew the gates, and find out who is to be asked: once nothing else stands in the way."""
    if not w.release.is_in_force:
        w.gates, w.questions = (), questions_after(w.policy, w.plan)
        w.to_ask = unanswered(w.questions, w.record.calls)
        return
    weight = next_weight(w.plan, w.release.share)
    w.questions = questions_before(w.policy, w.plan, weight)
    w.gates = gates(w, now)
    is_ready = bool(w.questions) and _is_ready(w, now)
    w.to_ask = unanswered(w.questions, w.record.calls) if is_ready else ()


def _is_ready(w: Watched, now: datetime) -> bool:
    """Whether all but webhooks would let it go on."""
    others = tuple(gate for gate in w.gates if gate.kind is not GateKind.WEBHOOK)
    return step(w.policy, replace(look_of(w, now), gates=others), now).do in GIVES


def gates(w: Watched, now: datetime) -> tuple[GateState, ...]:
    """The gates before the next step as they are now."""
    weight = next_weight(w.plan, w.release.share)
    found = gate_states(w.policy, w.plan, weight, w.record.calls, now)
    return with_since(found, w.gates, now)


def note_state(w: Watched, action: Action, now: datetime) -> None:
    """Put how it stands into the record, and a point of it once a check interval."""
    verdict = verdict_of(w) if w.release.is_in_force else w.record.verdict
    if w.release.is_in_force and verdict != w.record.verdict:
        w.record = replace(w.record, findings=w.judged.findings())
    is_silent = action.because in (Because.ENDED, Because.NOTHING_TO_DO)
    refused = w.refusal.why if w.refusal is not None and w.refusal.is_of(action) else ""
    waits_for = refused or ("" if is_silent else action.why)
    state = (verdict, w.gates, waits_for)
    if state != (w.record.verdict, w.record.gates, w.record.waits_for):
        w.record = replace(w.record, verdict=verdict, gates=w.gates, waits_for=waits_for)
    last = w.record.points[-1] if w.record.points else None
    weight = _weight(w.release)
    if not w.release.is_in_force and last is not None and last.weight == weight:
        return
    every = timedelta(seconds=max(w.plan.check_interval_s, _POINT_EVERY_S))
    if last is None or now - last.at >= every or last.weight != weight:
        w.record = replace(w.record, points=thinned((*w.record.points, _point(w, now)), now))


def _point(w: Watched, now: datetime) -> Point:
    """How it stands, with those of the metrics that people name which the plan is about."""
    names = {name for _, name in named((*all_limits(w.plan), *w.plan.queries))}
    return Point(
        at=now,
        weight=_weight(w.release),
        canary=named_alone(w.sides.drawn, names),
        control=named_alone(w.sides.control, names),
        chosen=named_alone(w.sides.chosen, names),
        verdict=w.record.verdict,
        e_values=w.judged.e_values,
    )


def renew_sides(w: Watched, found: Found, now: datetime) -> None:
    """Look at the last minutes anew every SIDES_EVERY_S: some seconds are little of them."""
    number = turn(w.service_key, now, SIDES_EVERY_S)
    if number != w.sides_turn or found is not w.sides_found:
        w.sides_turn, w.sides_found = number, found
        w.sides = sides(w, found, now)


def sides(w: Watched, found: Found, now: datetime) -> Sides:
    """What is known of the last minutes: outcomes, reports, and answers to the plan's queries.

    Outcomes from before it is judged are none of them: it would be stopped for those once more.
    """
    window_s, first = window(w.plan), first_slot(w.seen.judged_since)
    told = w.slots.sums(max(slot_of(now) - window_s // SLOT_S, first - 1))
    covered_s = min(window_s, max(now.timestamp() - first * SLOT_S, SLOT_S))
    side = partial(_side, covered_s=covered_s)
    reported, queried = found.reported, found.queried
    return Sides(
        drawn=side(told.get(Cohort.DRAWN), reported.get(Cohort.DRAWN), queried.canary),
        control=side(told.get(Cohort.CONTROL), reported.get(Cohort.CONTROL), queried.stable),
        chosen=side(told.get(Cohort.CHOSEN), None, {}),
    )


def missing(w: Watched, found: Found, now: datetime) -> dict[str, str]:
    """Of each metric that the plan needs and nobody gives, why; nothing while nobody gets it."""
    if not _has_traffic(w):
        return {}
    lacks = _unanswered(w.plan, found.queried.troubles) if found.queried.troubles else {}
    if found.trouble:
        lacks["reports"] = found.trouble
    of = values(w.sides.drawn)
    for metric, name in [(limit.metric, limit.name) for limit in w.plan.success]:
        is_asked_for = found.at is not None and metric not in TOLD
        if is_asked_for and of(metric, name) is None:
            lacks.setdefault(name or str(metric), "nobody reports it")
    if _silence(w, now) > NO_OUTCOMES:
        lacks[OUTCOMES] = "no gateway has told of a request since the minute before"
    return lacks


def _has_traffic(w: Watched) -> bool:
    return bool(w.release.share) and not w.release.halted and w.release.is_in_force


def _troubles(w: Watched, found: Found) -> Iterable[Trouble]:
    """What queries did not tell, but for that which is there once somebody gets the canary."""
    troubles = found.queried.troubles
    return troubles if _has_traffic(w) else [one for one in troubles if not one.is_empty]


def _unanswered(plan: Plan, troubles: Iterable[Trouble]) -> dict[str, str]:
    """Of each metric that the plan needs and a query did not tell, why."""
    needed = named((*plan.success, *plan.rollback.conditions))
    return {
        trouble.name or str(trouble.metric): trouble.why
        for trouble in troubles
        if (trouble.metric, trouble.name) in needed
    }


def values(snapshot: MetricSnapshot) -> Reading:
    """The snapshot as a function."""
    return partial(value, snapshot)


def requests_per_check(w: Watched) -> float | None:
    """How many requests of the canary a check may expect; None before a minute was seen."""
    oldest = w.seen.slot - window(w.plan) // SLOT_S
    after = max(first_slot(w.seen.weight_since) - 1, oldest)
    count = w.seen.slot - after
    if count < RATE_SLOTS or not w.is_up_to_date:
        return None
    requests = w.slots.requests(Cohort.DRAWN, after, w.seen.slot)
    return requests / (count * SLOT_S) * w.plan.check_interval_s


def _silence(w: Watched, now: datetime) -> timedelta:
    """For how long nobody of those who are compared has been heard of."""
    newest = w.slots.newest if w.slots.newest > w.seen.slot else w.seen.heard
    heard = datetime.fromtimestamp((newest + 1) * SLOT_S, UTC)
    return now - max(heard, w.seen.weight_since, w.seen.judged_since)


def samples(w: Watched) -> int:
    """The canary's requests since its traffic is what it is."""
    after = max(w.seen.slot, first_slot(w.seen.weight_since) - 1)
    return w.seen.samples + w.slots.requests(Cohort.DRAWN, after, FAR)


def _side(
    tally: Tally | None,
    reported: MetricSnapshot | None,
    queried: Mapping[MetricKey, float],
    *,
    covered_s: float,
) -> MetricSnapshot:
    """One side's metrics: what outcomes tell goes before reports, a query before both."""
    told = of_tally(tally, covered_s) if tally is not None else MetricSnapshot()
    if reported is not None:
        told = replace(
            told,
            performance=replace(
                told.performance,
                cpu=reported.performance.cpu,
                memory=reported.performance.memory,
            ),
            errors=replace(told.errors, critical=reported.errors.critical),
            business=reported.business,
            users=reported.users,
            custom=reported.custom,
        )
    return onto(told, queried)


def _weight(release: Release) -> int:
    """How many get the new version, of BUCKETS."""
    if release.status is ReleaseStatus.COMPLETED:
        return BUCKETS
    return release.share if release.is_in_force and not release.halted else 0
