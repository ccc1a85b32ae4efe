"""Gates: each kind opens by what it waits for and by nothing else, and says so in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from canary_engine import parse
from canary_engine.gates import are_open, gate_states, next_opening, waits_for, with_since
from canary_engine.model import Policy
from canary_engine.plan import GateKind, Occasion, Weekday, Window
from canary_engine.record import PROMOTION, Answer, GateState, WebhookCall

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday
SINCE = NOW - timedelta(hours=1)


def policy(*, share: float = 5, plan: dict[str, Any], **fields: Any) -> Policy:
    release = {
        "id": "r1",
        "version": "2.0",
        "status": "in-progress",
        "percentage": share,
        "salt": "s",
        "weight_since": SINCE.isoformat(),
        **fields.pop("release", {}),
    }
    document = {
        "service_key": "shop",
        "versions": [
            {"version": "1.0", "status": "stable"},
            {"version": "2.0", "status": "canary"},
        ],
        "release": release,
        "plan": {"steps": [{"weight": 5}, {"weight": 25}], **plan},
        **fields,
    }
    return parse.policy(document)


def states(
    of: Policy, weight: int = 25_000, calls: tuple[WebhookCall, ...] = (), now: datetime = NOW
) -> tuple[GateState, ...]:
    assert of.plan is not None
    return gate_states(of, of.plan, weight, calls, now)


def gated(*gates: dict[str, str], **plan: Any) -> dict[str, Any]:
    return {"steps": [{"weight": 5}, {"weight": 25, "gates": list(gates)}], **plan}


def approval(by: str, percentage: float = 25, **fields: Any) -> dict[str, Any]:
    return {
        "id": by,
        "move": "raise",
        "version": "2.0",
        "percentage": percentage,
        "by": by,
        "at": NOW.isoformat(),
        "expires_at": (NOW + timedelta(hours=1)).isoformat(),
        **fields,
    }


def call(answer: Answer, *, at: datetime = NOW, **fields: Any) -> WebhookCall:
    usual: dict[str, Any] = {"name": "qa", "occasion": Occasion.RAISE, "weight": 25_000}
    return WebhookCall(**{**usual, "at": at, "tries": 1, "answer": answer, **fields})


def test_nothing_stands_before_a_step_that_asks_for_nothing() -> None:
    assert states(policy(plan={})) == ()


def test_a_release_that_has_ended_waits_at_no_gate() -> None:
    ended = {"status": "rolled-back", "percentage": 0}
    of = policy(plan=gated({"kind": "approval"}), release=ended, versions=[])
    assert states(of) == ()


# Approvals


def test_an_approval_gate_says_who_can_open_it_and_how() -> None:
    (state,) = states(policy(plan=gated({"kind": "approval"})))
    assert state.kind is GateKind.APPROVAL
    assert not state.is_open
    assert state.waits_for == (
        "approval of the raise to 25 % by somebody: "
        "canaryctl approve shop raise 2.0 --percentage 25"
    )


@pytest.mark.parametrize(
    ("given", "is_open"),
    [
        (approval("ann"), True),
        (approval("ann", 50), True),
        (approval("ann", 24.999), False),
        (approval("ann", version="3.0"), False),
        (approval("ann", move="start"), False),
        (approval("ann", expires_at=NOW.isoformat()), False),
    ],
)
def test_only_a_valid_consent_to_this_raise_of_this_version_opens_it(
    given: dict[str, Any], is_open: bool
) -> None:
    (state,) = states(policy(plan=gated({"kind": "approval"}), approvals=[given]))
    assert state.is_open is is_open
    assert bool(state.waits_for) is not is_open


def test_two_approval_gates_want_two_people() -> None:
    gates = gated({"kind": "approval", "name": "qa"}, {"kind": "approval", "name": "ops"})
    twice = [approval("Ann"), approval("ANN", id="other")]
    first, second = states(policy(plan=gates, approvals=twice))
    assert (first.is_open, second.is_open) == (True, False)
    assert "(ops) of the raise to 25 % by somebody other than ANN" in second.waits_for
    both = [approval("ann"), approval("bob")]
    assert are_open(states(policy(plan=gates, approvals=both)))


def test_what_the_guards_want_is_a_gate_without_the_plan_saying_so() -> None:
    guards = {"approvals": {"above": 10, "promote": True}}
    of = policy(plan={}, guards=guards)
    assert states(of, 10_000) == ()
    assert [state.is_open for state in states(of)] == [False]
    (promotion,) = states(of, PROMOTION)
    assert promotion.waits_for == (
        "approval of the promotion by somebody: canaryctl approve shop promote 2.0"
    )
    consent = approval("ann", 0, move="promote")
    assert are_open(states(policy(plan={}, guards=guards, approvals=[consent]), PROMOTION))


def test_guards_and_an_approval_gate_are_one_gate() -> None:
    of = policy(plan=gated({"kind": "approval"}), guards={"approvals": {"above": 10}})
    assert len(states(of)) == 1


# Checklists


CHECKLIST = [
    {"name": "reviewed", "group": "code"},
    {"name": "tested", "group": "code"},
    {"name": "on call", "group": "people"},
]


def ticks(*items: str) -> dict[str, Any]:
    return {"ticks": [{"item": item, "by": "ann", "at": NOW.isoformat()} for item in items]}


def test_a_checklist_gate_names_what_nobody_has_ticked() -> None:
    plan = gated({"kind": "checklist"}, checklist=CHECKLIST)
    (state,) = states(policy(plan=plan, release=ticks("tested")))
    assert not state.is_open
    assert "2 items of the checklist" in state.waits_for
    assert "'reviewed', 'on call': canaryctl checklist tick shop 'reviewed'" in state.waits_for


def test_a_checklist_gate_opens_when_every_item_is_ticked() -> None:
    plan = gated({"kind": "checklist"}, checklist=CHECKLIST)
    assert are_open(states(policy(plan=plan, release=ticks("on call", "tested", "reviewed"))))


def test_a_checklist_gate_with_the_name_of_a_group_waits_for_that_group() -> None:
    gates = gated({"kind": "checklist", "name": "code"}, checklist=CHECKLIST)
    assert are_open(states(policy(plan=gates, release=ticks("tested", "reviewed"))))
    named = gated({"kind": "checklist", "name": "all of it"}, checklist=CHECKLIST)
    assert not are_open(states(policy(plan=named, release=ticks("tested", "reviewed"))))


# Windows and freezes


NIGHTS = {"time_zone": "Asia/Shanghai", "start": "22:00", "end": "06:00"}


def test_the_plans_windows_are_a_gate_before_every_raise_and_the_promotion() -> None:
    of = policy(plan={"windows": [NIGHTS]})
    for weight in (25_000, PROMOTION):
        (shut,) = states(of, weight)
        assert not shut.is_open
        assert shut.waits_for == (
            "the window every day 22:00 to 06:00 Asia/Shanghai, which opens at 2026-03-04 14:00 UTC"
        )
        assert are_open(states(of, weight, now=NOW + timedelta(hours=2)))


def test_a_window_that_begins_on_other_days_opens_on_the_next_of_them() -> None:
    sunday = Window(time_zone="UTC", weekdays=(Weekday.SUNDAY,), start="01:00", end="02:00")
    tuesday = Window(time_zone="UTC", weekdays=(Weekday.TUESDAY,), start="01:00", end="02:00")
    opens = datetime(2026, 3, 8, 1, 0, tzinfo=UTC)
    assert next_opening([tuesday, sunday], NOW) == opens
    assert next_opening([], NOW) is None


def test_a_freeze_is_a_gate_while_it_lasts() -> None:
    freeze = {
        "name": "sale", "start": "2026-03-04T00:00", "end": "2026-03-05T00:00",
        "time_zone": "UTC", "reason": "big sale",
    }  # fmt: skip
    of = policy(plan={"freezes": [freeze]}, guards={"freezes": [{**freeze, "name": "all"}]})
    found = states(of)
    assert [state.name for state in found] == ["all", "sale"]
    assert waits_for(found[1:]) == (
        "the end of freeze 'sale' at 2026-03-05T00:00:00 UTC (big sale)"
    )
    assert states(of, now=NOW + timedelta(days=1)) == ()


# Webhooks


HOOK = {"webhooks": [{"name": "qa", "url": "https://qa/ok", "occasions": ["raise"]}]}


@pytest.mark.parametrize("answer", list(Answer))
def test_only_a_yes_opens_a_webhooks_gate(answer: Answer) -> None:
    (state,) = states(policy(plan=HOOK), calls=(call(answer, text="why"),))
    assert state.kind is GateKind.WEBHOOK
    assert state.is_open is (answer is Answer.YES)
    assert bool(state.waits_for) is not state.is_open


def test_a_webhook_is_asked_about_nothing_but_its_occasions() -> None:
    assert states(policy(plan=HOOK, share=0), 5_000) == ()
    assert states(policy(plan=HOOK), PROMOTION) == ()


def test_an_answer_about_other_traffic_opens_nothing() -> None:
    stale = call(Answer.YES, at=SINCE - timedelta(seconds=1))
    assert not are_open(states(policy(plan=HOOK), calls=(stale,)))
    assert not are_open(states(policy(plan=HOOK), calls=(call(Answer.YES, weight=5_000),)))


def test_a_webhook_gate_of_a_step_has_an_answer_of_its_own() -> None:
    plan = gated({"kind": "webhook", "name": "qa", "url": "https://ci/ok"}, **HOOK)
    hook, gate = states(policy(plan=plan), calls=(call(Answer.YES),))
    assert (hook.is_open, gate.is_open) == (True, False)
    assert gate.name == "gate qa"


# All of them


def test_all_gates_must_be_open_and_each_says_what_it_waits_for() -> None:
    plan = gated({"kind": "approval"}, {"kind": "checklist"}, checklist=CHECKLIST, **HOOK)
    found = states(policy(plan=plan, approvals=[approval("ann")]))
    assert [state.kind for state in found] == ["approval", "checklist", "webhook"]
    assert not are_open(found)
    assert waits_for(found).startswith("3 items of the checklist")
    assert waits_for(found).endswith("; webhook 'qa', which is asked last and has not answered yet")


def test_since_is_kept_until_a_gate_opens_or_shuts() -> None:
    of = policy(plan=gated({"kind": "approval"}))
    first = with_since(states(of), (), SINCE)
    second = with_since(states(of), first, NOW)
    assert second[0].since == SINCE
    opened = policy(plan=gated({"kind": "approval"}), approvals=[approval("ann")])
    assert with_since(states(opened), second, NOW)[0].since == NOW
