"""The controller's parts by themselves: slots, evidence, lease, ends of releases, messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2
from canary.policy.v1 import policy_pb2
from canary_controller import evidence, looking, slots, telling, watched
from canary_controller.admin import FAR, Answered, Lease, OutcomeSlot
from canary_controller.closing import verified
from canary_controller.ending import End, Ended, verification
from canary_controller.errors import Unreachable
from canary_controller.evidence import Mix, Seen
from canary_controller.judging import EngineJudge
from canary_controller.lease import Lease as HeldLease
from canary_controller.measuring import NOTHING, Found
from canary_controller.rpc import messages
from canary_controller.rpc.points import PointMessages
from canary_controller.slots import COMPLETE_AFTER_S, Slots
from canary_controller.sources.source import Measured, Trouble
from canary_controller.turns import turn
from canary_engine.histogram import Histogram, merge_counts
from canary_engine.judge import evidence as gathering
from canary_engine.judge.slots import SLOT_S, side
from canary_engine.judge.verdict import Verdict
from canary_engine.metric_snapshot import Business, Errors, MetricSnapshot, Performance, Users
from canary_engine.model import Cohort, Policy, Release, ReleaseStatus, Variant
from canary_engine.outcomes import Tally
from canary_engine.plan import (
    Comparison,
    GateKind,
    Limit,
    Metric,
    Occasion,
    Plan,
    PlanStep,
    Query,
    RollbackPlan,
)
from canary_engine.record import (
    PROMOTION,
    Alert,
    Answer,
    Event,
    Finding,
    GateState,
    Point,
    ReleaseRecord,
    Severity,
    WebhookCall,
)
from canary_engine.record_size import MOST_POINTS, thinned
from canary_engine.step import Do
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = Plan(steps=(PlanStep(weight=5_000),))
RELEASE = Release(
    id="r1",
    version="v2",
    status=ReleaseStatus.IN_PROGRESS,
    share=5_000,
    salt="r1",
    started_at=NOW,
    judged_since=NOW,
    weight_since=NOW,
)
POLICY = Policy(service_key="shop", revision=1, release=RELEASE, plan=PLAN)
FIRST = slots.first_slot(NOW)
HOUR = timedelta(hours=1)
MIX = Mix(share=5_000, control=20_000, since=NOW)
JUDGE = EngineJudge()
WELL, WORSE = Finding(metric="errors", verdict="pass"), Finding(metric="errors", verdict="fail")


def heard(slot: int, cohort: Cohort, requests: int, errors: int = 0) -> OutcomeSlot:
    tally = Tally()
    for number in range(requests):
        tally.add(500 if number < errors else 200, 1_000 + number, None)
    return OutcomeSlot(slot=slot, cohort=cohort, requests=requests, tally=lambda: tally)


# Slots


def test_a_slot_is_complete_half_a_minute_after_its_end() -> None:
    end = datetime.fromtimestamp((FIRST + 1) * SLOT_S, UTC)
    whole = end + timedelta(seconds=COMPLETE_AFTER_S)
    assert slots.newest_complete(whole) == FIRST
    assert slots.newest_complete(whole - timedelta(milliseconds=1)) == FIRST - 1


@given(st.floats(0, 4e9))
def test_the_first_slot_after_a_moment_begins_at_it_or_within_ten_seconds(at_s: float) -> None:
    at = datetime.fromtimestamp(at_s, UTC)
    begins = datetime.fromtimestamp(slots.first_slot(at) * SLOT_S, UTC)
    assert at <= begins < at + timedelta(seconds=SLOT_S)


def test_what_was_heard_before_is_no_news_and_is_not_read_again() -> None:
    found = Slots()
    assert found.hear([heard(FIRST, Cohort.DRAWN, 3)])
    unread = replace(heard(FIRST, Cohort.DRAWN, 3), tally=_fails)
    assert not found.hear([unread])
    assert found.hear([heard(FIRST, Cohort.DRAWN, 4)])
    assert found.requests(Cohort.DRAWN, FIRST - 1, FIRST) == 4


def test_what_was_heard_is_said_slot_by_slot_as_one_number_for_all_cohorts() -> None:
    found = Slots()
    found.hear([heard(FIRST, Cohort.DRAWN, 3), heard(FIRST, Cohort.CONTROL, 4)])
    found.hear([heard(FIRST + 2, Cohort.CHOSEN, 5), heard(FIRST + 2, Cohort.CHOSEN, 6)])
    assert found.heard(FIRST - 1) == [7, 0, 6]
    assert found.heard(FIRST) == [0, 6]
    assert found.heard(FIRST + 2) == found.heard(FAR) == []


def _fails() -> Tally:
    raise AssertionError("nobody reads it")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 6),
            st.sampled_from(list(Cohort)[1:]),
            st.integers(0, 9),
            st.integers(-1, 6),
        ),
        max_size=30,
    )
)
def test_sums_of_slots_are_those_of_all_their_tallies_whatever_comes_when(
    told: list[tuple[int, Cohort, int, int]],
) -> None:
    found, newest = Slots(), dict[tuple[int, Cohort], int]()
    for slot, cohort, requests, after in told:
        found.hear([heard(slot, cohort, requests, errors=slot)])
        newest[slot, cohort] = requests
        expected: dict[Cohort, Tally] = {}
        for (at, of), number in newest.items():
            if at > after:
                tally = expected.setdefault(of, Tally())
                known = heard(at, of, number, errors=at).tally()
                merge_counts(tally.statuses, known.statuses)
                tally.request.merge(known.request)
        sums = found.sums(after)
        assert _counted(sums) == _counted(expected)


def _counted(sums: Mapping[Cohort, Tally]) -> dict[Cohort, tuple[dict[int, int], Histogram]]:
    return {cohort: (tally.statuses, tally.request) for cohort, tally in sums.items()}


def test_times_are_read_once_asked_for_and_those_at_the_backend_of_the_compared_alone() -> None:
    times = decision_pb2.LatencyHistogram(buckets=[3, 7], counts=[2, 1], sum_us=9)
    cohorts = (policy_pb2.COHORT_DRAWN, policy_pb2.COHORT_CONTROL, policy_pb2.COHORT_CHOSEN)
    answer = admin_pb2.FollowReleasesResponse(releases=[admin_pb2.FollowedRelease()])
    for cohort in cohorts:
        series = decision_pb2.OutcomeSeries(
            cohort=cohort, statuses={200: 2, 503: 1}, request=times, upstream=times
        )
        answer.releases[0].outcomes.add(slot=FIRST, series=series)
    (release,) = messages.news(answer).releases
    read = {one.cohort: one.tally() for one in release.outcomes}
    whole = Histogram({3: 2, 7: 1}, 9)
    assert [read[cohort].request for cohort in read] == [whole] * 3
    assert all(told.request is told.request for told in read.values())
    assert (read[Cohort.DRAWN].upstream, read[Cohort.CONTROL].upstream) == (whole, whole)
    assert read[Cohort.CHOSEN].upstream == Histogram()
    assert (side(read[Cohort.DRAWN]).requests, side(read[Cohort.DRAWN]).errors) == (3, 1)


def test_a_cohort_whose_version_was_replaced_within_a_slot_counts_with_both() -> None:
    """Else the errors of one of them, and half of its requests, would be forgotten."""
    news = admin_pb2.FollowReleasesResponse(releases=[admin_pb2.FollowedRelease()])
    times = decision_pb2.LatencyHistogram(buckets=[3], counts=[2], sum_us=6)
    for version, statuses in (("v1", {200: 1, 500: 1}), ("v1-hotfix", {200: 2})):
        series = decision_pb2.OutcomeSeries(
            version=version, cohort=policy_pb2.COHORT_CONTROL,
            statuses=statuses, request=times, upstream=times,
        )  # fmt: skip
        news.releases[0].outcomes.add(slot=FIRST, series=series)
    found = Slots()
    found.hear(messages.news(news).releases[0].outcomes)
    assert found.requests(Cohort.CONTROL, FIRST - 1, FIRST) == 4
    ((_, sides),) = found.between(FIRST - 1, FIRST)
    whole = sides[Cohort.CONTROL]
    assert (whole.statuses, whole.request) == ({200: 3, 500: 1}, Histogram({3: 4}, 12))
    assert whole.upstream == whole.request
    assert found.heard(FIRST - 1) == [4]


# Turns


def test_every_release_has_its_turn_once_a_period_and_a_second_of_its_own_for_it() -> None:
    times = [NOW + timedelta(seconds=s) for s in range(61)]
    turns = {n: [turn(f"shop {n}", at, 60) for at in times] for n in range(1_000)}
    assert all(number[-1] == number[0] + 1 for number in turns.values())
    changed = [sum(of[s + 1] > of[s] for of in turns.values()) for s in range(60)]
    assert sum(changed) == 1_000
    assert max(changed) < 50


# What is found


def test_what_the_newest_look_found_is_noted_once_the_release_is_over() -> None:
    policy = Policy(service_key="shop", revision=1, release=RELEASE, plan=PLAN)
    w = watched.begin(policy, replace(RECORD, findings=(WELL,)), JUDGE, NOW)
    assert w is not None
    assert w.findings() == (WELL,)
    w.looked_at, w.judged = NOW, replace(w.judged, findings=lambda: (WORSE,))
    assert (w.findings(), w.record.findings) == ((WORSE,), (WELL,))
    over = replace(RELEASE, status=ReleaseStatus.ROLLED_BACK, share=0)
    w.follow(replace(policy, revision=2, release=over), JUDGE, NOW)
    w.judged = replace(w.judged, findings=tuple)
    assert w.findings() == w.record.findings == (WORSE,)


# Evidence


def seen() -> Seen:
    return evidence.begin(RELEASE, PLAN, JUDGE, NOW)


def a_minute() -> Slots:
    found = Slots()
    for slot in range(FIRST, FIRST + 6):
        found.hear([heard(slot, Cohort.DRAWN, 20, errors=4), heard(slot, Cohort.CONTROL, 80)])
    return found


def test_whoever_goes_on_from_what_was_kept_has_seen_exactly_the_same() -> None:
    """Slots at once, or in two parts with a restart in between."""
    at_once = evidence.gathered(seen(), a_minute(), JUDGE, MIX, FIRST + 5)
    half = evidence.gathered(seen(), a_minute(), JUDGE, MIX, FIRST + 2)
    kept = evidence.read(evidence.text(half), PLAN)
    assert kept == half
    assert evidence.gathered(kept, a_minute(), JUDGE, MIX, FIRST + 5) == at_once
    assert at_once.samples == 120


def test_a_slot_that_was_looked_at_is_taken_over_as_it_was_counted_then() -> None:
    """And counted anew if it has grown since."""
    known = evidence.gathered(seen(), a_minute(), JUDGE, MIX, FIRST + 1).known
    growing = [evidence.slot_in(n, of, MIX) for n, of in a_minute().after(FIRST + 1)]
    looked = gathering.follow(known.evidence, growing)
    one, two = growing[:2]
    taken = JUDGE.add(replace(known, links=looked), one)
    assert taken.evidence is looked[0].after
    assert JUDGE.add(taken, two).evidence is looked[1].after
    assert JUDGE.add(taken, two).evidence == JUDGE.add(JUDGE.add(known, one), two).evidence
    grown = replace(one, canary=two.control)
    assert JUDGE.add(replace(known, links=looked), grown) == JUDGE.add(known, grown)


def test_old_slots_that_come_once_more_keep_the_last_minutes_from_nobody() -> None:
    """As when the record could be had only at the second look."""
    late = evidence.gathered(seen(), a_minute(), JUDGE, MIX, FIRST + 100)
    w = watched.begin(POLICY, replace(RECORD, evidence=evidence.text(late)), JUDGE, NOW + HOUR)
    assert w is not None
    asked_after = w.heard_slot
    looking.gather(w, JUDGE, FIRST + 50)
    assert (w.seen.slot, w.heard_slot) == (FIRST + 100, asked_after)
    assert asked_after < w.seen.slot


def test_a_slot_is_taken_for_evidence_once() -> None:
    once = evidence.gathered(seen(), a_minute(), JUDGE, MIX, FIRST + 5)
    assert evidence.gathered(once, a_minute(), JUDGE, MIX, FIRST + 5) == once
    assert evidence.gathered(once, a_minute(), JUDGE, MIX, FIRST + 3) == once


def test_outcomes_from_before_a_release_is_judged_are_no_evidence() -> None:
    late = replace(RELEASE, judged_since=NOW + timedelta(seconds=25))
    found = evidence.begin(late, PLAN, JUDGE, NOW)
    found = evidence.gathered(found, a_minute(), JUDGE, MIX, FIRST + 5)
    fresh = evidence.gathered(seen(), a_minute(), JUDGE, MIX, FIRST + 5)
    assert found.slot == FIRST + 5
    assert found.known != fresh.known
    assert found.samples == 60


def test_a_release_that_is_kept_or_resumed_is_judged_anew_and_a_raise_counts_samples_anew() -> None:
    whole = evidence.gathered(seen(), a_minute(), JUDGE, MIX, FIRST + 5)
    later = NOW + timedelta(minutes=5)
    raised = evidence.renewed(whole, replace(RELEASE, weight_since=later), PLAN, JUDGE, later)
    assert (raised.samples, raised.known) == (0, whole.known)
    kept = evidence.renewed(whole, replace(RELEASE, judged_since=later), PLAN, JUDGE, later)
    assert kept.known == JUDGE.begin(PLAN)
    assert evidence.renewed(whole, RELEASE, PLAN, JUDGE, later) == whole


def test_evidence_by_a_plan_that_was_changed_is_gathered_anew_from_what_the_service_keeps() -> None:
    policy = Policy(service_key="shop", revision=1, release=RELEASE, plan=PLAN)
    w = watched.begin(policy, None, JUDGE, NOW)
    assert w is not None
    w.seen = evidence.gathered(w.seen, a_minute(), JUDGE, MIX, FIRST + 5)
    w.heard_slot, w.is_up_to_date = w.seen.slot, True
    off = replace(PLAN, comparison=Comparison(enabled=False))
    w.follow(replace(policy, revision=2, plan=off), JUDGE, NOW + timedelta(minutes=2))
    assert w.seen.known == JUDGE.begin(off)
    assert w.heard_slot < w.seen.slot == FIRST - 1
    assert not w.is_up_to_date


@pytest.mark.parametrize(
    ("share", "is_empty", "verdict"),
    [
        (0, True, Verdict.INCONCLUSIVE),
        (0, False, Verdict.ERROR),
        (5_000, True, Verdict.ERROR),
    ],
)
def test_what_is_there_only_once_somebody_gets_the_canary_keeps_nobody_from_getting_it(
    share: int, is_empty: bool, verdict: Verdict
) -> None:
    """A server that is down does."""
    plan = replace(PLAN, success=(Limit(metric=Metric.CPU, max=80),))
    release = replace(RELEASE, share=share)
    policy = Policy(service_key="shop", revision=1, release=release, plan=plan)
    w = watched.begin(policy, None, JUDGE, NOW)
    assert w is not None
    trouble = Trouble(
        metric=Metric.CPU, name="", variant=Variant.CANARY, why="x", is_empty=is_empty
    )
    found = Found(release_id="r1", at=NOW, queried=Measured(troubles=(trouble,)))
    looking.judge_it(w, JUDGE, found, NOW, has_news=True)
    assert looking.verdict_of(w) is verdict
    telling.raise_alerts(w, NOW)
    is_told = [alert.key for alert in w.record.alerts] == ["no-data"]
    assert is_told is (verdict is Verdict.ERROR), "who waits for a source says so"


def test_nobody_gets_a_release_before_its_queries_were_asked_for_the_first_time() -> None:
    """It would begin with a source that is down, of which nobody has heard yet."""
    plan = replace(
        PLAN,
        success=(Limit(metric=Metric.CPU, max=80),),
        queries=(Query(metric=Metric.CPU, promql="up"),),
    )
    zero = replace(POLICY, plan=plan, release=replace(RELEASE, share=0))
    w = watched.begin(zero, None, JUDGE, NOW)
    assert w is not None
    looking.judge_it(w, JUDGE, NOTHING, NOW, has_news=True)
    assert (looking.verdict_of(w), looking.step_it(w, NOW).do) == (Verdict.ERROR, Do.STAY)
    answered = Found(release_id="r1", at=NOW, queried=Measured(canary={(Metric.CPU, ""): 50.0}))
    looking.judge_it(w, JUDGE, answered, NOW, has_news=False)
    assert looking.step_it(w, NOW).do is Do.RAISE


def test_a_limit_that_is_broken_at_0_percent_keeps_the_first_users_away() -> None:
    """Its queries, reports, or those who were chosen for it tell of a canary without a share."""
    plan = replace(
        PLAN, rollback=RollbackPlan(conditions=(Limit(metric=Metric.CPU, max=80, duration="5m"),))
    )
    w = watched.begin(
        replace(POLICY, plan=plan, release=replace(RELEASE, share=0)), None, JUDGE, NOW
    )
    assert w is not None
    for cpu, do in ((95.0, Do.STAY), (60.0, Do.RAISE)):
        found = Found(release_id="r1", at=NOW, queried=Measured(canary={(Metric.CPU, ""): cpu}))
        looking.judge_it(w, JUDGE, found, NOW, has_news=True)
        assert looking.step_it(w, NOW).do is do


def test_a_query_that_no_criterion_is_about_is_missed_too_but_nothing_waits_for_it() -> None:
    w = watched.begin(POLICY, None, JUDGE, NOW)
    assert w is not None
    trouble = Trouble(metric=Metric.MEMORY, name="", variant=Variant.CANARY, why="bad_data")
    found = Found(release_id="r1", at=NOW, queried=Measured(troubles=(trouble,)))
    looking.judge_it(w, JUDGE, found, NOW, has_news=True)
    assert (w.missing, w.unanswered) == ({}, {"memory": "bad_data"})
    telling.raise_alerts(w, NOW)
    assert [alert.key for alert in w.record.alerts] == ["no-answer"]


@pytest.mark.parametrize(("later_s", "is_blamed"), [(1, True), (600, False)])
def test_a_halt_has_the_reason_of_the_controller_that_halted_it_and_of_no_halt_before(
    later_s: int, is_blamed: bool
) -> None:
    """It is resumed, and a person halts it again, without a word to the controller."""
    no = Event(at=NOW, what="halted", why="webhook 'qa' said no: fridays", revision=2)
    halted = replace(RELEASE, halted=True, weight_since=NOW + timedelta(seconds=later_s))
    record = replace(RECORD, events=(no,))
    w = watched.begin(replace(POLICY, release=halted), record, JUDGE, NOW)
    assert w is not None
    telling.raise_alerts(w, NOW + timedelta(seconds=later_s))
    (alert,) = (one for one in w.record.alerts if one.key == "halted")
    assert ("Webhook 'qa' said no: fridays." in alert.text) is is_blamed


def test_points_hold_what_the_plan_is_about_however_much_is_reported() -> None:
    """A thousand series of each point would make a record that nobody takes."""
    plan = replace(PLAN, alerts=(Limit(metric=Metric.CUSTOM, name="carts", min=1),))
    w = watched.begin(replace(POLICY, plan=plan), None, JUDGE, NOW)
    assert w is not None
    told = {**{f"n{number}": 1.0 for number in range(1_000)}, "carts": 2.0}
    business = Business(revenue=7, feature_usage=told)
    w.sides = watched.Sides(drawn=MetricSnapshot(custom=told, business=business))
    looking.note_state(w, looking.step_it(w, NOW), NOW)
    (point,) = w.record.points
    assert point.canary.custom == point.canary.business.feature_usage == {"carts": 2.0}
    assert point.canary.business.revenue == 7


def test_what_came_before_a_release_was_resumed_is_in_none_of_its_metrics() -> None:
    resumed = replace(RELEASE, judged_since=NOW + timedelta(seconds=30))
    policy = Policy(service_key="shop", revision=1, release=resumed, plan=PLAN)
    later = NOW + timedelta(seconds=50)
    w = watched.begin(policy, None, JUDGE, later)
    assert w is not None
    w.slots = a_minute()
    found = looking.sides(w, NOTHING, later).drawn
    assert found.performance.requests == 3 * 20
    assert found.performance.throughput == 3 * 20 / 20


def test_what_a_clock_that_was_ahead_has_seen_is_nothing_to_go_on_with() -> None:
    ahead = replace(seen(), slot=FIRST + 1_000)
    again = evidence.renewed(ahead, RELEASE, PLAN, JUDGE, NOW + timedelta(minutes=1))
    assert again.slot <= slots.newest_complete(NOW + timedelta(minutes=1))


@pytest.mark.parametrize("kept", ["", "{}", "[]", '{"version": 99}', "no JSON", '{"version": 1}'])
def test_evidence_that_cannot_be_read_is_none(kept: str) -> None:
    assert evidence.read(kept, PLAN) is None


def test_evidence_by_another_plan_is_none() -> None:
    kept = evidence.text(evidence.gathered(seen(), a_minute(), JUDGE, MIX, FIRST + 5))
    assert evidence.read(kept, PLAN) is not None
    assert evidence.read(kept, replace(PLAN, comparison=Comparison(margin=50))) is None


def test_how_much_traffic_is_expected_is_unknown_where_the_weights_have_changed() -> None:
    assert MIX.expected(FIRST) is None
    assert MIX.expected(FIRST + 1) == 0.2
    assert Mix(share=60_000, control=100_000, since=NOW).expected(FIRST + 1) == 0.6
    assert Mix(share=5_000, control=0, since=NOW).expected(FIRST + 1) is None


# The lease


class Service:
    """Gives the lease as it is told to, or does not answer."""

    def __init__(self) -> None:
        self.answer: Lease | None = Lease(is_held=True, holder="me", token=7, left_s=9)
        self.asked = 0
        self.while_asked: Callable[[], None] = lambda: None

    async def hold_lease(self, holder: str, valid_s: int) -> Lease:
        self.asked += 1
        self.while_asked()
        if self.answer is None:
            raise Unreachable("gone")
        return self.answer

    async def drop_lease(self, holder: str) -> None:
        self.answer = None


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_a_lease_is_asked_for_again_after_a_third_of_its_time() -> None:
    service, clock = Service(), Clock()
    lease = HeldLease(service, "me", 9, clock)
    for seconds, asked in ((0, 1), (2.9, 1), (3, 2), (3.1, 2)):
        clock.now = 1_000 + seconds
        assert await lease.hold()
        assert service.asked == asked
    assert lease.token == 7


async def test_a_lease_counts_from_before_it_was_asked_for() -> None:
    service, clock = Service(), Clock()
    lease = HeldLease(service, "me", 9, clock)
    service.while_asked = lambda: setattr(clock, "now", clock.now + 8)
    assert await lease.hold()
    clock.now += 1
    assert not lease.is_held


async def test_a_service_that_is_silent_costs_the_lease_only_when_it_has_run_out() -> None:
    service, clock = Service(), Clock()
    lease = HeldLease(service, "me", 9, clock)
    await lease.hold()
    service.answer = None
    clock.now += 8
    assert await lease.hold()
    clock.now += 1
    with pytest.raises(Unreachable):
        await lease.hold()


async def test_a_lease_that_another_holds_is_not_ours() -> None:
    service, clock = Service(), Clock()
    lease = HeldLease(service, "me", 9, clock)
    service.answer = Lease(is_held=False, holder="other", token=8, left_s=5)
    assert not await lease.hold()
    assert (lease.other, lease.token) == ("other", 0)


# The end of a release


def noted(*, canary: float, control: float) -> ReleaseRecord:
    """A record with one point, at these error rates."""
    point = Point(
        at=NOW,
        weight=5_000,
        canary=MetricSnapshot(errors=Errors(rate=canary)),
        control=MetricSnapshot(errors=Errors(rate=control)),
    )
    return ReleaseRecord(service_key="shop", release_id="r1", points=(point,))


BACK = replace(RELEASE, status=ReleaseStatus.ROLLED_BACK, ended_at=NOW)
UP = replace(RELEASE, status=ReleaseStatus.COMPLETED, ended_at=NOW)
GIVEN_UP = replace(RELEASE, status=ReleaseStatus.ABANDONED, ended_at=NOW)
QUIET = Ended(canary_requests=0, stable=Answered(1_000, 5))


@pytest.mark.parametrize(
    ("release", "ended", "after_s", "end"),
    [
        (BACK, QUIET, 61, End.PENDING),
        (BACK, QUIET, 62, End.VERIFIED),
        (BACK, replace(QUIET, canary_requests=1), 62, End.PENDING),
        (BACK, replace(QUIET, canary_requests=1), 601, End.UNVERIFIED),
        (BACK, replace(QUIET, stable=None), 62, End.PENDING),
        (BACK, replace(QUIET, stable=Answered(1_000, 100)), 601, End.UNVERIFIED),
        (BACK, replace(QUIET, stable=Answered(19, 19)), 62, End.VERIFIED),
        (BACK, replace(QUIET, stable=Answered(0, 0)), 61, End.PENDING),
        (BACK, replace(QUIET, stable=Answered(0, 0)), 62, End.UNHEARD),
        (BACK, replace(QUIET, baseline_requests=1), 61, End.PENDING),
        (BACK, replace(QUIET, baseline_requests=1), 62, End.UNVERIFIED),
        (BACK, replace(QUIET, baseline_requests=1, stable=Answered(0, 0)), 62, End.UNVERIFIED),
        (GIVEN_UP, replace(QUIET, baseline_requests=1), 62, End.VERIFIED),
        (GIVEN_UP, replace(QUIET, canary_requests=1), 601, End.UNVERIFIED),
        (UP, replace(QUIET, baseline_requests=1), 62, End.VERIFIED),
        (UP, replace(QUIET, stable=Answered(0, 0)), 62, End.VERIFIED),
        (UP, replace(QUIET, canary_requests=9), 62, End.VERIFIED),
        (UP, replace(QUIET, stable=Answered(1_000, 100)), 62, End.PENDING),
    ],
)
def test_an_end_is_verified_when_nobody_gets_the_canary_and_stable_is_as_before(
    release: Release, ended: Ended, after_s: float, end: End
) -> None:
    found, why = verification(
        release, noted(canary=0.5, control=0.5), ended, NOW + timedelta(seconds=after_s)
    )
    assert found is end
    assert why


@pytest.mark.parametrize(("at_s", "end"), [(30, End.PENDING), (62, End.UNHEARD)])
def test_the_end_is_verified_by_what_was_answered_after_it(at_s: int, end: End) -> None:
    """Of the minute before, most of it came when the canary was still there."""
    policy = Policy(service_key="shop", revision=1, release=BACK, plan=PLAN)
    now = NOW + timedelta(seconds=100)
    w = watched.begin(policy, noted(canary=0.5, control=0.5), JUDGE, now)
    assert w is not None
    found = Found(release_id="r1", at=NOW + timedelta(seconds=at_s), counted=[])
    assert verified(w, found, now)[0] is end


# Records and messages


@pytest.mark.parametrize(
    ("waits_for", "is_to_save"),
    [("12 of the 500 requests", False), ("12 of the 500 requests; a person", True)],
)
def test_a_count_that_goes_up_is_noted_once_a_minute_and_other_words_sooner(
    waits_for: str, is_to_save: bool
) -> None:
    w = watched.begin(POLICY, replace(RECORD, waits_for="9 of the 500 requests"), JUDGE, NOW)
    assert w is not None
    later = timedelta(seconds=6)
    at = next(
        at
        for at in (NOW + timedelta(seconds=n) for n in range(60))
        if turn("shop", at, 60) == turn("shop", at + later, 60)
    )
    w.saved = replace(w.saved, written_at=at)
    w.record = replace(w.record, waits_for=waits_for)
    assert w.is_to_save(at + later) is is_to_save


def test_points_are_the_fewer_the_older_and_none_is_lost_at_which_the_weight_changed() -> None:
    points = [
        Point(at=NOW + timedelta(seconds=10 * n), weight=5_000 if n < 5_000 else 25_000)
        for n in range(10_000)
    ]
    now = points[-1].at
    kept = thinned(points, now)
    assert len(kept) <= MOST_POINTS
    assert kept[-1] is points[-1]
    assert points[5_000] in kept
    newest = [point for point in kept if now - point.at <= timedelta(minutes=15)]
    assert len(newest) == 91
    assert thinned(kept, now) == kept


WHOLE = MetricSnapshot(
    performance=Performance(avg_ms=1.5, p95_ms=9.0, requests=10, cpu=12.5),
    errors=Errors(rate=0.5, count=2, by_type={500: 2, 404: 1}, critical=0),
    business=Business(revenue=12.0, feature_usage={"cart": 3.0}),
    users=Users(satisfaction=4.5),
    custom={"carts": 2.0},
)
RECORD = ReleaseRecord(
    service_key="shop",
    release_id="r1",
    stable_version="v1",
    written_at=NOW,
    fence=3,
    evidence="{}",
    points=(
        Point(at=NOW, weight=5_000, canary=WHOLE, verdict="pass", e_values={"errors": 1.5}),
        Point(at=NOW, weight=0),
    ),
    alerts=(Alert(key="a", severity=Severity.WARNING, title="t", since=NOW, told_at=NOW),),
    gates=(GateState(weight=PROMOTION, kind=GateKind.WEBHOOK, name="qa", since=NOW),),
    calls=(
        WebhookCall(
            name="qa", occasion=Occasion.PROMOTE, weight=PROMOTION, at=NOW, answer=Answer.NOT_YET
        ),
    ),
    events=(Event(at=NOW, what="raised", why="because", revision=7),),
    verdict="inconclusive",
    findings=(Finding(metric="errors", verdict="fail", e_value=0.0, ratio_high=3.5),),
    waits_for="somebody",
    is_closed=True,
)


@pytest.mark.parametrize(
    "record", [RECORD, ReleaseRecord(service_key="shop", release_id="r2", written_at=NOW)]
)
def test_a_record_comes_back_from_its_message_as_it_was(record: ReleaseRecord) -> None:
    message = messages.record_message(record, PointMessages().of(record))
    assert messages.record(type(message).FromString(message.SerializeToString())) == record


def test_a_verdict_from_the_future_is_none() -> None:
    message = messages.record_message(RECORD, [])
    message.verdict = 99  # type: ignore[assignment]
    assert messages.record(message).verdict == ""
    assert set(Verdict) == {"pass", "fail", "inconclusive", "error"}


def test_the_message_of_a_point_is_made_once() -> None:
    known = PointMessages()
    record = replace(RECORD, is_closed=False)
    first = known.of(record)
    more = replace(record, points=(*record.points, Point(at=NOW, weight=1)))
    assert [a is b for a, b in zip(first, known.of(more), strict=False)] == [True, True]


def test_of_one_service_key_the_points_of_one_release_are_remembered() -> None:
    """Another controller may have closed the record of the one before."""
    known = PointMessages()
    first = known.of(replace(RECORD, is_closed=False))
    known.of(replace(RECORD, is_closed=False, release_id="the next", points=()))
    assert known.of(replace(RECORD, is_closed=False))[0] is not first[0]
