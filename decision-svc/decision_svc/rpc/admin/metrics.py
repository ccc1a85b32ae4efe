"""Metrics: what others report, and how the sides of a release compare."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from typing import Any

from canary.admin.v1 import admin_pb2 as pb

from decision_svc.comparing import compared
from decision_svc.errors import BadRequest, NotFound
from decision_svc.rpc import metric_snapshots
from decision_svc.rpc.admin.parts import Calls, Context
from decision_svc.rpc.outcomes import COHORTS

DEFAULT_WINDOW_S = 300


class MetricCalls(Calls):
    """Takes metrics over, and shows them."""

    async def ReportMetrics(self, request: pb.ReportMetricsRequest, context: Context) -> Any:
        policy = self._policy(request.service_key)
        samples = metric_snapshots.samples(request, policy, self._parts.decider.now())
        key, reported = request.service_key, self._parts.reported
        is_new = await reported.add(key, request.report_id, samples)
        return pb.ReportMetricsResponse(accepted=len(samples) if is_new else 0)

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Context) -> Any:
        parts, key = self._parts, request.service_key
        policy, window_s = self._policy(key), request.window_s or DEFAULT_WINDOW_S
        if window_s > parts.outcomes.kept_s:
            raise BadRequest(f"window_s: at most {parts.outcomes.kept_s:,}")
        if policy.release is None:
            return pb.GetMetricsResponse()
        tallies = await parts.outcomes.read(key, window_s)
        reported = await parts.reported.read(key, window_s)
        now = parts.decider.now().timestamp()
        found = compared(policy, policy.release, tallies, reported, now=now, window_s=window_s)
        return pb.GetMetricsResponse(
            release_id=policy.release.id,
            cohorts=[
                pb.CohortMetrics(
                    cohort=COHORTS[one.cohort],
                    version=one.version,
                    metrics=metric_snapshots.snapshot_message(one.metrics),
                )
                for one in found
            ],
        )

    def _policy(self, service_key: str) -> Any:
        self._parts.snapshot.check_loaded()
        policy = self._parts.snapshot.get(service_key)
        if policy is None:
            raise NotFound(f"there is no policy of {service_key!r}")
        return policy
