"""Stories of releases for reports: one that went well, one that was rolled back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from canary_engine.metric_snapshot import Errors, MetricSnapshot, Performance
from canary_engine.model import Policy, Release, ReleaseStatus, Tick, Variant
from canary_engine.plan import (
    ChecklistItem,
    Gate,
    GateKind,
    Occasion,
    Plan,
    PlanStep,
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
from canary_report.story import Change, Story

START = datetime(2026, 3, 4, 22, 0, tzinfo=UTC)
PLAN = Plan(
    steps=(
        PlanStep(weight=5_000, hold="30m", min_samples=1_000),
        PlanStep(
            weight=15_000,
            hold="30m",
            gates=(Gate(kind=GateKind.APPROVAL), Gate(kind=GateKind.CHECKLIST)),
        ),
        PlanStep(weight=25_000, hold="30m"),
        PlanStep(weight=50_000, hold="1h"),
    ),
    checklist=(
        ChecklistItem(name="dashboards are open", group="people"),
        ChecklistItem(name="rollback was rehearsed", group="people"),
    ),
)


def at(minutes: float) -> datetime:
    """So many minutes after the begin."""
    return START + timedelta(minutes=minutes)


def side(random: Random, rate: float, p95_ms: float, requests: int) -> MetricSnapshot:
    """What a side may look like."""
    return MetricSnapshot(
        performance=Performance(
            p95_ms=p95_ms * random.uniform(0.93, 1.08), p50_ms=p95_ms / 4, requests=requests
        ),
        errors=Errors(rate=max(rate * random.uniform(0.6, 1.5), 0.0)),
    )


def points(weights: list[int], bad_from: int, *, seed: int = 1) -> tuple[Point, ...]:
    """A point a minute; from ``bad_from`` on the canary fails more and more."""
    random, found, evidence = Random(seed), [], 1.0
    for minute, weight in enumerate(weights):
        badness = max(0, minute - bad_from) * 0.35
        evidence = max(0.05, evidence * (1.6 if badness else random.uniform(0.75, 1.3)))
        verdict = "fail" if evidence > 200 else "inconclusive" if badness else "pass"
        canary = side(random, 0.5 + badness, 210 + 40 * badness, weight // 20)
        found.append(
            Point(
                at=at(minute),
                weight=weight,
                canary=canary,
                control=side(random, 0.5, 205, weight // 5),
                verdict="error" if 20 <= minute < 24 else verdict,
                e_values={"error rate": evidence, "p95": max(0.2, evidence**0.5)},
            )
        )
    return tuple(found)


FINDINGS = (
    Finding(metric="errors", verdict="fail", test="sequential", canary=2.31, against=0.52,
            e_value=214.0, e_limit=200.0, ratio=4.4, ratio_low=2.1, ratio_high=9.3,
            why="The canary's error rate is 2.31 %, control's 0.52 %"),
    Finding(metric="p95", verdict="inconclusive", test="sequential", canary=7.5,
            against=5.0, e_value=14.6, e_limit=500.0, ratio=1.5, ratio_low=0.97, ratio_high=2.2,
            why="The evidence does not suffice"),
    Finding(metric="error-rate", verdict="pass", test="condition", canary=2.31, against=10.0,
            why="The error rate is below 10 %"),
)  # fmt: skip


def rolled_back(**fields: Any) -> Story:
    """A release that fails at 15 % and is rolled back by the controller."""
    release = Release(
        id="r-7f3a", version="2.0.0", status=ReleaseStatus.ROLLED_BACK, share=0, salt="s",
        started_at=START, ended_at=at(52),
        ticks=tuple(Tick(item=i.name, by="bob", at=at(28)) for i in PLAN.checklist),
    )  # fmt: skip
    record = ReleaseRecord(
        service_key="checkout",
        release_id=release.id,
        written_at=at(54),
        points=points([5_000] * 32 + [15_000] * 20 + [0] * 2, 34),
        alerts=(
            Alert(key="no-data", severity=Severity.WARNING, title="no data for cpu",
                  text="cpu: Prometheus did not answer within 5 s.", since=at(20),
                  resolved_at=at(24), told_at=at(25)),
            Alert(key="rollback:done", severity=Severity.CRITICAL, title="2.0.0 was rolled back",
                  since=at(52), resolved_at=at(52), told_at=at(52)),
        ),
        gates=(
            GateState(weight=25_000, kind=GateKind.WINDOW, name="nights", is_open=True,
                      since=START),
        ),
        calls=(
            WebhookCall(name="qa", occasion=Occasion.RAISE, weight=15_000, at=at(30), tries=2,
                        answer=Answer.YES, text="smoke tests passed"),
        ),
        events=(
            Event(at=at(32), what="raised", why="The step was held for 30m and all gates are open",
                  revision=13),
            Event(at=at(52), what="rolled-back", why="error rate", revision=14),
            Event(at=at(54), what="verified", why="No canary traffic for 60 s"),
        ),
        verdict="fail",
        findings=FINDINGS,
        is_closed=True,
        stable_version="1.9.4",
    )  # fmt: skip
    story = Story(
        record=record,
        policy=Policy(service_key="checkout", release=release, plan=PLAN),
        exposure={Variant.CANARY: 1_843, Variant.STABLE: 20_377},
        changes=(
            Change(revision=11, actor="ann", at=at(-60), reason="x", summary="set the plan"),
            Change(revision=12, actor="ann", at=START, reason="weekly release",
                   summary="started the release of 2.0.0 at 5 %"),
            Change(revision=13, actor="controller", at=at(32), summary="set the percentage to 15 %",
                   reason="The step was held for 30m and all gates are open"),
            Change(revision=14, actor="controller", at=at(52), summary="rolled the release back",
                   reason="The canary's error rate is 2.31 %, control's 0.52 %"),
            Change(revision=15, actor="ann", at=at(90), reason="x", summary="removed a flag"),
        ),
        made_at=at(54),
    )  # fmt: skip
    return replace(story, **fields)


def completed() -> Story:
    """A release that goes all the way."""
    weights = [5_000] * 30 + [15_000] * 30 + [25_000] * 30 + [50_000] * 60
    before = rolled_back()
    assert before.release is not None
    release = replace(
        before.release, status=ReleaseStatus.COMPLETED, share=50_000, ended_at=at(150)
    )
    marks = [("raised", 30, 13), ("raised", 60, 14), ("raised", 90, 15), ("promoted", 150, 16)]
    record = replace(
        before.record,
        points=points(weights, 10_000, seed=2),
        alerts=(),
        events=tuple(Event(at=at(m), what=w, why="held", revision=r) for w, m, r in marks),
        gates=(GateState(weight=PROMOTION, kind=GateKind.APPROVAL, is_open=True, since=at(140)),),
        verdict="pass",
        findings=(
            replace(FINDINGS[0], verdict="pass", canary=0.51, ratio=0.98, ratio_low=0.7,
                    ratio_high=1.2, e_value=0.2, why="No worse than control"),
        ),
        written_at=at(152),
    )  # fmt: skip
    return replace(
        before, record=record, policy=replace(before.policy, release=release), changes=(),
        made_at=at(152),
    )  # fmt: skip
