"""Measures what outcomes do not tell, in the background: a slow source makes nobody wait.

Whom to measure is said on every tick; a release is measured once a check interval, and what was
found last is what the next looks go by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import Cohort, Policy, Release, Variant
from canary_engine.plan import Limit, Metric, Plan, Query

from canary_controller.admin import Counted, Figures
from canary_controller.ending import SETTLED, WINDOW_S
from canary_controller.errors import AdminError
from canary_controller.sources.source import Measured, MetricKey, Source, Target, Trouble

log = structlog.get_logger()

MOST_AT_ONCE = 32
LONGEST_WINDOW_S = 300
ENDED_EVERY = timedelta(seconds=5)
"""Once a release has ended, people wait for what is measured."""
TOLD = frozenset(
    {
        Metric.ERROR_RATE, Metric.ERROR_COUNT, Metric.THROUGHPUT, Metric.AVG_RESPONSE_TIME,
        Metric.P50_RESPONSE_TIME, Metric.P95_RESPONSE_TIME, Metric.P99_RESPONSE_TIME,
    }
)  # fmt: skip
"""The metrics that outcomes tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was measured of one release, when it was asked for ``at``.

    ``reported`` is by cohort, ``queried`` by side, ``counted`` all requests of the minute, once the
    end has settled; None for what was not asked or did not come. ``trouble`` says why the service
    did not tell.
    """

    release_id: str = ""
    at: datetime | None = None
    reported: Mapping[Cohort, MetricSnapshot] = field(default_factory=dict)
    queried: Measured = field(default_factory=Measured)
    counted: Sequence[Counted] | None = None
    trouble: str = ""


NOTHING = Found()


class Measuring:
    """What was found of every release, by service key."""

    def __init__(self, figures: Figures, source: Source | None) -> None:
        self._figures, self._source = figures, source
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._found: dict[str, Found] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def found(self, service_key: str, release: Release) -> Found:
        """What was found last of this release."""
        found = self._found.get(service_key, NOTHING)
        return found if found.release_id == release.id else NOTHING

    def want(self, policy: Policy, stable_version: str, now: datetime) -> None:
        """Have it measured if that is due; returns at once."""
        release, plan, key = policy.release, policy.plan, policy.service_key
        if release is None or plan is None or key in self._tasks:
            return
        every = timedelta(seconds=plan.check_interval_s) if release.is_in_force else ENDED_EVERY
        at = self.found(key, release).at
        is_fresh = at is not None and timedelta(0) <= now - at < every
        if is_fresh or not _is_asked(release, plan):
            return
        task = asyncio.get_running_loop().create_task(
            self._measure(key, release, plan, stable_version, now)
        )
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    def keep(self, service_keys: Collection[str]) -> None:
        """Forget all others."""
        for key in self._found.keys() - set(service_keys):
            del self._found[key]

    async def close(self) -> None:
        """Measure nothing any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _measure(
        self, key: str, release: Release, plan: Plan, stable_version: str, now: datetime
    ) -> None:
        async with self._places:
            found = Found(release_id=release.id, at=now)
            try:
                if release.is_in_force:
                    found = await self._in_force(key, release, plan, stable_version, now)
                elif _has_settled(release, now):
                    counted = await self._figures.counted(key, WINDOW_S)
                    found = Found(release_id=release.id, at=now, counted=counted)
            except AdminError as error:
                found = Found(release_id=release.id, at=now, trouble=str(error))
            except Exception as error:  # else what was found before would be believed for ever
                log.exception("a release cannot be measured", service_key=key)
                found = Found(release_id=release.id, at=now, trouble=repr(error))
            self._found[key] = found

    async def _in_force(
        self, key: str, release: Release, plan: Plan, stable_version: str, now: datetime
    ) -> Found:
        window_s = window(plan)
        target = Target(
            service_key=key,
            release_id=release.id,
            canary_version=release.version,
            stable_version=stable_version,
            window_s=window_s,
        )
        queried = await self._queried(target, plan.queries)
        wants = _wants_reports(plan)
        reported = await self._figures.metrics(key, window_s) if wants else {}
        return Found(release_id=release.id, at=now, reported=reported, queried=queried)

    async def _queried(self, target: Target, queries: tuple[Query, ...]) -> Measured:
        if not queries:
            return Measured()
        if self._source is not None:
            return await self._source.measure(target, queries)
        why = "this controller was given no Prometheus server (--prometheus-url)"
        return Measured(
            troubles=tuple(
                Trouble(metric=query.metric, name=query.name, variant=variant, why=why)
                for query in queries
                for variant in Variant
            )
        )


def window(plan: Plan) -> int:
    """Over how many seconds metrics are taken: a check interval, within a minute and five."""
    return min(max(60, plan.check_interval_s), LONGEST_WINDOW_S)


def named(parts: Iterable[Limit | Query]) -> set[MetricKey]:
    """The metrics that limits and queries are about."""
    return {(part.metric, part.name) for part in parts}


def all_limits(plan: Plan) -> tuple[Limit, ...]:
    """Whatever the plan holds metrics against."""
    return (*plan.success, *plan.alerts, *plan.rollback.conditions)


def _is_asked(release: Release, plan: Plan) -> bool:
    """Whether there is anything to ask for."""
    if not release.is_in_force:
        return True
    return bool(plan.queries) or _wants_reports(plan)


def _has_settled(release: Release, now: datetime) -> bool:
    """Whether a whole minute lies after its end: before that, the minute is of the release, too."""
    return release.ended_at is not None and now - release.ended_at >= SETTLED


def _wants_reports(plan: Plan) -> bool:
    return any(metric not in TOLD for metric, _ in named(all_limits(plan)))
