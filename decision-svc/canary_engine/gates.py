"""Which gates stand before the next step of a release, and what those that are shut wait for.

A gate stands there because the plan's step names it, because the plan has windows or a freeze is
in force, because the service's guards want a second person's consent, or because a webhook has a
say. All of them must be open. A gate never moves anything: it only lets a move be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from canary_engine.guards import is_frozen
from canary_engine.model import BUCKETS, ApprovedMove, Policy
from canary_engine.plan import Freeze, Gate, GateKind, Plan, Weekday, Window
from canary_engine.record import PROMOTION, Answer, GateState, WebhookCall
from canary_engine.webhooks import Question, call_of, questions_before

_DAYS_AHEAD = 8


def gate_states(
    policy: Policy, plan: Plan, next_weight: int, calls: Sequence[WebhookCall], now: datetime
) -> tuple[GateState, ...]:
    """The gates before the release of ``policy`` gets ``next_weight``, or PROMOTION.

    Empty if nothing stands in the way, or no release is in force.
    """
    if policy.release is None or not policy.release.is_in_force:
        return ()
    return (
        *_approvals(policy, plan, next_weight, now),
        *_checklists(policy, plan, next_weight),
        *_windows(policy, plan, next_weight, now),
        *_webhooks(policy, plan, next_weight, calls),
    )


def are_open(states: Iterable[GateState]) -> bool:
    """Whether nothing waits."""
    return all(state.is_open for state in states)


def waits_for(states: Iterable[GateState]) -> str:
    """Everything that is waited for, in one line; "" if nothing is."""
    return "; ".join(state.waits_for for state in states if not state.is_open)


def with_since(
    states: Iterable[GateState], before: Iterable[GateState], now: datetime
) -> tuple[GateState, ...]:
    """The states with since when each is as it is, given how they were ``before``."""
    known = {_key(state): state.since for state in before}
    return tuple(replace(state, since=known.get(_key(state)) or now) for state in states)


def next_opening(windows: Iterable[Window], now: datetime) -> datetime | None:
    """When the first of the windows that are shut now opens, in UTC; None for no windows."""
    begins = (begin for window in windows for begin in _begins(window, now) if begin > now)
    return min(begins, default=None)


def _approvals(policy: Policy, plan: Plan, weight: int, now: datetime) -> Iterator[GateState]:
    """One for each gate of that kind, at least one where the guards want it.

    Each wants a person of its own: two gates open by the consent of two.
    """
    names = [gate.name for gate in _gates(plan, weight, GateKind.APPROVAL)]
    if _is_guarded(policy, weight) and not names:
        names.append("")
    people = _who_approved(policy, weight, now)
    for place, name in enumerate(names):
        yield GateState(
            weight=weight,
            kind=GateKind.APPROVAL,
            name=name,
            is_open=place < len(people),
            waits_for="" if place < len(people) else _approval_wanted(policy, weight, name, people),
        )


def _is_guarded(policy: Policy, weight: int) -> bool:
    rules = policy.guards.approvals
    if weight == PROMOTION:
        return rules.promote
    return rules.above is not None and weight > rules.above


def _who_approved(policy: Policy, weight: int, now: datetime) -> list[str]:
    """The people whose consent to this move still holds, each once however they are written."""
    release = policy.release
    assert release is not None, "asked only of a release in force"
    is_promotion = weight == PROMOTION
    move = ApprovedMove.PROMOTE if is_promotion else ApprovedMove.RAISE
    people = {
        approval.by.strip().casefold(): approval.by
        for approval in policy.approvals
        if (approval.move, approval.version) == (move, release.version)
        and (is_promotion or approval.share >= weight)
        and approval.expires_at > now
    }
    return list(people.values())


def _approval_wanted(policy: Policy, weight: int, name: str, people: Sequence[str]) -> str:
    release = policy.release
    assert release is not None, "asked only of a release in force"
    what, how = _move(release.version, weight)
    gate = f" ({name})" if name else ""
    who = f"somebody other than {', '.join(people)}" if people else "somebody"
    return f"approval{gate} of the {what} by {who}: canaryctl approve {policy.service_key} {how}"


def _move(version: str, weight: int) -> tuple[str, str]:
    """What is approved, and with which words of canaryctl."""
    if weight == PROMOTION:
        return "promotion", f"promote {version}"
    percent = f"{weight * 100 / BUCKETS:g}"
    return f"raise to {percent} %", f"raise {version} --percentage {percent}"


def _checklists(policy: Policy, plan: Plan, weight: int) -> Iterator[GateState]:
    """A gate that has the name of a group waits for that group, any other for the whole list."""
    release = policy.release
    assert release is not None, "asked only of a release in force"
    ticked = {tick.item for tick in release.ticks}
    groups = {item.group for item in plan.checklist if item.group}
    for gate in _gates(plan, weight, GateKind.CHECKLIST):
        items = [
            item.name
            for item in plan.checklist
            if gate.name not in groups or item.group == gate.name
        ]
        missing = [item for item in items if item not in ticked]
        yield GateState(
            weight=weight,
            kind=GateKind.CHECKLIST,
            name=gate.name,
            is_open=not missing,
            waits_for=_ticks_wanted(policy.service_key, missing),
        )


def _ticks_wanted(service_key: str, missing: Sequence[str]) -> str:
    if not missing:
        return ""
    items = "item" if len(missing) == 1 else f"{len(missing)} items"
    named = ", ".join(repr(item) for item in missing[:3])
    more = ", ..." if len(missing) > 3 else ""
    return (
        f"{items} of the checklist by whoever has seen to it: {named}{more}: "
        f"canaryctl checklist tick {service_key} {missing[0]!r}"
    )


def _windows(policy: Policy, plan: Plan, weight: int, now: datetime) -> Iterator[GateState]:
    """The plan's windows, and the freezes in force of the plan and the service."""
    names = [gate.name for gate in _gates(plan, weight, GateKind.WINDOW)]
    if plan.windows:
        is_open = any(window.is_open(now) for window in plan.windows)
        for name in names or [""]:
            yield GateState(
                weight=weight,
                kind=GateKind.WINDOW,
                name=name,
                is_open=is_open,
                waits_for="" if is_open else _opening(plan.windows, now),
            )
    for freeze in (*policy.guards.freezes, *plan.freezes):
        if is_frozen(freeze, now):
            yield GateState(
                weight=weight,
                kind=GateKind.WINDOW,
                name=freeze.name,
                waits_for=_thaw(freeze),
            )


