"""What is measured in the background: when it is asked for anew, and what a mistake makes of it."""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from canary_controller.admin import Counted
from canary_controller.measuring import Measuring
from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import Cohort, Policy, Release, ReleaseStatus
from canary_engine.plan import Plan, PlanStep

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RELEASE = Release(
    id="r1", version="v2", status=ReleaseStatus.IN_PROGRESS, share=5_000, salt="r1", started_at=NOW
)
PLAN = Plan(steps=(PlanStep(weight=5_000),), check_interval="15m")
POLICY = Policy(service_key="shop", revision=1, release=RELEASE, plan=PLAN)
OVER = replace(RELEASE, status=ReleaseStatus.ROLLED_BACK, share=0, ended_at=NOW)


class Service:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.mistake: Exception | None = None

    async def metrics(self, service_key: str, window_s: int) -> Mapping[Cohort, MetricSnapshot]:
        """See Figures."""
        self.asked += 1
        if self.mistake is not None:
            raise self.mistake
        return {}

    async def counted(self, service_key: str, window_s: int) -> Sequence[Counted]:
        """See Figures."""
        self.asked += 1
        return []


async def wanted(measuring: Measuring, now: datetime, policy: Policy = POLICY) -> None:
    """Say whom to measure, and let that be done."""
    measuring.want(policy, "v1", now)
    for _ in range(5):
        await sleep(0)


@pytest.mark.parametrize(("after_s", "asked"), [(899, 1), (900, 2), (-3_600, 2)])
async def test_metrics_are_asked_for_once_an_interval_and_when_the_clock_was_set_back(
    after_s: int, asked: int
) -> None:
    service = Service()
    measuring = Measuring(service, None)
    await wanted(measuring, NOW)
    await wanted(measuring, NOW + timedelta(seconds=after_s))
    assert service.asked == asked


async def test_after_the_end_nobody_waits_for_the_interval_of_the_plan() -> None:
    service = Service()
    measuring = Measuring(service, None)
    await wanted(measuring, NOW - timedelta(seconds=20))
    over = replace(POLICY, release=OVER)
    for after_s in (62, 63, 72):
        await wanted(measuring, NOW + timedelta(seconds=after_s), over)
    assert service.asked == 3
    assert measuring.found("shop", OVER).at == NOW + timedelta(seconds=72)


async def test_a_mistake_in_measuring_is_no_data_and_never_what_was_found_before() -> None:
    service = Service()
    measuring = Measuring(service, None)
    await wanted(measuring, NOW)
    service.mistake = ValueError("of ours")
    later = NOW + timedelta(hours=1)
    await wanted(measuring, later)
    found = measuring.found("shop", RELEASE)
    assert found.at == later
    assert "of ours" in found.trouble
