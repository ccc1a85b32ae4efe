"""What there is, and why a request goes where it goes."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from datetime import UTC
from typing import Any

from canary.admin.v1 import admin_pb2 as pb
from canary.decision.v1 import decision_pb2
from canary_documents import to_message
from canary_engine import parse
from canary_engine.baseline import in_force
from canary_engine.model import Policy, VersionStatus

from decision_svc.access import caller
from decision_svc.access.caller import Role
from decision_svc.baselines import InContact
from decision_svc.documents import stored_policy
from decision_svc.errors import BadRequest, NotFound
from decision_svc.rpc import convert
from decision_svc.rpc import outcomes as outcome_messages
from decision_svc.rpc.admin.parts import Calls, Context
from decision_svc.store.protocol import KEPT_REVISIONS


class LookingCalls(Calls):
    """Calls that change nothing."""

    async def ListServices(self, request: pb.ListServicesRequest, context: Context) -> Any:
        self._parts.snapshot.check_loaded()
        policies = sorted(self._parts.snapshot.policies().items())
        return pb.ListServicesResponse(
            services=[_summary(policy) for key, policy in policies if _may_see(key)]
        )

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Context) -> Any:
        if request.revision:
            return pb.GetPolicyResponse(policy=convert.policy_message(await self._kept(request)))
        policy, is_lost = await self._parts.current(request.service_key)
        if policy is None:
            raise await self._no_policy(request)
        return pb.GetPolicyResponse(policy=convert.policy_message(policy), is_lost=is_lost)

    async def _kept(self, request: pb.GetPolicyRequest) -> Policy:
        document = await self._parts.policies.load(request.service_key, request.revision)
        if document is None:
            raise await self._no_policy(request)
        return stored_policy(request.service_key, document)

    async def _no_policy(self, request: pb.GetPolicyRequest) -> NotFound:
        """Why there is no such policy: it never was, or it is no longer kept."""
        service_key, revision = request.service_key, request.revision
        at = f" at revision {revision}" if revision else ""
        newest = await self._parts.policies.load(service_key) if revision else None
        if newest is not None and 0 < revision < newest["revision"]:
            return NotFound(
                f"revision {revision} of {service_key!r} is no longer kept: the newest "
                f"{KEPT_REVISIONS:,} are; the audit trail says what it changed"
            )
        return NotFound(f"there is no policy of {service_key!r}{at}")

    async def GetEffectivePolicy(
        self, request: pb.GetEffectivePolicyRequest, context: Context
    ) -> Any:
        self._parts.snapshot.check_loaded()
        in_contact = list(self._parts.baselines.in_contact(request.service_key))
        effective = [self._effective(request.service_key, found) for found in in_contact]
        return pb.GetEffectivePolicyResponse(
            policies=effective or [self._effective(request.service_key, None)]
        )

    async def ListBaselines(self, request: pb.ListBaselinesRequest, context: Context) -> Any:
        found = self._parts.baselines.in_contact(request.service_key)
        return pb.ListBaselinesResponse(
            baselines=[_baseline(one) for one in found if _may_see(one.policy.service_key)]
        )

    async def ListChanges(self, request: pb.ListChangesRequest, context: Context) -> Any:
        limit = request.limit or 50
        if limit > 1_000:
            raise BadRequest("limit: give 1 to 1,000")
        records = await self._parts.policies.changes(
            request.service_key, request.before_revision or None, limit
        )
        if not records:
            await self._parts.check_known(request.service_key)
        found = []
        for record in records:
            message = pb.ChangeRecord(
                revision=record.revision,
                actor=record.actor,
                reason=record.reason,
                summary=record.summary,
            )
            message.at.FromDatetime(record.at)
            found.append(message)
        return pb.ListChangesResponse(changes=found)

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> Any:
        asked = request.request
        if asked.HasField("baseline"):
            document = convert.policy_document(asked.baseline.policy)
            self._parts.baselines.learn(asked.baseline.hash, document)
        at = request.at.ToDatetime(tzinfo=UTC) if request.HasField("at") else None
        decision, findings, why = await self._parts.decider.explain(convert.question(asked), at)
        stages = [
            pb.Stage(
                reason=convert.REASONS[found.reason],
                finding=found.finding,
                decided=found.decided,
            )
            for found in findings
        ]
        return pb.ExplainResponse(decision=convert.decision(decision), stages=stages, in_force=why)

    async def ListOutcomes(self, request: pb.ListOutcomesRequest, context: Context) -> Any:
        window_s = outcome_messages.window_s(request, self._parts.outcomes.kept_s)
        key = request.service_key
        found = await self._parts.outcomes.read(key, window_s)
        if not found and not (self._parts.snapshot.get(key) or self._parts.baselines.declares(key)):
            raise NotFound(f"service_key: nobody declares {key!r}")
        return outcome_messages.listed(found)

    def _effective(self, service_key: str, found: InContact | None) -> pb.EffectivePolicy:
        stored = self._parts.snapshot.get(service_key)
        ruling = in_force(service_key, stored, found.policy if found else None)
        return pb.EffectivePolicy(
            baseline_hash=found.hash if found else "",
            gateways=found.gateways if found else (),
            is_baseline=ruling.is_baseline,
            why=ruling.why,
            policy=convert.policy_message(ruling.policy),
        )


def _may_see(service_key: str) -> bool:
    """Whether the caller may look at it: lists of all are lists of what they may see."""
    return caller.current().may(Role.VIEWER, service_key)


def _summary(policy: Policy) -> pb.ServiceSummary:
    stable = policy.version_with(VersionStatus.STABLE)
    message = pb.ServiceSummary(
        service_key=policy.service_key,
        revision=policy.revision,
        stable_version=stable.version if stable else "",
    )
    if policy.release is not None:
        document = parse.document(policy.release)
        message.release.CopyFrom(to_message(document, type(message.release)))
    return message


def _baseline(found: InContact) -> pb.BaselineInContact:
    baseline = decision_pb2.Baseline(hash=found.hash, policy=convert.policy_message(found.policy))
    return pb.BaselineInContact(baseline=baseline, gateways=found.gateways)
