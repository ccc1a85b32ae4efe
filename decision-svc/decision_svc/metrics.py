"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from canary_engine.model import Reason, Variant
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from decision_svc.outcomes.metrics import OutcomeMetrics

_LATENCY_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)


Counted = tuple[str, Variant, Reason, bool]
"""What decisions are counted by: service key, variant, reason, whether they are degraded."""


class Metrics:
    """The service's metrics in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._decisions = Counter(
            "canary_decisions",
            "Decisions made.",
            ("service_key", "variant", "reason"),
            registry=self.registry,
        )
        self.degraded = Counter(
            "canary_decisions_degraded",
            "Decisions made without a user's membership, because the store did not answer.",
            registry=self.registry,
        )
        self.resends = Counter(
            "canary_resends",
            "Requests answered by asking for other facts or the baseline.",
            registry=self.registry,
        )
        self.errors = Counter(
            "canary_decision_errors",
            "Requests refused, by status code.",
            ("code",),
            registry=self.registry,
        )
        self.latency = Histogram(
            "canary_decide_seconds",
            "Time to answer one request or one message of requests.",
            ("call",),
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.changes = Counter(
            "canary_policy_changes", "Changes accepted.", ("service_key",), registry=self.registry
        )
        self.revision = Gauge(
            "canary_policy_revision",
            "Revision of the policy held in memory.",
            ("service_key",),
            registry=self.registry,
        )
        self.bad_policies = Counter(
            "canary_stored_policies_refused",
            "Stored policies that could not be used.",
            registry=self.registry,
        )
        self.lost_policies = Gauge(
            "canary_stored_policies_lost",
            "Policies that rule here but are gone from the store.",
            registry=self.registry,
        )
        self.store_up = Gauge(
            "canary_store_up", "1 while the store answers.", registry=self.registry
        )
        self.refused_calls = Counter(
            "canary_calls_refused",
            "Calls refused for what the caller showed, or may not do.",
            ("code",),
            registry=self.registry,
        )
        self.credentials_outdated = Gauge(
            "canary_credentials_outdated",
            "1 while a file of credentials is wrong and what was read before is in force.",
            ("file",),
            registry=self.registry,
        )
        self.watchers = Gauge(
            "canary_policy_watchers", "Open policy streams.", registry=self.registry
        )
        self.outcomes = OutcomeMetrics(self.registry)
        self.unexposed = Counter(
            "canary_exposure_dropped",
            "Users who were not counted for a release, because the store did not answer.",
            registry=self.registry,
        )
        self._children: dict[tuple[str, str, str], Counter] = {}

    def count(self, decisions: Mapping[Counted, int]) -> None:
        """Count decisions. Their service keys must be ones that exist, or labels explode."""
        for (service_key, variant, reason, degraded), number in decisions.items():
            key = (service_key, variant, reason)
            child = self._children.get(key)
            if child is None:
                child = self._children[key] = self._decisions.labels(*map(str, key))
            child.inc(number)
            if degraded:
                self.degraded.inc(number)
