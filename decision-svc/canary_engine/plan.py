"""Plans: how a release goes from its first users to everybody; values, and how they are read.

What a plan does not say is as the product says: the defaults stand here and nowhere else.
Lengths of time and hours stay text, in one form ("30m", "22:00"); the properties give numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from canary_engine.errors import InvalidPolicy
from canary_engine.model import BUCKETS, Freeze
from canary_engine.reading import MAX_NAME, Node

MAX_STEPS = 1_000
LONGEST_S = 365 * 86_400
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_LENGTH = re.compile(r"([0-9]{1,9})([smhd])\Z")
_HOUR = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]\Z")


class Metric(StrEnum):
    """A number about the canary; rates and usage are percentages, times milliseconds."""

    ERROR_RATE = "error-rate"
    ERROR_COUNT = "error-count"
    CRITICAL_ERRORS = "critical-errors"
    AVG_RESPONSE_TIME = "avg-response-time"
    P50_RESPONSE_TIME = "p50-response-time"
    P95_RESPONSE_TIME = "p95-response-time"
    P99_RESPONSE_TIME = "p99-response-time"
    THROUGHPUT = "throughput"
    CPU = "cpu"
    MEMORY = "memory"
    CONVERSION_RATE = "conversion-rate"
    REVENUE = "revenue"
    ACTIVE_USERS = "active-users"
    SATISFACTION = "satisfaction"
    COMPLAINTS = "complaints"
    SESSION_DURATION = "session-duration"
    BOUNCE_RATE = "bounce-rate"
    CUSTOM = "custom"


class GateKind(StrEnum):
    """What has to hold before a step begins."""

    APPROVAL = "approval"
    CHECKLIST = "checklist"
    WEBHOOK = "webhook"
    WINDOW = "window"


class Weekday(StrEnum):
    """A day of the week, in ISO's order."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a metric may be; with ``of_stable`` the bounds are percent of what stable has."""

    metric: Metric
    name: str = ""
    max: float | None = None
    min: float | None = None
    of_stable: bool = False
    duration: str = "0s"

    @property
    def duration_s(self) -> int:
        """How long it must be broken before anything follows."""
        return seconds(self.duration)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Something that must hold before a step begins."""

    kind: GateKind
    name: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStep:
    """A weight, of BUCKETS, and how long it is watched."""

    weight: int
    hold: str = "30m"
    min_samples: int = 0
    gates: tuple[Gate, ...] = ()

    @property
    def hold_s(self) -> int:
        """How long the weight is held at least."""
        return seconds(self.hold)


SUCCESS = (
    # What the gateways tell by themselves; nobody need report satisfaction for a step to end.
    Limit(metric=Metric.ERROR_RATE, max=5),
    Limit(metric=Metric.P95_RESPONSE_TIME, max=500),
)
ALERTS = (
    *SUCCESS,
    Limit(metric=Metric.SATISFACTION, min=4),
    Limit(metric=Metric.CPU, max=80),
    Limit(metric=Metric.MEMORY, max=85),
)
CONDITIONS = (
    Limit(metric=Metric.ERROR_RATE, max=10, duration="5m"),
    Limit(metric=Metric.P95_RESPONSE_TIME, max=1_000, duration="10m"),
    Limit(metric=Metric.SATISFACTION, min=3, duration="15m"),
)
MAX_WEIGHT = BUCKETS // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackPlan:
    """When a release is rolled back, and how; any one condition is reason enough."""

    automatic: bool = True
    conditions: tuple[Limit, ...] = CONDITIONS
    delay: str = "0s"
    notify: bool = True
    channels: tuple[str, ...] = ()

    @property
    def delay_s(self) -> int:
        """How long a person may still cancel it."""
        return seconds(self.delay)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Hours in which the weight may be raised; an ``end`` that is not later is on the next day."""

    time_zone: str
    weekdays: tuple[Weekday, ...] = ()
    start: str
    end: str

    def is_open(self, now: datetime) -> bool:
        """Whether ``now`` lies in it. It belongs to the day on which it begins."""
        zone = ZoneInfo(self.time_zone)
        today = now.astimezone(zone).date()
        for day in (today, today - timedelta(days=1)):
            if not self.weekdays or tuple(Weekday)[day.weekday()] in self.weekdays:
                last = day if self.start < self.end else day + timedelta(days=1)
                begin = datetime.combine(day, time.fromisoformat(self.start), zone)
                end = datetime.combine(last, time.fromisoformat(self.end), zone)
                if begin.astimezone(UTC) <= now < end.astimezone(UTC):
                    return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecklistItem:
    """Something that people tick off."""

    name: str
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of a release and what is looked at on the way; after the last it is promoted."""

    steps: tuple[PlanStep, ...] = ()
    success: tuple[Limit, ...] = SUCCESS
    alerts: tuple[Limit, ...] = ALERTS
    rollback: RollbackPlan = RollbackPlan()
    max_weight: int = MAX_WEIGHT
    windows: tuple[Window, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    checklist: tuple[ChecklistItem, ...] = ()
    check_interval: str = "1m"
    promote: bool = True

    @property
    def check_interval_s(self) -> int:
        """How often the metrics are looked at."""
        return seconds(self.check_interval)


def plan(document: Mapping[str, Any]) -> Plan:
    """The plan that ``document`` says. Raises InvalidPolicy with every complaint."""
    complaints: list[str] = []
    if not isinstance(document, Mapping):
        raise InvalidPolicy(["document: give a mapping"])
    found = read_plan(Node(document, "", complaints))
    if complaints:
        raise InvalidPolicy(complaints)
    return found


def seconds(length: str) -> int:
    """A length of time in its one form, as a number."""
    return int(length[:-1]) * _UNITS[length[-1]]


def length(seconds: int) -> str:
    """A number of seconds as text, in the largest unit that says it."""
    fits = next((unit for unit, s in _UNITS.items() if seconds and seconds % s == 0), "s")
    return f"{seconds // _UNITS[fits]}{fits}"


def read_plan(node: Node) -> Plan:
    """The plan in a document's mapping; complaints go to the node."""
    found = Plan(
        steps=tuple(map(_step, node.nodes("steps", unique=""))),
        success=_limits(node, "success") or SUCCESS,
        alerts=_limits(node, "alerts") or ALERTS,
        rollback=_rollback(part) if (part := node.node("rollback")) else RollbackPlan(),
        max_weight=_weight(node, "max_weight", MAX_WEIGHT),
        windows=tuple(map(_window, node.nodes("windows", unique=""))),
        freezes=tuple(map(read_freeze, node.nodes("freezes"))),
        checklist=tuple(map(_item, node.nodes("checklist"))),
        check_interval=_length(node, "check_interval", "1m", least_s=1),
        promote=_yes(node, "promote"),
    )
    node.finish()
    _check_steps(node, found)
    _check_gates(node, found)
    return found


