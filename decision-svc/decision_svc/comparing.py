"""The metrics of a release's cohorts: outcomes by cohort, reports by version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from canary_engine import reports
from canary_engine.metric_snapshot import MetricSnapshot, of_tally
from canary_engine.model import Cohort, Policy, Release, VersionStatus
from canary_engine.outcomes import Labels, Tally
from canary_engine.reports import Series, Total

from decision_svc.outcomes.protocol import SLOT_S
from decision_svc.outcomes.slots import window

_ORDER = (Cohort.DRAWN, Cohort.CONTROL, Cohort.CHOSEN)


class CohortMetrics(NamedTuple):
    """What is known of one cohort, and the version that it had."""

    cohort: Cohort
    version: str
    metrics: MetricSnapshot


def compared(
    policy: Policy,
    release: Release,
    tallies: Mapping[Labels, Tally],
    reported: Mapping[Series, Total],
    *,
    now: float,
    window_s: int,
) -> list[CohortMetrics]:
    """The cohorts that anything is known of, in the last ``window_s`` before Unix time ``now``.

    What is reported of the canary's version counts for those who were drawn, what is reported
    of the stable one for control.
    """
    covered_s = _covered_s(release, now, window_s)
    found = []
    for cohort in _ORDER:
        tally, version = _tally(tallies, release.id, cohort)
        version = version or _version(policy, release, cohort)
        known = MetricSnapshot() if tally is None else of_tally(tally, covered_s)
        if cohort is not Cohort.CHOSEN and version:
            known = reports.snapshot(reported, version, known)
        if known != MetricSnapshot():
            found.append(CohortMetrics(cohort, version, known))
    return found


def _covered_s(release: Release, now: float, window_s: int) -> float:
    """How many seconds of the window the release has lived through; never less than one."""
    first = window(now, window_s)[0] * SLOT_S
    began = release.started_at.timestamp() if release.started_at else 0.0
    ended = release.ended_at.timestamp() if release.ended_at else now
    return max(min(now, ended) - max(first, began), 1.0)


def _tally(
    tallies: Mapping[Labels, Tally], release_id: str, cohort: Cohort
) -> tuple[Tally | None, str]:
    """All outcomes of a cohort, and the version that most of them had."""
    mine = {
        labels: tally
        for labels, tally in tallies.items()
        if labels.release_id == release_id and labels.cohort is cohort
    }
    if not mine:
        return None, ""
    merged = Tally()
    for tally in mine.values():
        merged.merge(tally)
    return merged, max(mine, key=lambda labels: (mine[labels].requests, labels)).version


def _version(policy: Policy, release: Release, cohort: Cohort) -> str:
    """The version that a cohort gets, as far as the policy still says."""
    if cohort is not Cohort.CONTROL:
        return release.version
    stable = policy.version_with(VersionStatus.STABLE)
    # Once it is promoted, the policy no longer says what was stable before.
    return stable.version if stable is not None and stable.version != release.version else ""
