"""What people should hear of: each stuck, breached or terminal state, in words that help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from canary_engine import alerts
from canary_engine.alerts import Raised
from canary_engine.concerns import Sight, concerns, lost_lease
from canary_engine.mesh import MeshSight
from canary_engine.model import DueRollback, Policy, Release, ReleaseStatus
from canary_engine.plan import GateKind, Limit, Metric, Occasion, Plan, PlanStep
from canary_engine.record import Alert, Answer, GateState, Severity, WebhookCall
from canary_engine.webhooks import SILENT_TRIES, Question

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
RELEASE = Release(
    id="r1",
    version="2.0",
    status=ReleaseStatus.IN_PROGRESS,
    share=5_000,
    salt="s",
    weight_since=NOW - timedelta(minutes=40),
)
PLAN = Plan(
    steps=(PlanStep(weight=5_000), PlanStep(weight=25_000)),
    alerts=(
        Limit(metric=Metric.CPU, max=80, duration="5m"),
        Limit(metric=Metric.CUSTOM, name="carts", min=90, of_stable=True),
    ),
)
FINE = {"cpu": 50.0, "carts": 100.0}


def seen(
    *, release: Mapping[str, Any] | None = None, canary: Any = FINE, stable: Any = FINE, **more: Any
) -> Sight:
    return Sight(
        policy=Policy(service_key="shop", release=replace(RELEASE, **(release or {}))),
        plan=PLAN,
        now=NOW,
        canary=lambda metric, name: canary.get(name or str(metric)),
        stable=lambda metric, name: stable.get(name or str(metric)),
        **more,
    )


def raised(**fields: Any) -> dict[str, Raised]:
    return {each.key: each for each in concerns(seen(**fields)).raised}


def only(**fields: Any) -> Raised:
    (found,) = concerns(seen(**fields)).raised
    return found


def test_a_release_that_goes_well_is_no_concern() -> None:
    assert raised() == {}


@pytest.mark.parametrize(
    ("status", "key", "severity"),
    [
        (ReleaseStatus.COMPLETED, "promoted", Severity.INFO),
        (ReleaseStatus.ROLLED_BACK, "rollback:done", Severity.CRITICAL),
        (ReleaseStatus.ABANDONED, "abandoned", Severity.INFO),
    ],
)
def test_every_end_is_a_moment_that_people_hear_of(
    status: ReleaseStatus, key: str, severity: Severity
) -> None:
    found = only(release={"status": status}, judged="The error rate was 12 %.")
    assert (found.key, found.severity, found.is_moment) == (key, severity, True)
    assert ("12 %" in found.text) is (status is ReleaseStatus.ROLLED_BACK)


def test_an_end_is_verified_or_it_is_critical() -> None:
    ended = {"status": ReleaseStatus.ROLLED_BACK}
    assert "rollback:verified" in raised(release=ended, verified="No canary traffic for 60 s.")
    bad = raised(release=ended, unverified="12 requests still reach 2.0.")["rollback:unverified"]
    assert (bad.severity, bad.is_moment) == (Severity.CRITICAL, False)
    done = {"status": ReleaseStatus.COMPLETED}
    assert "unverified" in raised(release=done, unverified="stable still serves 1.0")


def test_an_end_of_which_nothing_was_heard_is_told_and_is_no_verification() -> None:
    found = raised(release={"status": ReleaseStatus.ROLLED_BACK}, unheard="Nothing was heard.")
    assert not {"rollback:verified", "rollback:unverified"} & found.keys()
    told = found["rollback:unheard"]
    assert (told.severity, told.is_moment) == (Severity.INFO, True)


def test_a_halted_release_says_why_the_controller_halted_it() -> None:
    found = only(release={"halted": True}, halted="webhook 'qa' said no: fridays")
    assert (found.key, found.severity) == ("halted", Severity.CRITICAL)
    assert found.text.startswith("Everybody gets stable. Webhook 'qa' said no: fridays. It waits")


def test_a_no_from_before_is_not_blamed_for_a_halt_by_a_person() -> None:
    said = WebhookCall(
        name="qa", occasion=Occasion.RAISE, weight=5_000, at=NOW, answer=Answer.NO, text="fridays"
    )
    assert "qa" not in only(release={"halted": True}, calls=(said,)).text


def test_a_paused_release_waits_for_a_person_and_says_so() -> None:
    found = only(release={"status": ReleaseStatus.PAUSED})
    assert (found.key, found.severity) == ("paused", Severity.WARNING)
    assert found.title == "the release of 2.0 is paused at 5 %"


def test_a_rollback_that_is_due_can_still_be_called_off() -> None:
    due = DueRollback(why="The error rate was 12 %.", at=NOW, due=NOW + timedelta(minutes=2))
    found = only(release={"due_rollback": due})
    assert (found.key, found.severity) == ("rollback:due:2026-03-04T12:00:00", Severity.CRITICAL)
    assert found.title == "2.0 is rolled back at 12:02:00 UTC"


def test_a_rollback_that_is_due_again_right_after_it_was_called_off_is_told_again() -> None:
    first = DueRollback(why="errors", at=NOW, due=NOW + timedelta(minutes=1))
    second = DueRollback(
        why="errors", at=NOW + timedelta(seconds=20), due=NOW + timedelta(seconds=80)
    )
    lasting: tuple[Alert, ...] = ()
    titles = []
    for due in (first, second):
        lasting = alerts.updated(lasting, (only(release={"due_rollback": due}),), due.at)
        for notice in alerts.notices(lasting, PLAN, due.at):
            titles.append(notice.alert.title)
            lasting = alerts.told(lasting, notice, due.at)
    assert titles == ["2.0 is rolled back at 12:01:00 UTC", "2.0 is rolled back at 12:01:20 UTC"]


def test_where_people_roll_back_they_are_asked_to() -> None:
    found = only(rollback_wanted="The error rate was 12 %.")
    assert (found.key, found.severity) == ("rollback:wanted", Severity.CRITICAL)


@pytest.mark.parametrize(("minutes", "is_stuck"), [(90, False), (91, True)])
def test_a_weight_that_stays_for_three_holds_is_stuck(minutes: int, is_stuck: bool) -> None:
    stays = {"weight_since": NOW - timedelta(minutes=minutes)}
    assert ("stuck" in raised(release=stays)) is is_stuck
    waiting = GateState(weight=25_000, kind=GateKind.WINDOW, waits_for="the night", since=NOW)
    assert "stuck" not in raised(release=stays, gates=(waiting,))


@pytest.mark.parametrize(("share", "promote"), [(25_000, False), (25_000, True), (5_000, False)])
def test_one_that_only_a_person_promotes_says_so_when_it_long_stands_there(
    share: int, promote: bool
) -> None:
    sight = seen(release={"weight_since": NOW - timedelta(days=1), "share": share})
    found = concerns(replace(sight, plan=replace(PLAN, promote=promote)))
    (stuck,) = (one for one in found.raised if one.key == "stuck")
    waits_for_people = share == 25_000 and not promote
    assert ("canaryctl release promote shop" in stuck.text) is waits_for_people


def test_a_release_that_has_just_left_a_gate_it_long_stood_at_wakes_nobody() -> None:
    """It is raised a second later."""
    stuck = raised(release={"weight_since": NOW - timedelta(days=1)})["stuck"]
    begun = alerts.updated((), (stuck,), NOW)
    assert alerts.notices(begun, PLAN, NOW) == ()
    assert alerts.updated(begun, (), NOW + timedelta(seconds=2)) == ()
    later = NOW + timedelta(seconds=60)
    assert len(alerts.notices(alerts.updated(begun, (stuck,), later), PLAN, later)) == 1


@pytest.mark.parametrize("share", [0, 7_000])
def test_a_weight_that_is_none_of_the_plan_s_is_stuck_as_well(share: int) -> None:
    """It has the time of the step that it has reached; below the first, of the first."""
    stays = {"weight_since": NOW - timedelta(minutes=91), "share": share}
    assert "held there for 30m" in raised(release=stays)["stuck"].text
    assert "stuck" not in raised(release={**stays, "weight_since": NOW - timedelta(minutes=90)})


def test_missing_data_is_told_with_its_reasons_and_what_follows() -> None:
    found = only(missing={"cpu": "Prometheus did not answer within 5 s"})
    assert (found.key, found.severity, found.after_s) == ("no-data", Severity.WARNING, 60)
    assert found.text == (
        "cpu: Prometheus did not answer within 5 s. The weight is held; after 15m the plan says: "
        "hold."
    )


# Limits


@pytest.mark.parametrize(
    ("canary", "title"),
    [
        ({"cpu": 80.0, "carts": 90.0}, ""),
        ({"cpu": 80.1, "carts": 90.0}, "cpu of the canary is 80.1 %, above 80 %"),
        (
            {"cpu": 80.0, "carts": 89.9},
            "carts of the canary is 89.9, below 90 (90 % of stable's 100)",
        ),
    ],
)
def test_a_limit_is_broken_beyond_it_and_not_on_it(canary: dict[str, float], title: str) -> None:
    assert [each.title for each in concerns(seen(canary=canary)).raised] == (
        [title] if title else []
    )


def test_a_limit_waits_for_its_duration() -> None:
    assert only(canary={**FINE, "cpu": 99.0}).after_s == 300


def test_without_a_value_a_limit_is_neither_broken_nor_kept() -> None:
    found = concerns(seen(canary={"carts": 0.0}, stable={}))
    assert found.raised == ()
    assert found.unknown == {"limit:cpu", "limit:custom:carts"}


def test_two_limits_on_one_metric_are_two_alerts_and_one_unknown_keeps_none_of_the_other() -> None:
    limits = (
        Limit(metric=Metric.CPU, max=80),
        Limit(metric=Metric.CPU, max=150, of_stable=True, duration="5m"),
    )
    sight = replace(seen(canary={"cpu": 90.0}, stable={}), plan=replace(PLAN, alerts=limits))
    found = concerns(sight)
    assert [each.key for each in found.raised] == ["limit:cpu:max-80"]
    assert found.unknown == {"limit:cpu:max-150-of-stable-for-5m"}
    over = concerns(replace(sight, canary=lambda *_: 70.0))
    assert (over.raised, "limit:cpu:max-80" in over.unknown) == ((), False)


def test_a_query_that_nothing_waits_for_is_told_as_well() -> None:
    found = only(unanswered={"memory": "Prometheus refused the query: bad_data"})
    assert (found.key, found.severity, found.after_s) == ("no-answer", Severity.WARNING, 60)
    assert found.title == "queries without an answer: memory"
    assert "memory: Prometheus refused the query: bad_data." in found.text


# Gates and webhooks


@pytest.mark.parametrize("kind", list(GateKind))
@pytest.mark.parametrize("hours", [0, 2, 25])
def test_a_gate_that_waits_is_told_to_those_who_can_open_it(kind: GateKind, hours: int) -> None:
    since = NOW - timedelta(hours=hours)
    gate = GateState(weight=25_000, kind=kind, name="g", waits_for="somebody", since=since)
    found = [each.severity for each in concerns(seen(gates=(gate,))).raised]
    is_long = hours > (24 if kind is GateKind.WINDOW else 1)
    for_people = kind in (GateKind.APPROVAL, GateKind.CHECKLIST)
    assert found == ([Severity.WARNING] if is_long else [Severity.INFO] if for_people else [])
    assert concerns(seen(gates=(replace(gate, is_open=True),))).raised == ()


def test_a_webhook_that_does_not_answer_is_told_with_what_it_did() -> None:
    asked = Question(
        service_key="shop", release_id="r1", version="2.0", name="qa", url="http://qa/",
        occasion=Occasion.RAISE, weight=25_000,
    )  # fmt: skip
    call = WebhookCall(
        name="qa", occasion=Occasion.RAISE, weight=25_000, at=NOW, tries=SILENT_TRIES,
        text="it answered with status 500",
    )  # fmt: skip
    found = only(questions=(asked,), calls=(call,))
    assert (found.key, found.severity) == ("webhook:qa", Severity.WARNING)
    assert "status 500. The release waits for it." in found.text
    assert concerns(seen(questions=(asked,), calls=(replace(call, tries=1),))).raised == ()


def test_a_mesh_that_is_out_of_step_is_told_and_louder_where_it_may_give_too_much() -> None:
    away = MeshSight(trouble="the API server did not answer within 5 s")
    found = only(mesh=away)
    assert (found.key, found.severity) == ("mesh:held", Severity.WARNING)
    assert found.text.startswith("The API server did not answer within 5 s. The release is not")
    too_much = replace(away, exceeds=True)
    for release in ({"halted": True}, {"status": ReleaseStatus.ROLLED_BACK}):
        louder = raised(mesh=too_much, release=release)["mesh:held"]
        assert (louder.severity, louder.after_s < found.after_s) == (Severity.CRITICAL, True)
        assert "canaryctl render istio shop" in louder.text


def test_who_changes_a_mesh_s_routes_is_told_of_whether_it_is_in_step_or_not() -> None:
    drift = MeshSight(drift='VirtualService shop: .spec.http: conflict with "kubectl-edit"')
    found = only(mesh=drift)
    assert (found.key, found.severity, found.after_s) == ("mesh:drift", Severity.WARNING, 0)
    assert "kubectl-edit" in found.text
    assert set(raised(mesh=replace(drift, trouble="away"))) == {"mesh:drift", "mesh:held"}


def test_what_the_controller_knows_besides_is_passed_on() -> None:
    extra = Raised(key="sample-ratio", severity=Severity.WARNING, title="traffic does not fit")
    assert only(extra=(extra,)) == extra
    assert (
        extra in concerns(seen(extra=(extra,), release={"status": ReleaseStatus.COMPLETED})).raised
    )


def test_without_a_release_nothing_is_the_matter() -> None:
    sight = replace(seen(), policy=Policy(service_key="shop"))
    assert concerns(sight).raised == ()


def test_a_lost_lease_says_who_goes_on() -> None:
    alert = lost_lease("c2", NOW)
    assert alert.text.startswith("c2 holds it now.")
    assert alert.is_moment
    assert lost_lease("", NOW).text.startswith("Nobody is known to hold it now.")
