"""Reads plans from documents; every complaint at once, each with its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from canary_engine import promql
from canary_engine.errors import InvalidPolicy
from canary_engine.plan import (
    ALERTS,
    CONDITIONS,
    MAX_WEIGHT,
    NAMED,
    SUCCESS,
    UNITS_S,
    ChecklistItem,
    Comparison,
    Freeze,
    Gate,
    GateKind,
    Limit,
    Metric,
    NoData,
    NoDataAction,
    Occasion,
    Plan,
    PlanStep,
    Query,
    RollbackPlan,
    Webhook,
    Weekday,
    Window,
    length,
)
from canary_engine.reading import MAX_NAME, Node
from canary_engine.shares import BUCKETS

W = TypeVar("W", bound=StrEnum)

MAX_STEPS = 1_000
MAX_PROMQL = 4_000
LONGEST_S = 365 * 86_400
MOST_TIMES = 1_000.0
_LENGTH = re.compile(r"([0-9]{1,9})([smhd])\Z")
_HOUR = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]\Z")
_URL = re.compile(r"https?://[^\s/]+")


def plan(document: Mapping[str, Any]) -> Plan:
    """The plan that ``document`` says. Raises InvalidPolicy with every complaint."""
    complaints: list[str] = []
    if not isinstance(document, Mapping):
        raise InvalidPolicy(["document: give a mapping"])
    found = read_plan(Node(document, "", complaints))
    if complaints:
        raise InvalidPolicy(complaints)
    return found


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
        webhooks=tuple(map(_webhook, node.nodes("webhooks"))),
        queries=tuple(map(_query, node.nodes("queries", unique=""))),
        no_data=_no_data(part) if (part := node.node("no_data")) else NoData(),
        comparison=_comparison(part) if (part := node.node("comparison")) else Comparison(),
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
        if any(said.startswith(f"{node.where(where)}:") for said in node.complaints):
            continue  # it is no weight, and was complained about
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
    if is_webhook and not _URL.match(found.url):
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
    _check_name(node, found.metric, found.name)
    if found.max is None and found.min is None:
        node.complain("max", "say what it may be: give max, min or both")
    elif found.max is not None and found.min is not None and found.max < found.min:
        node.complain("max", "give no less than min")
    node.finish()
    return found


def _check_name(node: Node, metric: Metric, name: str) -> None:
    if metric is Metric.FEATURE_USAGE and not name:
        node.complain("name", "say of which feature")
    elif bool(name) != (metric in NAMED):
        node.complain("name", "a custom metric needs a name, and no other has one")


def _webhook(node: Node) -> Webhook:
    found = Webhook(
        name=node.name(),
        url=node.text("url", 2_000),
        occasions=_words(node, "occasions", Occasion),
    )
    if not _URL.match(found.url):
        node.complain("url", "say where the webhook is, with http:// or https://")
    if not found.occasions:
        node.complain("occasions", f"say when it is called: some of {', '.join(Occasion)}")
    node.finish()
    return found


def _query(node: Node) -> Query:
    found = Query(
        metric=node.word("metric", Metric),
        name=node.text("name", MAX_NAME),
        promql=node.text("promql", MAX_PROMQL),
    )
    _check_name(node, found.metric, found.name)
    if not found.promql.strip():
        node.complain("promql", "give the question to Prometheus")
    elif trouble := promql.complaint(found.promql):
        node.complain("promql", trouble)
    node.finish()
    return found


def _no_data(node: Node) -> NoData:
    found = NoData(
        action=node.word("action", NoDataAction, NoDataAction.HOLD),
        after=_length(node, "after", "15m"),
    )
    node.finish()
    return found


def _comparison(node: Node) -> Comparison:
    usual = Comparison()
    found = Comparison(
        enabled=_yes(node, "enabled"),
        control_times=_between(node, "control_times", usual.control_times, 0.1, MOST_TIMES),
        false_rollback=_between(node, "false_rollback", usual.false_rollback, 0.001, 20.0),
        margin=_between(node, "margin", usual.margin, 0.0, 1_000.0),
        attempts=node.whole("attempts", 0, 100) or usual.attempts,
    )
    node.finish()
    return found


def _between(node: Node, name: str, default: float, low: float, high: float) -> float:
    value = _number(node, name)
    if value is None:
        return default
    if not low <= value <= high:
        node.complain(name, f"give a number from {low:g} to {high:g}, not {value:g}")
        return default
    return value


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
        weekdays=_words(node, "weekdays", Weekday),
        start=_hour(node, "start"),
        end=_hour(node, "end"),
    )
    node.finish()
    return found


def _words(node: Node, name: str, words: type[W]) -> tuple[W, ...]:
    """Some words of an enum, each once and in its order."""
    found = set()
    for index, word in enumerate(node.texts(name, MAX_NAME)):
        if word in list(words):
            found.add(words(word))
        else:
            what = f"give one of {', '.join(words)}, not {word!r}"[:200]
            node.complain(f"{name}[{index}]", what)
    return tuple(word for word in words if word in found)


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
    found = int(match[1]) * UNITS_S[match[2]] if match else -1
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
