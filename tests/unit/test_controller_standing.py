"""What Prometheus is shown of each release: weight, verdict, evidence beside its limits."""

from __future__ import annotations

from datetime import UTC, datetime

from canary_controller.metrics import Metrics
from canary_controller.standing import Shown, worst
from canary_engine.judge.verdict import Verdict
from canary_engine.record import Finding, Point, ReleaseRecord
from prometheus_client import generate_latest

NOW = datetime(2026, 11, 27, tzinfo=UTC)
ERRORS = Finding(
    metric="errors", test="sequential", canary=2.5, against=0.5, e_value=12, e_limit=20
)
P95 = Finding(metric="p95-response-time", test="condition", verdict="pass", canary=80, against=1000)
RECORD = ReleaseRecord(
    service_key="shop",
    release_id="r-1",
    points=(Point(at=NOW, weight=5_000), Point(at=NOW, weight=25_000)),
    verdict=Verdict.INCONCLUSIVE,
    findings=(ERRORS, P95),
)
SHOWN = Shown(record=RECORD, findings=lambda: RECORD.findings)


def shown(metrics: Metrics) -> list[str]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return [line for line in lines if "service_key=" in line]


def test_a_release_is_shown_with_its_evidence_and_what_that_is_held_against() -> None:
    metrics = Metrics()
    metrics.releases([SHOWN])
    release = 'release_id="r-1",service_key="shop"'
    errors = f'metric="errors",{release},test="sequential"'
    p95 = f'metric="p95-response-time",{release},test="condition"'
    assert sorted(shown(metrics)) == sorted(
        [
            f"canary_controller_release_weight_ratio{{{release}}} 0.25",
            f'canary_controller_release_verdict{{{release},verdict="inconclusive"}} 1.0',
            f"canary_controller_finding_canary{{{errors}}} 2.5",
            f"canary_controller_finding_canary{{{p95}}} 80.0",
            f"canary_controller_finding_against{{{errors}}} 0.5",
            f"canary_controller_finding_against{{{p95}}} 1000.0",
            f"canary_controller_finding_e_value{{{errors}}} 12.0",
            f"canary_controller_finding_e_limit{{{errors}}} 20.0",
        ]
    )


def test_nothing_is_shown_of_a_release_that_nobody_sees_to_any_more() -> None:
    metrics = Metrics()
    metrics.releases([SHOWN])
    metrics.releases([])
    assert shown(metrics) == []


def test_of_several_limits_of_a_metric_the_worst_is_shown() -> None:
    def limit(against: float, verdict: Verdict) -> Finding:
        return Finding(metric="p95", test="condition", verdict=verdict, against=against)

    held, broken = limit(500, Verdict.FAIL), limit(1000, Verdict.INCONCLUSIVE)
    assert worst([limit(2000, Verdict.PASS), broken, held, broken]) == [held]
    assert worst([]) == []
