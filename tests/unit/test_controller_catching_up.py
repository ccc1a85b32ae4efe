"""Which releases catch up on outcomes first, after a controller was away for an hour."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from canary_controller.admin import FAR, Counted, Known, News, ReleaseNews, Write
from canary_controller.errors import Unknown
from canary_controller.judging import EngineJudge
from canary_controller.measuring import Measuring
from canary_controller.metrics import Metrics
from canary_controller.reconcile import MOST_BEHIND, Outside, Reconciler
from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import Cohort, Policy, Release, ReleaseStatus
from canary_engine.plan import Plan, PlanStep
from canary_engine.record import ReleaseRecord
from support.controller_world import Nobody, People

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STARTED = NOW - timedelta(hours=1)
RELEASE = Release(
    id="r1",
    version="v2",
    status=ReleaseStatus.IN_PROGRESS,
    share=5_000,
    salt="r1",
    started_at=STARTED,
    judged_since=STARTED,
    weight_since=STARTED,
)
OVER = replace(RELEASE, status=ReleaseStatus.ROLLED_BACK, share=0, ended_at=NOW)
PLAN = Plan(steps=(PlanStep(weight=5_000),))


class Service:
    """Has releases, and remembers what it was asked of which; see Admin and Figures."""

    def __init__(self, releases: Sequence[Release]) -> None:
        self.asked: Collection[Known] = ()
        self._policies = [
            Policy(service_key=f"shop-{number}", revision=1, release=release, plan=PLAN)
            for number, release in enumerate(releases)
        ]

    async def services(self) -> Sequence[str]:
        """See Admin."""
        return [policy.service_key for policy in self._policies]

    async def follow(self, known: Collection[Known]) -> News:
        """See Admin."""
        self.asked = known
        has = {one.service_key for one in known if one.revision}
        news = [
            ReleaseNews(
                service_key=policy.service_key,
                revision=1,
                policy=None if policy.service_key in has else policy,
            )
            for policy in self._policies
        ]
        return News(now=NOW, releases=news)

    async def write(self, write: Write) -> int:
        """See Admin."""
        return 2

    async def record(self, service_key: str, release_id: str) -> ReleaseRecord:
        """See Admin."""
        raise Unknown(release_id)

    async def put_record(self, record: ReleaseRecord) -> None:
        """See Admin."""

    async def metrics(self, service_key: str, window_s: int) -> dict[Cohort, MetricSnapshot]:
        """See Figures."""
        return {}

    async def counted(self, service_key: str, window_s: int) -> Sequence[Counted]:
        """See Figures."""
        return []


async def test_releases_that_have_ended_take_no_room_from_those_that_are_to_be_judged() -> None:
    """The end of many may be unverified for long, as while stable is down."""
    service = Service([OVER] * (MOST_BEHIND + 1) + [RELEASE])
    measuring = Measuring(service, None)
    outside = Outside(measuring=measuring, webhooks=Nobody(), people=People(), reports=Nobody())
    reconciler = Reconciler(service, EngineJudge(), outside, Metrics())
    for _ in range(2):
        await reconciler.tick(1, lambda: True)
    await measuring.close()
    asked = {one.service_key: one.slot for one in service.asked}
    assert asked[f"shop-{MOST_BEHIND + 1}"] < FAR
    assert FAR not in asked.values()
