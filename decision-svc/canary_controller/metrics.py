"""What the controller counts, for Prometheus."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Sequence
from functools import partial

from canary_engine.judge.verdict import Verdict
from canary_engine.model import BUCKETS
from canary_engine.step import Do
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from canary_controller.mesh.following import Seen
from canary_controller.standing import Shown, Standing

_MESH = ("service_key",)
_TICK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

Counters = Callable[..., Counter]
Gauges = Callable[..., Gauge]
"""Make a metric of its name, what it says and its labels."""


class Metrics:
    """The controller's metrics in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self._declare_ticks(counter, gauge)
        self._declare_releases(counter, gauge)
        self._declare_meshes(counter, gauge)
        self._standing = Standing()
        registry.register(self._standing)

    def _declare_ticks(self, counter: Counters, gauge: Gauges) -> None:
        ticks = counter("canary_controller_ticks", "Ticks, by how they went.", ("result",))
        self._ticked = {True: ticks.labels("well"), False: ticks.labels("trouble")}
        self._tick_s = Histogram(
            "canary_controller_tick_seconds", "How long a tick took.",
            buckets=_TICK_S, registry=self.registry,
        )  # fmt: skip
        self._lag_s = gauge(
            "canary_controller_lag_seconds", "By how much the newest tick was late for the next."
        )
        self._lease = gauge(
            "canary_controller_lease_held", "1 while this controller holds the lease and acts."
        )
        self._token = gauge(
            "canary_controller_fencing_token", "Fencing token of the lease held last."
        )

    def _declare_releases(self, counter: Counters, gauge: Gauges) -> None:
        releases = gauge(
            "canary_controller_releases", "Releases seen to, by the judge's newest verdict.",
            ("verdict",),
        )  # fmt: skip
        self._by_verdict = {
            verdict: releases.labels(verdict or "none") for verdict in ("", *Verdict)
        }
        self._writes = counter(
            "canary_controller_writes", "Changes of policies, by action and by how they went.",
            ("action", "result"),
        )  # fmt: skip
        self._records = counter("canary_controller_records", "Records written.", ("result",))
        self._messages = counter(
            "canary_controller_messages",
            "Alerts over channels: delivered, failed (tried again), lost.",
            ("channel", "result"),
        )

    def _declare_meshes(self, counter: Counters, gauge: Gauges) -> None:
        self._mesh_looks = counter(
            "canary_controller_mesh_looks",
            "Looks at the routes of a service key's mesh, by how they stood.",
            (*_MESH, "standing"),
        )
        self._mesh_drift = counter(
            "canary_controller_mesh_drift",
            "Looks that found routes which somebody else had changed.",
            _MESH,
        )
        self._mesh_in_step = gauge(
            "canary_controller_mesh_in_step",
            "1 if the mesh was in step with its release at the newest look, else 0.",
            _MESH,
        )
        self._mesh_weight = gauge(
            "canary_controller_mesh_weight_ratio",
            "Share of requests that the mesh gives the canary by weight, as far as is known.",
            _MESH,
        )
        self._mesh_wanted = gauge(
            "canary_controller_mesh_wanted_ratio",
            "Share that the release gives the canary: no mesh should give it more.",
            _MESH,
        )

    def mesh_looked(self, service_key: str, seen: Seen) -> None:
        """See mesh.following.Counts."""
        self._mesh_looks.labels(service_key, seen.kept.standing).inc()
        self._mesh_drift.labels(service_key).inc(bool(seen.kept.drift))
        self._mesh_in_step.labels(service_key).set(seen.kept.may_rise)
        self._mesh_wanted.labels(service_key).set(seen.wanted / BUCKETS)
        if seen.share is not None:
            self._mesh_weight.labels(service_key).set(seen.share / BUCKETS)

    def meshes_forgotten(self) -> None:
        """See mesh.following.Counts."""
        for gauge in (self._mesh_in_step, self._mesh_weight, self._mesh_wanted):
            gauge.clear()

    def ticked(self, took_s: float, *, is_well: bool) -> None:
        """A tick is over."""
        self._ticked[is_well].inc()
        self._tick_s.observe(took_s)

    def late(self, lag_s: float) -> None:
        """By how much the next tick is late."""
        self._lag_s.set(lag_s)

    def lease(self, *, is_held: bool, token: int) -> None:
        """Whether this controller acts."""
        self._lease.set(is_held)
        self._token.set(token)

    def releases(self, shown: Sequence[Shown]) -> None:
        """How each release stands."""
        self._standing.show(shown)
        found = Count(str(one.record.verdict) for one in shown)
        for verdict, gauge in self._by_verdict.items():
            gauge.set(found[verdict])

    def wrote(self, do: Do, result: str) -> None:
        """A change was made, lost a race, was refused or cannot be told of."""
        self._writes.labels(do, result).inc()

    def noted(self, result: str) -> None:
        """A record was written or not."""
        self._records.labels(result).inc()

    def delivered(self, channel: str) -> None:
        """See notify.Counts."""
        self._messages.labels(channel, "delivered").inc()

    def failed(self, channel: str) -> None:
        """See notify.Counts."""
        self._messages.labels(channel, "failed").inc()

    def lost(self, channel: str) -> None:
        """See notify.Counts."""
        self._messages.labels(channel, "lost").inc()
