"""Keeps a release's record small: the older something is, the less of it is kept."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from datetime import datetime, timedelta

from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.record import Event, Point, WebhookCall

MOST_POINTS = 600
MOST_EVENTS = 500
MOST_CALLS = 200
# Of points up to this age one is kept in so long a time; all of the first quarter of an hour.
_SPACING = (
    (timedelta(minutes=15), timedelta(0)),
    (timedelta(hours=2), timedelta(minutes=1)),
    (timedelta(days=1), timedelta(minutes=10)),
    (timedelta.max, timedelta(hours=2)),
)


def thinned(points: Sequence[Point], now: datetime) -> tuple[Point, ...]:
    """The points, the fewer the older they are; none is lost at which the weight changed."""
    kept: list[Point] = []
    for point in points:
        last = kept[-1] if kept else None
        is_close = last is not None and point.at - last.at < _spacing(now - point.at)
        if last is None or not is_close or point.weight != last.weight:
            kept.append(point)
    # The newest are worth most; more than these are changes of the weight by the hundred.
    return tuple(kept[-MOST_POINTS:])


def named_alone(snapshot: MetricSnapshot, names: Set[str]) -> MetricSnapshot:
    """The snapshot without custom metrics and features of other names: people report hundreds."""
    custom, usage = snapshot.custom, snapshot.business.feature_usage
    if custom.keys() <= names and usage.keys() <= names:
        return snapshot
    used = {name: number for name, number in usage.items() if name in names}
    return replace(
        snapshot,
        business=replace(snapshot.business, feature_usage=used),
        custom={name: number for name, number in custom.items() if name in names},
    )


def events_with(events: Sequence[Event], event: Event) -> tuple[Event, ...]:
    """The events and one more, without the oldest of too many."""
    return (*events, event)[-MOST_EVENTS:]


def newest_calls(calls: Sequence[WebhookCall]) -> tuple[WebhookCall, ...]:
    """The calls without the oldest of too many."""
    return tuple(calls[-MOST_CALLS:])


def _spacing(age: timedelta) -> timedelta:
    return next(spacing for limit, spacing in _SPACING if age <= limit)
