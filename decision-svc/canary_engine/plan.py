"""Plans: how a release goes from its first users to everybody, as values.

What a plan does not say is as the product says: the defaults stand here and nowhere else.
Lengths of time and hours stay text, in one form ("30m", "22:00"); the properties give numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from canary_engine.shares import BUCKETS

UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
"""The units of a length of time, the longest first."""


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
    FEATURE_USAGE = "feature-usage"
    FEEDBACK = "feedback"


NAMED = frozenset({Metric.CUSTOM, Metric.FEATURE_USAGE})
"""Metrics of which there are many, told apart by name."""


UNITS: Mapping[Metric, str] = {
    Metric.ERROR_RATE: "%",
    Metric.AVG_RESPONSE_TIME: "ms",
    Metric.P50_RESPONSE_TIME: "ms",
    Metric.P95_RESPONSE_TIME: "ms",
    Metric.P99_RESPONSE_TIME: "ms",
    Metric.THROUGHPUT: "/s",
    Metric.CPU: "%",
    Metric.MEMORY: "%",
    Metric.CONVERSION_RATE: "%",
    Metric.SESSION_DURATION: "s",
    Metric.BOUNCE_RATE: "%",
}
"""What a metric is measured in; one that is not here is a plain number."""


def said(metric: Metric, value: float) -> str:
    """A metric's value for people, with four digits that matter and its unit: "19.23 %"."""
    unit = UNITS.get(metric, "")
    number = f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
    return f"{number} {unit}" if unit else number


class GateKind(StrEnum):
    """What has to hold before a step begins."""

    APPROVAL = "approval"
    CHECKLIST = "checklist"
    WEBHOOK = "webhook"
    WINDOW = "window"


class Occasion(StrEnum):
    """A moment in a release's life at which webhooks are called; the first three may refuse."""

    START = "start"
    RAISE = "raise"
    PROMOTE = "promote"
    AFTER = "after"
    ROLLBACK = "rollback"


class NoDataAction(StrEnum):
    """What follows when a metric that the plan needs cannot be had for long."""

    HOLD = "hold"
    PAUSE = "pause"
    HALT = "halt"
    ROLL_BACK = "roll-back"


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
class Freeze:
    """A time without starts and raises; both ends are local date-times in ``time_zone``."""

    name: str
    start: str
    end: str
    time_zone: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecklistItem:
    """Something that people tick off."""

    name: str
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Somebody outside who is asked, or told, what happens to a release."""

    name: str
    url: str
    occasions: tuple[Occasion, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question to Prometheus whose answer is a metric; ``{{version}}`` and such are filled in."""

    metric: Metric
    name: str = ""
    promql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoData:
    """What follows when there has been no data for ``after``."""

    action: NoDataAction = NoDataAction.HOLD
    after: str = "15m"

    @property
    def after_s(self) -> int:
        """For how long there must have been none."""
        return seconds(self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How the canary is compared with control, the users whom the draw left on stable.

    ``control_times`` is control's share as a multiple of the canary's; ``false_rollback`` the
    chance, in percent, that a release as good as stable is rolled back all the same, over its
    whole life and all metrics; ``margin`` how much worse, in percent of control's, is tolerated.
    ``attempts`` is how often clients send a request that fails: so many errors have one cause.
    """

    enabled: bool = True
    control_times: float = 4.0
    false_rollback: float = 1.0
    margin: float = 10.0
    attempts: int = 1


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
    webhooks: tuple[Webhook, ...] = ()
    queries: tuple[Query, ...] = ()
    no_data: NoData = NoData()
    comparison: Comparison = Comparison()

    @property
    def check_interval_s(self) -> int:
        """How often the metrics are looked at."""
        return seconds(self.check_interval)

    def control(self, share: int) -> int:
        """The share that stands for stable beside a canary at ``share``, of BUCKETS."""
        if not self.comparison.enabled:
            return 0
        return min(round(share * self.comparison.control_times), BUCKETS - share)


@lru_cache(maxsize=1_024)
def seconds(length: str) -> int:
    """A length of time in its one form, as a number."""
    return int(length[:-1]) * UNITS_S[length[-1]]


def length(seconds: int) -> str:
    """A number of seconds as text, in the largest unit that says it."""
    fits = next((unit for unit, s in UNITS_S.items() if seconds and seconds % s == 0), "s")
    return f"{seconds // UNITS_S[fits]}{fits}"
