"""Plans: the product's figures where they are silent, every mistake with its path, and advice."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from canary_engine import parse
from canary_engine.errors import InvalidPolicy
from canary_engine.model import BUCKETS, Policy
from canary_engine.plan import GateKind, Metric, Plan, Window, length, seconds
from canary_engine.plan_lint import lint
from canary_engine.plan_reading import plan
from canary_engine.promql import QueryVariable, filled
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday
NIGHTS = {"time_zone": "Asia/Shanghai", "start": "22:00", "end": "06:00"}
GOOD: dict[str, Any] = {
    "steps": [{"weight": 5, "hold": "1h"}, {"weight": 10, "hold": "30m"}],
    "windows": [NIGHTS],
    "webhooks": [{"name": "qa", "url": "https://qa/ok", "occasions": ["promote"]}],
}
TESTERS = {"name": "alpha-testers", "canary_eligible": True, "criteria": {"tags": ["a"]}}
BETA = {"name": "beta-testers", "canary_eligible": True, "criteria": {"tags": ["b"]}}
KEPT_OUT = {"name": "big", "canary_eligible": False, "criteria": {"tiers": ["enterprise"]}}


def complaints(document: Any) -> list[str]:
    with pytest.raises(InvalidPolicy) as caught:
        plan(document)
    return list(caught.value.complaints)


def policy(**fields: Any) -> Policy:
    usual = {"segments": [TESTERS, BETA, KEPT_OUT]}
    return parse.fields_of({"service_key": "shop", **usual, **fields})


def warned(document: dict[str, Any], of: Policy | None = None, now: datetime = NOW) -> list[str]:
    return [warning.path for warning in lint(plan(document), of, now)]


# Values


def test_what_a_plan_does_not_say_is_as_the_product_says() -> None:
    found = plan({"steps": [{"weight": 5}]})
    assert (found.steps[0].hold_s, found.check_interval_s, found.max_weight) == (1_800, 60, 50_000)
    said = [(c.metric, c.max, c.min, c.duration_s) for c in found.rollback.conditions]
    assert said == [
        (Metric.ERROR_RATE, 10, None, 300),
        (Metric.P95_RESPONSE_TIME, 1_000, None, 600),
        (Metric.SATISFACTION, None, 3, 900),
    ]
    assert (found.rollback.delay_s, found.rollback.notify, found.rollback.automatic) == (
        0,
        True,
        True,
    )
    alerts = {c.metric: c.max if c.max is not None else c.min for c in found.alerts}
    assert list(alerts.values()) == [5, 500, 4, 80, 85]


def test_a_plan_is_part_of_a_policy_and_survives_its_document() -> None:
    document = {
        "steps": [
            {"weight": 0.125, "hold": "90s", "min_samples": 10},
            {"weight": 60, "gates": [{"kind": "webhook", "url": "https://ci/ok"}]},
        ],
        "success": [{"metric": "custom", "name": "carts", "min": 95, "of_stable": True}],
        "rollback": {"automatic": False, "notify": False, "delay": "2m", "channels": ["ops"]},
        "max_weight": 100,
        "windows": [{**NIGHTS, "weekdays": ["friday", "monday"]}],
        "freezes": [{"name": "f", "start": "2026-01-01", "end": "2026-01-02", "time_zone": "UTC"}],
        "checklist": [{"name": "ready", "group": "code"}],
        "check_interval": "10s",
        "promote": False,
        "webhooks": [{"name": "ci", "url": "https://ci/", "occasions": ["raise", "start"]}],
        "queries": [{"metric": "cpu", "promql": "avg(cpu{version='{{version}}'})"}],
        "no_data": {"action": "halt", "after": "5m"},
        "comparison": {"enabled": False, "control_times": 2.5, "margin": 0, "attempts": 3},
    }
    found = parse.policy({"service_key": "shop", "plan": document})
    assert found.plan == plan(document)
    assert parse.policy(parse.document(found)) == found
    assert found.plan is not None
    assert found.plan.steps[0].weight == 125
    assert found.plan.windows[0].weekdays == ("monday", "friday")
    assert found.plan.webhooks[0].occasions == ("start", "raise")
    assert found.plan.no_data.after_s == 300


@pytest.mark.parametrize(
    ("written", "kept"), [("90s", "90s"), ("120m", "2h"), ("0s", "0s"), ("48h", "2d")]
)
def test_lengths_of_time_have_one_form(written: str, kept: str) -> None:
    assert length(seconds(written)) == kept


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"steps": []}, "steps: give 1 to 1,000 steps"),
        ({"steps": [{"weight": 0}]}, "steps[0].weight: give a weight above 0 %"),
        ({"steps": [{"weight": "5%"}]}, None),
        ({"steps": [{"weight": 5}, {"weight": 120}]}, None),
        (
            {"steps": [{"weight": 5}, {"weight": 5}]},
            "steps[1].weight: give a weight above 5 %, the step before",
        ),
        (
            {"steps": [{"weight": 75}]},
            "steps[0].weight: it is above max_weight, 50 %: raise that, or promote sooner",
        ),
        (
            {"steps": [{"weight": 5, "hold": "soon"}]},
            "steps[0].hold: give a length of time from 0s to a year, like 90s, 30m or 2h, "
            "not 'soon'",
        ),
        (
            {"steps": [{"weight": 5, "gates": [{"kind": "window"}]}], "windows": []},
            "steps[0].gates[0]: the plan has no window",
        ),
        (
            {"steps": [{"weight": 5, "gates": [{"kind": "webhook", "url": "ci"}]}]},
            "steps[0].gates[0].url: say where the webhook is, with http:// or https://",
        ),
        (
            {"webhooks": [{"name": "ci", "url": "ci", "occasions": ["start"]}]},
            "webhooks[0].url: say where the webhook is, with http:// or https://",
        ),
        (
            {"webhooks": [{"name": "ci", "url": "http://ci"}]},
            "webhooks[0].occasions: say when it is called: some of start, raise, promote, after, "
            "rollback",
        ),
        (
            {"webhooks": [{"name": "ci", "url": "http://ci", "occasions": ["lunch"]}]},
            "webhooks[0].occasions[0]: give one of start, raise, promote, after, rollback, "
            "not 'lunch'",
        ),
        (
            {"queries": [{"metric": "cpu", "promql": " "}]},
            "queries[0].promql: give the question to Prometheus",
        ),
        (
            {"queries": [{"metric": "custom", "promql": "up"}]},
            "queries[0].name: a custom metric needs a name, and no other has one",
        ),
        (
            {"no_data": {"action": "cry"}},
            "no_data.action: give one of hold, pause, halt, roll-back, not 'cry'",
        ),
        (
            {"comparison": {"false_rollback": 50}},
            "comparison.false_rollback: give a number from 0.001 to 20, not 50",
        ),
        (
            {"comparison": {"attempts": 101}},
            "comparison.attempts: give a whole number from 0 to 100, not 101",
        ),
        (
            {"success": [{"metric": "cpu"}]},
            "success[0].max: say what it may be: give max, min or both",
        ),
        (
            {"alerts": [{"metric": "custom", "max": 1}]},
            "alerts[0].name: a custom metric needs a name, and no other has one",
        ),
        (
            {"rollback": {"conditions": [{"metric": "cpu", "max": float("nan")}]}},
            "rollback.conditions[0].max: give a number, not nan",
        ),
        (
            {"windows": [{**NIGHTS, "start": "25:00"}]},
            "windows[0].start: '25:00' is no time of day; write it like 22:00",
        ),
        (
            {"windows": [{**NIGHTS, "weekdays": ["someday"]}]},
            "windows[0].weekdays[0]: give one of monday, tuesday, wednesday, thursday, friday, "
            "saturday, sunday, not 'someday'",
        ),
        ({"check_interval": "0s"}, None),
        ({"step": []}, "step: unknown field; did you mean steps?"),
    ],
)
def test_a_mistake_is_complained_about_with_its_path(
    changes: dict[str, Any], complaint: str | None
) -> None:
    found = complaints({**GOOD, **changes})
    assert complaint in found or (complaint is None and len(found) == 1)


def test_gates_are_of_kinds() -> None:
    found = plan({"steps": [{"weight": 5, "gates": [{"kind": "approval", "name": "lead"}]}]})
    assert [gate.kind for gate in found.steps[0].gates] == [GateKind.APPROVAL]


@pytest.mark.parametrize(
    ("at", "is_open"),
    [
        ("2026-03-06T23:00", True),  # Friday night
        ("2026-03-07T05:59", True),  # the same night, on Saturday
        ("2026-03-07T06:00", False),
        ("2026-03-07T23:00", False),  # Saturday night
        ("2026-03-06T05:00", False),  # Thursday's night
    ],
)
def test_a_window_past_midnight_belongs_to_the_day_on_which_it_begins(
    at: str, is_open: bool
) -> None:
    found = plan({**GOOD, "windows": [{**NIGHTS, "time_zone": "UTC", "weekdays": ["friday"]}]})
    assert found.windows[0].is_open(datetime.fromisoformat(at).replace(tzinfo=UTC)) is is_open


def test_a_window_is_read_in_its_time_zone() -> None:
    window = Window(time_zone="Asia/Shanghai", start="22:00", end="23:00")
    assert window.is_open(datetime(2026, 3, 4, 14, 30, tzinfo=UTC))
    assert not window.is_open(datetime(2026, 3, 4, 22, 30, tzinfo=UTC))


# Advice


def test_a_plan_that_follows_all_advice_is_not_warned_about() -> None:
    assert warned(GOOD, policy()) == []


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"steps": [{"weight": 6}]}, "steps[0].weight"),
        ({"steps": [{"weight": 0.5}]}, "steps[0].weight"),
        ({"steps": [{"weight": 5}, {"weight": 16}]}, "steps[1].weight"),
        ({"steps": [{"weight": 1}, {"weight": 5}]}, "steps[1].weight"),
        ({"steps": [{"weight": 5, "hold": "29m"}]}, "steps[0].hold"),
        ({"steps": [{"weight": 5, "hold": "121m"}]}, "steps[0].hold"),
        ({"max_weight": 51}, "max_weight"),
        ({"windows": []}, "windows"),
        ({"windows": [{**NIGHTS, "start": "17:00"}]}, "windows[0]"),
        ({"windows": [{**NIGHTS, "end": "10:00"}]}, "windows[0]"),
        (
            {
                "freezes": [
                    {"name": "f", "start": "2026-03-04", "end": "2026-03-05", "time_zone": "UTC"}
                ]
            },
            "freezes",
        ),
    ],
)
def test_a_plan_is_warned_about_where_it_leaves_the_advice(
    changes: dict[str, Any], path: str
) -> None:
    assert warned({**GOOD, **changes}) == [path]


@pytest.mark.parametrize("weight", [1, 5])
def test_the_ends_of_the_advised_ranges_are_advised(weight: int) -> None:
    steps = [
        {"weight": weight, "hold": "30m"},
        {"weight": weight + 5, "hold": "120m"},
        {"weight": weight + 15},
    ]
    assert warned({**GOOD, "steps": steps}) == []


def test_a_window_at_the_weekend_may_be_at_any_hour() -> None:
    weekend = {**NIGHTS, "weekdays": ["saturday"], "start": "10:00", "end": "16:00"}
    assert warned({**GOOD, "windows": [weekend]}) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"segments": [BETA, KEPT_OUT]}, "nobody gets the canary before the percentage"),
        ({"segments": [TESTERS, KEPT_OUT]}, "no eligible segment of beta users"),
        ({"segments": [TESTERS, BETA]}, "nothing keeps enterprise users on stable"),
        (
            {"segments": [TESTERS, BETA, {**KEPT_OUT, "canary_eligible": True}]},
            "big gives enterprise users the canary",
        ),
        ({"segments": [{**TESTERS, "percentage": 10}, BETA, KEPT_OUT]}, "more than testers do"),
    ],
)
def test_who_is_first_is_looked_at_in_the_policy(fields: dict[str, Any], words: str) -> None:
    found = [warning.says for warning in lint(plan(GOOD), policy(**fields), NOW)]
    assert len(found) == 1
    assert words in found[0]


def test_a_rule_keeps_enterprise_users_out_as_well() -> None:
    rule = {
        "name": "tier",
        "source": "header",
        "key": "t",
        "exact": "enterprise",
        "variant": "stable",
    }
    assert warned(GOOD, policy(segments=[TESTERS, BETA], rules=[rule])) == []


def test_a_freeze_that_begins_before_the_plan_ends_is_told() -> None:
    freeze = {"name": "f", "start": "2026-03-04T13:00", "end": "2026-03-05", "time_zone": "UTC"}
    (found,) = lint(plan(GOOD), policy(guards={"freezes": [freeze]}), NOW)
    assert "begins within the 90m it takes" in found.says


def test_every_warning_says_why() -> None:
    bad = {"steps": [{"weight": 40, "hold": "1s"}, {"weight": 50}]}
    found = lint(plan(bad), policy(segments=[]), NOW)
    assert all(warning.why for warning in found)
    assert len(found) >= 6


def test_shares_are_of_buckets() -> None:
    assert Plan().max_weight * 2 == BUCKETS


# Advice about what steers a plan


def steps(*gates: dict[str, str]) -> dict[str, Any]:
    return {"steps": [{"weight": 5, "hold": "1h"}, {"weight": 10, "gates": list(gates)}]}


SATISFIED = {"metric": "satisfaction", "min": 3}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"webhooks": [{**GOOD["webhooks"][0], "url": "http://qa/ok"}]}, "webhooks[0].url"),
        ({"webhooks": [{**GOOD["webhooks"][0], "url": "http://127.0.0.1:80/"}]}, ""),
        ({"webhooks": [{**GOOD["webhooks"][0], "url": "http://127.evil/"}]}, "webhooks[0].url"),
        ({"webhooks": [{**GOOD["webhooks"][0], "url": "http://localhost"}]}, ""),
        (steps({"kind": "webhook", "url": "http://ci/ok"}), "steps[1].gates[0].url"),
        ({"rollback": {"conditions": [SATISFIED]}}, "rollback.conditions"),
        ({"rollback": {"conditions": [SATISFIED, {"metric": "error-rate", "max": 9}]}}, ""),
        (
            {
                "rollback": {"conditions": [SATISFIED]},
                "queries": [{"metric": "satisfaction", "promql": "x"}],
            },
            "",
        ),
        ({"rollback": {"automatic": False}}, "rollback.automatic"),
        ({"rollback": {"notify": False}}, "rollback.notify"),
        ({"success": [SATISFIED]}, "success[0]"),
        ({"success": [SATISFIED], "queries": [{"metric": "satisfaction", "promql": "x"}]}, ""),
        ({"no_data": {"action": "roll-back"}}, "no_data.action"),
        ({"comparison": {"enabled": False}}, "comparison.enabled"),
        ({"checklist": [{"name": "reviewed"}]}, "checklist"),
        ({"checklist": [{"name": "reviewed"}], **steps({"kind": "checklist"})}, ""),
        ({"success": [{"metric": "error-rate", "max": 500}]}, "success[0].max"),
        ({"alerts": [{"metric": "satisfaction", "min": 40}]}, "alerts[0].min"),
        ({"alerts": [{"metric": "memory", "max": 100, "of_stable": True}]}, ""),
        ({"success": [{"metric": "p95-response-time", "max": 0.5}]}, "success[0].max"),
        ({"alerts": [{"metric": "error-rate", "max": 20}]}, "alerts[0]"),
        ({"alerts": [{"metric": "satisfaction", "min": 2}]}, "alerts[0]"),
        ({"alerts": [{"metric": "error-rate", "max": 10}]}, ""),
        ({"webhooks": []}, "promote"),
        ({"webhooks": [], "promote": False}, ""),
        ({"webhooks": [], **steps({"kind": "approval"})}, ""),
    ],
)
def test_what_steers_a_plan_is_looked_at_too(changes: dict[str, Any], path: str) -> None:
    found = lint(plan({**GOOD, **changes}), None, NOW)
    assert [warning.path for warning in found] == ([path] if path else [])
    assert all(warning.says and warning.why for warning in found)


def test_a_last_step_to_everybody_wants_a_gate() -> None:
    to_all = {"max_weight": 100, "steps": [{"weight": 5}, {"weight": 100}]}
    assert "steps[1].gates" in warned({**GOOD, **to_all})
    gated = {"weight": 100, "gates": [{"kind": "approval"}]}
    assert "steps[1].gates" not in warned({**GOOD, **to_all, "steps": [{"weight": 5}, gated]})


def test_a_guard_of_promotions_is_approval_enough() -> None:
    alone = {**GOOD, "webhooks": []}
    assert warned(alone, policy()) == ["promote"]
    assert warned(alone, policy(guards={"approvals": {"promote": True}})) == []


# Questions to Prometheus


@pytest.mark.parametrize(
    ("promql", "said"),
    [
        ('rate(x{v="{{version}}"}[{{window}}])', ""),
        ("x{v='{{ variant }}', s=\"{{service_key}}\"} # of {{anything}}", ""),
        ("x_{{version}}", 'stands outside of a string: write "{{version}}"'),
        ("x{v=`{{version}}`}", "use double quotes"),
        ('x{v="{{verison}}"}', "{{verison}} is unknown"),
        ("rate(x[{{window}])", "closes nothing that is open"),
        ("sum(rate(x[5m])", "( is never closed"),
        ("sum(x))", ") closes nothing that is open"),
        ('x{v="1}', 'a string that begins with " does not end'),
        ('x{v=~"a(b{2}\\"["} # (', ""),
    ],
)
def test_a_question_that_can_never_be_filled_in_is_no_plan(promql: str, said: str) -> None:
    document = {**GOOD, "queries": [{"metric": "cpu", "promql": promql}]}
    if not said:
        assert plan(document).queries[0].promql == promql
    else:
        (complaint,) = complaints(document)
        assert complaint.startswith("queries[0].promql: ")
        assert said in complaint


@given(value=st.text())
def test_no_value_ends_the_string_that_it_stands_in(value: str) -> None:
    names = {QueryVariable.VERSION: value}
    for quote in "\"'":
        asked = filled(f"x{{v={quote}{{{{version}}}}{quote}}}", names)
        inside = asked[len("x{v='") : -len("'}")]
        assert "\n" not in inside
        assert re.fullmatch(r"(?:[^\\\"'\n]|\\(?:\\|n|r|x[0-9a-f]{2}))*", inside, re.DOTALL)
