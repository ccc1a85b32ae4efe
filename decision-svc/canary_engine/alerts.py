"""Which alerts last, which are over, and which of that people have yet to be told.

An alert is told once for as long as it lasts, and once more when it is over. All that is known of
it is in the alert itself, and so in the release's record: whoever goes on after a restart neither
repeats nor forgets. What ends and begins anew within QUIET is one alert, not two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from canary_engine.plan import Plan
from canary_engine.record import Alert, Severity

QUIET = timedelta(seconds=60)
"""How long something must be over before people are told so."""
MOST_KEPT = 200
ABOUT_ROLLBACK = "rollback"
"""How the keys of alerts begin that a plan's rollback channels are for."""

_RANK = {severity: rank for rank, severity in enumerate(Severity)}
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """Something to alert people to. ``after_s``: only if it lasts that long.

    ``is_moment`` is what happened and is over, such as a promotion; of those a key is told once.
    """

    key: str
    severity: Severity
    title: str
    text: str = ""
    after_s: int = 0
    is_moment: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What people are to be told now; ``channels`` empty: the usual ones."""

    alert: Alert
    is_over: bool = False
    channels: tuple[str, ...] = ()


def updated(
    alerts: Sequence[Alert],
    raised: Iterable[Raised],
    now: datetime,
    unknown: frozenset[str] = frozenset(),
) -> tuple[Alert, ...]:
    """The alerts, given all that is the matter ``now``; the rest is over.

    Of what has a key in ``unknown`` nobody can say now whether it lasts: it stays as it is.
    """
    by_key = {each.key: each for each in raised}
    latest = {alert.key: alert for alert in alerts}
    found = []
    for alert in alerts:
        if alert is not latest[alert.key] or alert.is_moment:
            found.append(alert)
        elif (each := by_key.get(alert.key)) is not None and _goes_on(alert, now):
            found.append(_continued(alert, each))
        elif alert.is_open and alert.key not in unknown and each is None:
            found += _ended(alert, now)
        else:
            found.append(alert)
    found += [_begun(each, now) for each in by_key.values() if _is_new(each, latest, now)]
    return _thinned(found)


def notices(alerts: Iterable[Alert], plan: Plan, now: datetime) -> tuple[Notice, ...]:
    """What people are to be told now, oldest first."""
    return tuple(
        Notice(
            alert=alert,
            is_over=not alert.is_open and not alert.is_moment,
            channels=plan.rollback.channels if _is_about_rollback(alert) else (),
        )
        for alert in alerts
        if not _is_silenced(alert, plan) and _is_to_tell(alert, now)
    )


def told(alerts: Iterable[Alert], notice: Notice, now: datetime) -> tuple[Alert, ...]:
    """The alerts, now that people have been told."""
    of = (notice.alert.key, notice.alert.since)
    over_at = notice.alert.resolved_at if notice.is_over else None
    at = max(now, over_at) if over_at is not None else now
    return tuple(
        replace(alert, told_at=at) if (alert.key, alert.since) == of else alert for alert in alerts
    )


def is_all_told(alerts: Iterable[Alert], plan: Plan) -> bool:
    """Whether nothing lasts and nothing is left to be told."""
    return all(
        not alert.is_open and (_is_silenced(alert, plan) or not _is_owed(alert)) for alert in alerts
    )


def _begun(each: Raised, now: datetime) -> Alert:
    return Alert(
        key=each.key,
        severity=each.severity,
        title=each.title,
        text=each.text,
        since=now,
        resolved_at=now if each.is_moment else None,
        due_at=now + timedelta(seconds=each.after_s) if each.after_s else None,
    )


def _is_new(each: Raised, latest: dict[str, Alert], now: datetime) -> bool:
    """Whether it is no alert yet; what is over and quiet begins anew, a moment never does."""
    before = latest.get(each.key)
    if before is None:
        return True
    return not before.is_moment and not _goes_on(before, now)


def _goes_on(alert: Alert, now: datetime) -> bool:
    """Whether it lasts, or is over for so short a time that it would be the same."""
    return alert.resolved_at is None or (
        now - alert.resolved_at < QUIET and not _heard_of_end(alert)
    )


def _continued(alert: Alert, each: Raised) -> Alert:
    """What people have been told stays as it is, unless it got worse."""
    due_at = alert.since + timedelta(seconds=each.after_s) if each.after_s else None
    after = replace(alert, resolved_at=None, due_at=due_at)
    if _RANK[each.severity] > _RANK[alert.severity]:
        return replace(
            after, severity=each.severity, title=each.title, text=each.text, told_at=None
        )
    if alert.told_at is None:
        return replace(after, title=each.title, text=each.text)
    return after


def _ended(alert: Alert, now: datetime) -> list[Alert]:
    """Over; what ended before it was due never was an alert."""
    if alert.due_at is not None and now < alert.due_at and alert.told_at is None:
        return []
    return [replace(alert, resolved_at=max(now, alert.since + _INSTANT))]


def _thinned(alerts: list[Alert]) -> tuple[Alert, ...]:
    """At most so many, without the oldest of those of which everything was told."""
    spare = len(alerts) - MOST_KEPT
    kept = []
    for alert in alerts:
        if spare > 0 and not alert.is_open and not _is_owed(alert):
            spare -= 1
        else:
            kept.append(alert)
    return tuple(kept)


def _is_to_tell(alert: Alert, now: datetime) -> bool:
    if not _is_owed(alert):
        return False
    if alert.is_open:
        return alert.due_at is None or now >= alert.due_at
    assert alert.resolved_at is not None, "it is over"
    return alert.is_moment or now - alert.resolved_at >= QUIET


def _is_owed(alert: Alert) -> bool:
    """Whether people lack a message, now or as soon as it is due or quiet."""
    if alert.is_open or alert.is_moment:
        return alert.told_at is None
    return not _heard_of_end(alert)


def _heard_of_end(alert: Alert) -> bool:
    return (
        alert.resolved_at is not None
        and alert.told_at is not None
        and alert.told_at >= alert.resolved_at
    )


def _is_about_rollback(alert: Alert) -> bool:
    return alert.key.startswith(ABOUT_ROLLBACK)


def _is_silenced(alert: Alert, plan: Plan) -> bool:
    """Whether the plan wants nobody told of it."""
    return not plan.rollback.notify and _is_about_rollback(alert)
