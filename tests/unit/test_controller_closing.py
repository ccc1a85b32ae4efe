"""After a rollback: whose requests count against it, and what is said where none were heard."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from canary_controller import telling, watched
from canary_controller.admin import Counted
from canary_controller.closing import is_over, verified
from canary_controller.ending import SETTLED, End
from canary_controller.judging import EngineJudge
from canary_controller.measuring import Found, Measuring
from canary_controller.watched import Watched
from canary_engine.concerns import concerns
from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import (
    Cohort,
    Policy,
    Release,
    ReleaseStatus,
    Variant,
    Version,
    VersionStatus,
)
from canary_engine.plan import Plan, PlanStep
from canary_engine.record import Event

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = Plan(steps=(PlanStep(weight=5_000),), check_interval="10m")
BACK = Release(
    id="r1",
    version="v2",
    status=ReleaseStatus.ROLLED_BACK,
    share=0,
    salt="r1",
    started_at=NOW - timedelta(hours=1),
    ended_at=NOW,
)
POLICY = Policy(
    service_key="shop",
    versions=(Version(version="v1", status=VersionStatus.STABLE), Version(version="v2")),
    release=BACK,
    plan=PLAN,
)
BY_BASELINE = Counted("canary", Variant.CANARY, "baseline", 12, 0)
STABLE = Counted("v1", Variant.STABLE, "baseline", 300, 1)
LATER, LATE = NOW + SETTLED, NOW + timedelta(seconds=601)


def ended() -> Watched:
    found = watched.begin(POLICY, None, EngineJudge(), NOW)
    assert found is not None
    return found


def look(w: Watched, now: datetime, *counted: Counted) -> tuple[End, str]:
    return verified(w, Found(release_id="r1", at=now, counted=counted), now)


@pytest.mark.parametrize("others", [(), (STABLE,)], ids=["nothing of stable", "stable is well"])
def test_requests_that_a_baseline_gives_the_canary_are_told_at_once(
    others: tuple[Counted, ...],
) -> None:
    end, why = look(ended(), LATER, BY_BASELINE, *others)
    assert end is End.UNVERIFIED
    assert "12 requests of the last minute went to a canary by the gateways' own files" in why
    assert "canaryctl baselines shop" in why


def test_requests_by_an_old_policy_of_a_gateway_count_once_it_had_time_to_hear() -> None:
    earlier = Counted("v2", Variant.CANARY, "r0", 3, 0)
    assert look(ended(), LATER, STABLE, earlier)[0] is End.PENDING
    assert look(ended(), LATE, STABLE, earlier)[0] is End.UNVERIFIED


def test_the_stable_requests_of_a_baseline_verify_the_end() -> None:
    end, why = look(ended(), LATER, STABLE)
    assert (end, why) == (
        End.VERIFIED,
        "no request goes to v2 any more; of stable's 1 of the 300 requests of the last minute "
        "failed",
    )


def test_silence_is_not_taken_for_a_verification() -> None:
    w = ended()
    end, why = look(w, LATER)
    assert end is End.UNHEARD
    assert why.startswith("nothing was heard in the last minute: no request of v2, and none of")
    assert not is_over(w, end, LATER)
    assert is_over(w, end, LATE)


def test_after_requests_by_a_baseline_some_quiet_is_not_enough() -> None:
    w = ended()
    w.note(Event(at=LATER, what=End.UNVERIFIED, why="12 requests"))
    assert look(w, LATER + timedelta(minutes=5))[0] is End.PENDING
    assert look(w, LATER + timedelta(minutes=10))[0] is End.UNHEARD
    assert look(w, LATER + timedelta(minutes=5), STABLE)[0] is End.VERIFIED


def test_people_hear_of_what_was_found_last() -> None:
    w = ended()
    told = []
    for end in (End.UNHEARD, End.UNVERIFIED, End.VERIFIED):
        w.note(Event(at=LATER, what=end, why=str(end)))
        told.append({raised.key for raised in concerns(telling.sight(w, LATER)).raised})
    assert [keys - {"rollback:done"} for keys in told] == [
        {"rollback:unheard"},
        {"rollback:unverified"},
        {"rollback:verified"},
    ]


class Figures:
    """Counts how often it was asked."""

    asked = 0

    async def metrics(self, service_key: str, window_s: int) -> Mapping[Cohort, MetricSnapshot]:
        return {}

    async def counted(self, service_key: str, window_s: int) -> Sequence[Counted]:
        self.asked += 1
        return [STABLE]


async def test_what_is_counted_after_the_end_is_counted_when_a_minute_lies_after_it() -> None:
    """However long the plan's check interval is, and whatever was measured before."""
    figures = Figures()
    measuring = Measuring(figures, None)
    found = []
    for after_s in (1, 61, 66, 67, 661, 663):
        measuring.want(POLICY, "v1", NOW + timedelta(seconds=after_s))
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
        found.append((figures.asked, measuring.found("shop", BACK).counted))
    nothing, some, more = (0, None), (1, [STABLE]), (2, [STABLE])
    assert found == [nothing, nothing, some, some, more, more]


def test_an_abandoned_release_leaves_the_baseline_as_it_was_and_says_so() -> None:
    """Nobody holds anything against its version; and stable is judged by its own requests."""
    w = ended()
    w.release = replace(BACK, status=ReleaseStatus.ABANDONED)
    end, why = look(w, LATER, STABLE, BY_BASELINE._replace(errors=12))
    assert end is End.VERIFIED
    assert "1 of the 300" in why
    assert why.endswith("12 went to a canary by the gateways' own files")
