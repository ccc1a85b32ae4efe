"""The sides of a release: outcomes by cohort, reports by version, over the time that it lived."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from canary_engine import parse
from canary_engine.model import Cohort, Policy, Variant
from canary_engine.outcomes import Labels, Tally
from canary_engine.plan import Metric
from canary_engine.reports import Series, Total
from decision_svc.comparing import CohortMetrics, compared

NOW = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
DRAWN = Labels("shop", "v2", Variant.CANARY, "r-1", Cohort.DRAWN)
CONTROL = Labels("shop", "v1", Variant.STABLE, "r-1", Cohort.CONTROL)


def a_policy(statuses: tuple[str, str] = ("stable", "canary"), **fields: Any) -> Policy:
    versions = [{"version": f"v{n}", "status": s} for n, s in enumerate(statuses, 1)]
    release = {"id": "r-1", "version": "v2", "status": "in-progress", "salt": "s", **fields}
    return parse.policy({"service_key": "shop", "versions": versions, "release": release})


def of_statuses(*statuses: int) -> Tally:
    tally = Tally()
    for status in statuses:
        tally.add(status, 1_000, None)
    return tally


def compare(
    tallies: dict[Labels, Tally] | None = None,
    reported: dict[Series, Total] | None = None,
    policy: Policy | None = None,
    window_s: int = 60,
) -> dict[Cohort, CohortMetrics]:
    found = policy or a_policy()
    assert found.release is not None
    now = NOW.timestamp()
    sides = compared(
        found, found.release, tallies or {}, reported or {}, now=now, window_s=window_s
    )
    return {side.cohort: side for side in sides}


def satisfaction(version: str, value: float) -> dict[Series, Total]:
    return {Series(Metric.SATISFACTION, "", version): Total(value, 1)}


def test_of_whom_nothing_is_known_nothing_is_said() -> None:
    assert compare() == {}
    another = DRAWN._replace(release_id="r-0")
    unlabelled = DRAWN._replace(cohort=Cohort.OTHER)
    assert compare({another: of_statuses(200), unlabelled: of_statuses(200)}) == {}


def test_every_cohort_has_its_own_metrics_and_version() -> None:
    chosen = DRAWN._replace(cohort=Cohort.CHOSEN)
    found = compare(
        {DRAWN: of_statuses(200, 500), CONTROL: of_statuses(200), chosen: of_statuses(500)}
    )
    assert list(found) == [Cohort.DRAWN, Cohort.CONTROL, Cohort.CHOSEN]
    assert [one.version for one in found.values()] == ["v2", "v1", "v2"]
    assert [one.metrics.errors.rate for one in found.values()] == [50, 0, 100]


def test_what_is_reported_of_a_version_counts_for_its_side_and_never_for_the_chosen() -> None:
    chosen = DRAWN._replace(cohort=Cohort.CHOSEN)
    reported = satisfaction("v1", 4) | satisfaction("v2", 3) | satisfaction("v3", 1)
    found = compare({chosen: of_statuses(200)}, reported)
    said = {cohort: one.metrics.users.satisfaction for cohort, one in found.items()}
    assert said == {Cohort.DRAWN: 3, Cohort.CONTROL: 4, Cohort.CHOSEN: None}


def test_after_the_promotion_control_is_the_version_that_was_stable() -> None:
    policy = a_policy(("deprecated", "stable"), status="completed")
    reported = satisfaction("v1", 4) | satisfaction("v2", 3)
    found = compare({CONTROL: of_statuses(200)}, reported, policy)
    said = {cohort: one.metrics.users.satisfaction for cohort, one in found.items()}
    assert said == {Cohort.DRAWN: 3, Cohort.CONTROL: 4}
    assert Cohort.CONTROL not in compare({}, reported, policy)


@pytest.mark.parametrize(
    ("started_s", "ended_s", "covered_s"),
    [(3_600, None, 55), (20, None, 20), (0, None, 1), (40, 20, 20), (3_600, 15, 40)],
)
def test_throughput_is_over_the_part_of_the_window_in_which_the_release_lived(
    started_s: int, ended_s: int | None, covered_s: int
) -> None:
    def ago(seconds: int) -> str:
        return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")

    fields = {"started_at": ago(started_s)}
    if ended_s is not None:
        fields |= {"ended_at": ago(ended_s), "status": "rolled-back"}
    policy = a_policy(("stable", "canary" if ended_s is None else "deprecated"), **fields)
    found = compare({DRAWN: of_statuses(*[200] * 110)}, policy=policy)
    assert found[Cohort.DRAWN].metrics.performance.throughput == pytest.approx(110 / covered_s)
