"""Reported metrics: amounts are added up, everything else is averaged by what it stands for."""

from __future__ import annotations

import pytest
from canary_engine.metric_snapshot import MetricSnapshot, value
from canary_engine.plan import NAMED, Metric
from canary_engine.reports import AMOUNTS, Series, Total, snapshot, together, total_of

V2 = "v2"


def reported(
    metric: Metric, *reports: tuple[float, int], name: str = "", version: str = V2, region: str = ""
) -> dict[Series, Total]:
    dimensions = (("region", region),) if region else ()
    total = Total()
    for number, count in reports:
        total = together(total, total_of(metric, number, count))
    return {Series(metric, name, version, dimensions): total}


def said(totals: dict[Series, Total], metric: Metric, name: str = "") -> float | None:
    return value(snapshot(totals, V2, MetricSnapshot()), metric, name)


@pytest.mark.parametrize("metric", Metric)
def test_amounts_are_added_up_and_all_else_is_averaged(metric: Metric) -> None:
    name = "one" if metric in NAMED else ""
    totals = reported(metric, (4, 3), (2, 1), name=name)
    assert said(totals, metric, name) == pytest.approx(6 if metric in AMOUNTS else 3.5, abs=0.5)


def test_averages_weigh_each_report_by_what_it_stands_for() -> None:
    totals = reported(Metric.SATISFACTION, (5, 9), (0, 1))
    assert said(totals, Metric.SATISFACTION) == 4.5


def test_dimensions_are_put_together_by_the_same_rule() -> None:
    eu = reported(Metric.SATISFACTION, (5, 3), region="eu")
    us = reported(Metric.SATISFACTION, (1, 1), region="us")
    assert said(eu | us, Metric.SATISFACTION) == 4
    eu = reported(Metric.REVENUE, (10, 1), region="eu")
    us = reported(Metric.REVENUE, (-2.5, 1), region="us")
    assert said(eu | us, Metric.REVENUE) == 7.5


def test_active_users_are_averaged_over_time_and_added_up_over_dimensions() -> None:
    eu = reported(Metric.ACTIVE_USERS, (100, 1), (120, 1), region="eu")
    us = reported(Metric.ACTIVE_USERS, (50, 1), region="us")
    assert said(eu | us, Metric.ACTIVE_USERS) == 160


def test_reports_of_another_version_say_nothing_and_what_was_known_stays() -> None:
    other = reported(Metric.SATISFACTION, (5, 1), version="v1")
    assert said(other, Metric.SATISFACTION) is None
    known = snapshot(reported(Metric.CPU, (50, 1)), V2, MetricSnapshot())
    both = snapshot(reported(Metric.MEMORY, (60, 1)), V2, known)
    assert (both.performance.cpu, both.performance.memory) == (50, 60)


def test_names_are_told_apart() -> None:
    totals = reported(Metric.CUSTOM, (1, 1), name="a") | reported(Metric.CUSTOM, (2, 1), name="b")
    assert [said(totals, Metric.CUSTOM, name) for name in "abc"] == [1, 2, None]
