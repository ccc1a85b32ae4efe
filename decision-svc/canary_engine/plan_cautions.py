"""Advice about what steers a plan: who is asked, what is measured, what follows when it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from canary_engine.model import BUCKETS, Policy
from canary_engine.plan import (
    UNITS,
    Gate,
    GateKind,
    Limit,
    Metric,
    NoDataAction,
    Occasion,
    Plan,
    said,
)
from canary_engine.reports import MEASURED, MOST

_MOST = {Metric.ERROR_RATE: 100.0, **MOST}

_LOCAL = re.compile(r"http://(localhost|127\.[0-9.]+|\[::1\])([:/]|\Z)")


class Warning(NamedTuple):  # noqa: A001 - the word for it
    """What had better be otherwise, where, and why."""

    path: str
    says: str
    why: str


def cautions(plan: Plan, policy: Policy | None) -> Iterator[Warning]:
    """The advice that ``plan`` does not follow, in the order of its fields."""
    yield from _gates(plan)
    yield from _sources(plan)
    yield from _bounds(plan)
    yield from _told_late(plan)
    yield from _rollback(plan)
    yield from _promotion(plan, policy)
    yield from _webhooks(plan)
    yield from _judging(plan)


def _gates(plan: Plan) -> Iterator[Warning]:
    for index, step in enumerate(plan.steps):
        if step.weight == BUCKETS and not step.gates:
            yield Warning(
                f"steps[{index}].gates",
                "nothing stands before 100 %; a gate is advised",
                "everybody at once is the step that nobody can take back half-way",
            )
    if plan.checklist and not any(g.kind is GateKind.CHECKLIST for g in _all_gates(plan)):
        yield Warning(
            "checklist",
            "no step waits for the checklist; a gate {kind: checklist} is advised",
            "a list that nothing waits for is not read",
        )


def _sources(plan: Plan) -> Iterator[Warning]:
    """Metrics that decide something and that nobody measures."""
    for index, limit in enumerate(plan.success):
        if not _is_measured(plan, limit):
            yield Warning(
                f"success[{index}]",
                f"nothing gives {limit.name or limit.metric} unless somebody reports it; "
                "a query for it is advised",
                "without it the release stands still until somebody does",
            )
    conditions = plan.rollback.conditions
    if plan.rollback.automatic and not any(_is_measured(plan, limit) for limit in conditions):
        yield Warning(
            "rollback.conditions",
            "no condition is about a metric that the gateways or a query give; "
            "one about error-rate or p95-response-time is advised",
            "what nobody measures rolls nothing back",
        )


def _is_measured(plan: Plan, limit: Limit) -> bool:
    asked = {(query.metric, query.name) for query in plan.queries}
    return limit.metric in MEASURED or (limit.metric, limit.name) in asked


def _bounds(plan: Plan) -> Iterator[Warning]:
    """Limits that no value can break, or none can keep: mostly in another unit than the metric."""
    parts = (
        ("success", plan.success),
        ("alerts", plan.alerts),
        ("rollback.conditions", plan.rollback.conditions),
    )
    for part, limits in parts:
        for index, limit in enumerate(limits):
            if not limit.of_stable:
                yield from _bound(f"{part}[{index}]", limit)


def _told_late(plan: Plan) -> Iterator[Warning]:
    """Alerts that ring only when it is rolled back for the same already."""
    for index, alert in enumerate(plan.alerts):
        for limit in plan.rollback.conditions:
            key = (limit.metric, limit.name, limit.of_stable)
            if key == (alert.metric, alert.name, alert.of_stable) and _is_looser(alert, limit):
                yield Warning(
                    f"alerts[{index}]",
                    f"it is rolled back for its {limit.name or limit.metric} before anybody is "
                    "told; an alert that rings sooner is advised",
                    "people who hear of it in time can still see what is wrong",
                )


def _is_looser(alert: Limit, limit: Limit) -> bool:
    """Whether the alert allows more than the limit, on a side where both have a bound."""
    most = alert.max is not None and limit.max is not None and alert.max > limit.max
    return most or (alert.min is not None and limit.min is not None and alert.min < limit.min)


def _bound(path: str, limit: Limit) -> Iterator[Warning]:
    metric, most = limit.metric, _MOST.get(limit.metric)
    if most is not None and limit.max is not None and limit.max >= most:
        yield Warning(
            f"{path}.max",
            f"{metric} is never above {said(metric, most)}; a lower limit is advised",
            "what nothing can break protects nobody",
        )
    if most is not None and limit.min is not None and limit.min > most:
        yield Warning(
            f"{path}.min",
            f"{metric} is never above {said(metric, most)}; a lower limit is advised",
            "what nothing can reach is broken all the time",
        )
    if UNITS.get(metric) == "ms" and limit.max is not None and limit.max < 1:
        yield Warning(
            f"{path}.max",
            f"at most {said(metric, limit.max)}; times are in milliseconds, 0.5 s is 500",
            "no request is that fast, so that it is broken all the time",
        )


def _rollback(plan: Plan) -> Iterator[Warning]:
    if not plan.rollback.automatic:
        yield Warning(
            "rollback.automatic",
            "only a person rolls back; leaving that to the controller is advised",
            "a person takes minutes, in which every user of the canary meets the fault",
        )
    if not plan.rollback.notify:
        yield Warning(
            "rollback.notify",
            "nobody is told of a rollback; telling people is advised",
            "whoever wrote the version must hear that it was withdrawn",
        )


def _promotion(plan: Plan, policy: Policy | None) -> Iterator[Warning]:
    """Whether anybody has a say between the first users and everybody."""
    is_guarded = policy is not None and policy.guards.approvals.promote
    is_asked = any(Occasion.PROMOTE in hook.occasions for hook in plan.webhooks)
    is_gated = any(gate.kind is GateKind.APPROVAL for gate in _all_gates(plan))
    if plan.promote and not (is_guarded or is_asked or is_gated):
        yield Warning(
            "promote",
            "it is promoted without anybody's approval; an approval gate, a webhook for promote "
            "or the guard of promotions is advised",
            "people see what no metric shows, and from there everybody has it",
        )


def _webhooks(plan: Plan) -> Iterator[Warning]:
    gates = (
        (f"steps[{at}].gates[{place}].url", gate.url)
        for at, step in enumerate(plan.steps)
        for place, gate in enumerate(step.gates)
    )
    hooks = ((f"webhooks[{at}].url", hook.url) for at, hook in enumerate(plan.webhooks))
    for path, url in (*gates, *hooks):
        if url.startswith("http://") and not _LOCAL.match(url):
            yield Warning(
                path,
                "the webhook is reached over plain http; https is advised",
                "whoever is on the way can read what is asked, and answer in its place",
            )


def _judging(plan: Plan) -> Iterator[Warning]:
    if plan.no_data.action is NoDataAction.ROLL_BACK:
        yield Warning(
            "no_data.action",
            "it is rolled back when there is no data; hold, pause or halt are advised",
            "a metrics server that is down says nothing against the version",
        )
    if not plan.comparison.enabled:
        yield Warning(
            "comparison.enabled",
            "the canary is compared with nobody; a comparison with control is advised",
            "limits alone take a bad hour of everybody for the canary's fault, and at few requests "
            "they are a coin toss",
        )


def _all_gates(plan: Plan) -> Iterator[Gate]:
    return (gate for step in plan.steps for gate in step.gates)
