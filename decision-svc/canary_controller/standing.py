"""Shows Prometheus how each release stands: its weight, the verdict, evidence beside its limits.

What is shown is made when Prometheus asks, from the newest records, so a tick costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from canary_engine.judge.verdict import Verdict
from canary_engine.model import BUCKETS
from canary_engine.record import Finding, ReleaseRecord
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_RELEASE = ("service_key", "release_id")
_FINDING = (*_RELEASE, "metric", "test")
_WORST_FIRST = {str(verdict): rank for rank, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What is shown of a release; ``findings`` tells the newest, from whatever thread asks."""

    record: ReleaseRecord
    findings: Callable[[], Iterable[Finding]]


class Standing(Collector):
    """The releases that this controller sees to; none while another one acts."""

    def __init__(self) -> None:
        self._shown: Sequence[Shown] = ()

    def show(self, shown: Sequence[Shown]) -> None:
        """Show these, and no others any more."""
        self._shown = shown

    def collect(self) -> Iterator[Metric]:
        """What prometheus-client asks of a collector."""
        shown = self._shown
        records = [one.record for one in shown]
        yield from (_weights(records), _verdicts(records))
        found = [(one.record, finding) for one in shown for finding in worst(one.findings())]
        yield _gauge(
            "finding_canary", "The canary's value, as the judge's finding has it.", found, "canary"
        )
        yield _gauge(
            "finding_against", "What it is held against: control's value, or a limit.", found,
            "against",
        )  # fmt: skip
        yield _gauge("finding_e_value", "Evidence against the canary; 1 is none.", found, "e_value")
        yield _gauge("finding_e_limit", "Evidence that is proof.", found, "e_limit")


def worst(findings: Iterable[Finding]) -> list[Finding]:
    """The worst finding of each metric and test: a plan may have several limits for one."""
    kept: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        before = kept.setdefault((finding.metric, finding.test), finding)
        if _rank(finding) < _rank(before):
            kept[finding.metric, finding.test] = finding
    return list(kept.values())


def _rank(finding: Finding) -> int:
    return _WORST_FIRST.get(str(finding.verdict), len(_WORST_FIRST))


def _weights(records: Iterable[ReleaseRecord]) -> Metric:
    family = GaugeMetricFamily(
        "canary_controller_release_weight_ratio",
        "Share of users who get the canary, 0 to 1.",
        labels=_RELEASE,
    )
    for record in records:
        if record.points:
            weight = record.points[-1].weight / BUCKETS
            family.add_metric((record.service_key, record.release_id), weight)
    return family


def _verdicts(records: Iterable[ReleaseRecord]) -> Metric:
    family = GaugeMetricFamily(
        "canary_controller_release_verdict",
        "1 for the judge's newest verdict.",
        labels=(*_RELEASE, "verdict"),
    )
    for record in records:
        verdict = str(record.verdict) or "none"
        family.add_metric((record.service_key, record.release_id, verdict), 1)
    return family


def _gauge(
    name: str, text: str, found: Iterable[tuple[ReleaseRecord, Finding]], field: str
) -> Metric:
    family = GaugeMetricFamily(f"canary_controller_{name}", text, labels=_FINDING)
    for record, finding in found:
        value: float | None = getattr(finding, field)
        if value is not None:
            of = (record.service_key, record.release_id, finding.metric, finding.test)
            family.add_metric(of, value)
    return family