def read_freeze(node: Node) -> Freeze:
    """A freeze; its start and end are local times in their one form."""
    found = Freeze(
        name=node.name(),
        start=_local(node, "start"),
        end=_local(node, "end"),
        time_zone=_zone(node),
        reason=node.text("reason", 1_000),
    )
    if found.start and found.end and found.start >= found.end:
        node.complain("end", "give a time after the start")
    node.finish()
    return found


def _check_steps(node: Node, plan: Plan) -> None:
    if not 0 < len(plan.steps) <= MAX_STEPS:
        node.complain("steps", f"give 1 to {MAX_STEPS:,} steps")
    before = 0
    for index, step in enumerate(plan.steps):
        where = f"steps[{index}].weight"
        if step.weight <= before:
            lowest = f"above {_percent(before)} %, the step before" if before else "above 0 %"
            node.complain(where, f"give a weight {lowest}")
        elif step.weight > plan.max_weight:
            most = _percent(plan.max_weight)
            node.complain(where, f"it is above max_weight, {most} %: raise that, or promote sooner")
        before = max(before, step.weight)


def _check_gates(node: Node, plan: Plan) -> None:
    needs = {GateKind.CHECKLIST: plan.checklist, GateKind.WINDOW: plan.windows}
    for index, step in enumerate(plan.steps):
        for at, gate in enumerate(step.gates):
            if gate.kind in needs and not needs[gate.kind]:
                node.complain(f"steps[{index}].gates[{at}]", f"the plan has no {gate.kind}")


def _step(node: Node) -> PlanStep:
    found = PlanStep(
        weight=_weight(node, "weight", 0),
        hold=_length(node, "hold", "30m"),
        min_samples=node.whole("min_samples", 0, 10**12),
        gates=tuple(map(_gate, node.nodes("gates", unique=""))),
    )
    named = [(gate.kind, gate.name) for gate in found.gates]
    for index, gate in enumerate(named):
        if gate in named[:index]:
            node.complain(f"gates[{index}]", "there is another of this kind and name")
    node.finish()
    return found