def _opening(windows: Iterable[Window], now: datetime) -> str:
    said = " or ".join(
        f"{'every day' if not w.weekdays else ', '.join(w.weekdays)} "
        f"{w.start} to {w.end} {w.time_zone}"
        for w in windows
    )
    at = next_opening(windows, now)
    return f"the window {said}" + (f", which opens at {at:%Y-%m-%d %H:%M} UTC" if at else "")


def _thaw(freeze: Freeze) -> str:
    why = f" ({freeze.reason})" if freeze.reason else ""
    return f"the end of freeze {freeze.name!r} at {freeze.end} {freeze.time_zone}{why}"


def _begins(window: Window, now: datetime) -> Iterator[datetime]:
    """When it begins on the days around now."""
    zone = ZoneInfo(window.time_zone)
    today = now.astimezone(zone).date()
    for ahead in range(_DAYS_AHEAD):
        day: date = today + timedelta(days=ahead)
        if not window.weekdays or tuple(Weekday)[day.weekday()] in window.weekdays:
            yield datetime.combine(day, time.fromisoformat(window.start), zone).astimezone(UTC)


def _webhooks(
    policy: Policy, plan: Plan, weight: int, calls: Sequence[WebhookCall]
) -> Iterator[GateState]:
    for question in questions_before(policy, plan, weight):
        call = call_of(question, calls)
        is_open = call is not None and call.answer is Answer.YES
        yield GateState(
            weight=weight,
            kind=GateKind.WEBHOOK,
            name=question.name,
            is_open=is_open,
            waits_for="" if is_open else _answer_wanted(question, call),
        )


def _answer_wanted(question: Question, call: WebhookCall | None) -> str:
    if call is None:
        return f"webhook {question.name!r}, which is asked last and has not answered yet"
    said = f": {call.text}" if call.text else ""
    if call.answer is Answer.NO:
        return (
            f"a person, because webhook {question.name!r} said no{said}; canaryctl release resume "
            f"{question.service_key} asks it again"
        )
    if call.answer is Answer.NOT_YET:
        return f"webhook {question.name!r}, which says not yet{said}"
    times = "once" if call.tries == 1 else f"{call.tries} times"
    return f"webhook {question.name!r}, which was asked {times} without an answer{said}"


def _gates(plan: Plan, weight: int, kind: GateKind) -> list[Gate]:
    step = next((step for step in plan.steps if step.weight == weight), None)
    return [gate for gate in step.gates if gate.kind is kind] if step is not None else []


def _key(state: GateState) -> tuple[int, GateKind, str, bool]:
    return state.weight, state.kind, state.name, state.is_open
