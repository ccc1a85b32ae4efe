"""What gateways told of requests, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from canary_engine.outcomes import Labels, Tally
from prometheus_client import CollectorRegistry, Counter, Gauge

from decision_svc.outcomes.protocol import Reported

QUANTILES = (0.5, 0.95, 0.99)
# Of one service key, as long as this process lives; later ones go by the name "other".
MAX_VERSIONS = 200


class OutcomeMetrics:
    """Outcomes by version and status, and how long requests took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._outcomes = Counter(
            "canary_outcomes",
            "Outcomes of labelled requests, by class of status.",
            ("service_key", "version", "variant", "status"),
            registry=registry,
        )
        self._lost = Counter(
            "canary_outcomes_lost",
            "Labelled requests of which the gateway never heard again.",
            ("service_key", "version", "variant"),
            registry=registry,
        )
        self.uncounted = Counter(
            "canary_outcomes_uncounted",
            "What gateways heard of requests and could not count, or counted and could not tell.",
            ("why",),
            registry=registry,
        )
        self._latency = Gauge(
            "canary_outcome_latency_seconds",
            "Quantiles of the time from request to response over the last minute, as far as this "
            "replica was told.",
            ("service_key", "version", "variant", "quantile"),
            registry=registry,
        )
        self._versions: dict[str, set[str]] = {}
        self._shown: dict[str, set[tuple[str, str]]] = {}

    def count(self, reported: Iterable[Reported]) -> None:
        """Count outcomes. Their service keys must be ones that exist, or labels explode."""
        for labels, _, tally in reported:
            names = (labels.service_key, self._version(labels), labels.variant)
            for status, number in tally.statuses.items():
                self._outcomes.labels(*names, f"{status // 100}xx").inc(number)
            self._lost.labels(*names).inc(tally.lost)

    def show_latencies(self, service_key: str, found: Mapping[Labels, Tally]) -> None:
        """Show a service key's latencies, and no longer those of versions without requests."""
        merged: dict[tuple[str, str], Tally] = {}
        for labels, tally in found.items():
            merged.setdefault((self._version(labels), labels.variant), Tally()).merge(tally)
        shown = {names for names, tally in merged.items() if tally.requests}
        for names in shown:
            for share in QUANTILES:
                latency_us = merged[names].request.quantile(share) or 0.0
                self._latency.labels(service_key, *names, share).set(latency_us / 1e6)
        for names in self._shown.get(service_key, set()) - shown:
            for share in QUANTILES:
                self._latency.remove(service_key, *names, share)
        self._shown[service_key] = shown

    def _version(self, labels: Labels) -> str:
        known = self._versions.setdefault(labels.service_key, set())
        if labels.version not in known and len(known) >= MAX_VERSIONS:
            return "other"
        known.add(labels.version)
        return labels.version