def _gate(node: Node) -> Gate:
    found = Gate(
        kind=node.word("kind", GateKind),
        name=node.text("name", MAX_NAME),
        url=node.text("url", 2_000),
    )
    is_webhook = found.kind is GateKind.WEBHOOK
    if is_webhook and not re.match(r"https?://[^\s/]+", found.url):
        node.complain("url", "say where the webhook is, with http:// or https://")
    elif found.url and not is_webhook:
        node.complain("url", f"a gate of kind {found.kind} has none")
    node.finish()
    return found


def _limits(node: Node, name: str) -> tuple[Limit, ...]:
    return tuple(map(_limit, node.nodes(name, unique="")))


def _limit(node: Node) -> Limit:
    found = Limit(
        metric=node.word("metric", Metric),
        name=node.text("name", MAX_NAME),
        max=_number(node, "max"),
        min=_number(node, "min"),
        of_stable=node.yes("of_stable"),
        duration=_length(node, "duration", "0s"),
    )
    if bool(found.name) != (found.metric is Metric.CUSTOM):
        node.complain("name", "a custom metric needs a name, and no other has one")
    if found.max is None and found.min is None:
        node.complain("max", "say what it may be: give max, min or both")
    elif found.max is not None and found.min is not None and found.max < found.min:
        node.complain("max", "give no less than min")
    node.finish()
    return found


def _rollback(node: Node) -> RollbackPlan:
    found = RollbackPlan(
        automatic=_yes(node, "automatic"),
        conditions=_limits(node, "conditions") or CONDITIONS,
        delay=_length(node, "delay", "0s"),
        notify=_yes(node, "notify"),
        channels=node.texts("channels", MAX_NAME),
    )
    node.finish()
    return found


def _window(node: Node) -> Window:
    found = Window(
        time_zone=_zone(node),
        weekdays=_weekdays(node),
        start=_hour(node, "start"),
        end=_hour(node, "end"),
    )
    node.finish()
    return found


def _weekdays(node: Node) -> tuple[Weekday, ...]:
    days = [
        Node({"day": name}, f"{node.where('weekdays')}[{index}]", node.complaints)
        for index, name in enumerate(node.texts("weekdays", MAX_NAME))
    ]
    found = {Weekday(name) for day in days if (name := _known_day(day))}
    return tuple(day for day in Weekday if day in found)


def _known_day(node: Node) -> str:
    name: str = node.get("day")
    if name in list(Weekday):
        return name
    node.complain("", f"give one of {', '.join(Weekday)}, not {name!r}"[:200])
    return ""


def _item(node: Node) -> ChecklistItem:
    found = ChecklistItem(name=node.name(), group=node.text("group", MAX_NAME))
    node.finish()
    return found


def _weight(node: Node, name: str, default: int) -> int:
    share = node.share(name)
    return default if share is None else share


def _number(node: Node, name: str) -> float | None:
    value = node.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        node.complain(name, f"give a number, not {value!r}"[:200])
        return None
    return float(value)


def _yes(node: Node, name: str) -> bool:
    """True or false; true if absent."""
    return node.yes(name) if node.has(name) else True


def _length(node: Node, name: str, default: str, least_s: int = 0) -> str:
    """A length of time in its one form."""
    value = node.text(name, MAX_NAME)
    if not value:
        return default
    match = _LENGTH.match(value)
    found = int(match[1]) * _UNITS[match[2]] if match else -1
    if not least_s <= found <= LONGEST_S:
        least = length(least_s)
        what = f"give a length of time from {least} to a year, like 90s, 30m or 2h"
        node.complain(name, f"{what}, not {value!r}")
        return default
    return length(found)


def _hour(node: Node, name: str) -> str:
    value = node.text(name, MAX_NAME)
    if not _HOUR.match(value):
        node.complain(name, f"{value!r} is no time of day; write it like 22:00")
        return "00:00"
    return value


def _zone(node: Node) -> str:
    value = node.text("time_zone", MAX_NAME)
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        node.complain("time_zone", f"{value!r} is unknown; write it like Europe/Berlin")
    return value


def _local(node: Node, name: str) -> str:
    """A local date and time in its one form, YYYY-MM-DDTHH:MM:SS."""
    value = node.text(name, MAX_NAME)
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            return moment.isoformat(timespec="seconds")
    except ValueError:
        pass
    node.complain(name, f"{value!r} is no local time; write it like 2026-01-31T12:00")
    return ""


def _percent(share: int) -> str:
    return f"{share * 100 / BUCKETS:g}"
