"""The AdminService: what people and the controller call."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any

import grpc
import structlog
from canary.admin.v1 import admin_pb2 as pb
from canary.admin.v1 import admin_pb2_grpc
from canary.decision.v1 import decision_pb2
from canary.policy.v1 import policy_pb2
from canary_documents import to_document, to_message
from canary_engine import parse
from canary_engine.baseline import in_force
from canary_engine.model import Policy, Strategy, VersionStatus
from canary_engine.reading import Node

from decision_svc import changes
from decision_svc.baselines import Baselines, InContact
from decision_svc.decider import Decider
from decision_svc.documents import stored_policy
from decision_svc.editor import Editor, Who
from decision_svc.errors import BadRequest, NotFound
from decision_svc.outcomes.protocol import Outcomes
from decision_svc.profiles import profile_document, profile_of
from decision_svc.rpc import convert
from decision_svc.rpc import outcomes as outcome_messages
from decision_svc.snapshot import Snapshot
from decision_svc.store.protocol import PeopleStore, PolicyStore, StoreError, StoreUnavailable

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]


# ruff: noqa: N802 - the methods bear the proto's names


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Each write is an edit of the policy's document; see admin.proto for what it promises."""

    def __init__(
        self,
        editor: Editor,
        policies: PolicyStore,
        people: PeopleStore,
        snapshot: Snapshot,
        baselines: Baselines,
        decider: Decider,
        outcomes: Outcomes,
    ) -> None:
        self._editor, self._policies, self._people = editor, policies, people
        self._snapshot, self._baselines, self._decider = snapshot, baselines, decider
        self._outcomes = outcomes

    # Versions and releases

    async def RegisterVersion(self, request: pb.RegisterVersionRequest, context: Context) -> Any:
        version = to_document(request.version)
        return pb.RegisterVersionResponse(
            revision=await self._change(
                request,
                changes.register_version(version),
                f"register version {request.version.version}",
            )
        )

    async def DeprecateVersion(self, request: pb.DeprecateVersionRequest, context: Context) -> Any:
        edit = changes.deprecate_version(request.version)
        revision = await self._change(request, edit, f"deprecate version {request.version}")
        return pb.DeprecateVersionResponse(revision=revision)

    async def RemoveVersion(self, request: pb.RemoveVersionRequest, context: Context) -> Any:
        edit = changes.remove_version(request.version)
        revision = await self._change(request, edit, f"remove version {request.version}")
        return pb.RemoveVersionResponse(revision=revision)

    async def StartRelease(self, request: pb.StartReleaseRequest, context: Context) -> Any:
        share = _share(request.percentage)
        strategy = _strategy(to_document(request))
        edit = self._editor.start_release(request.version, share, strategy, request.salt)
        summary = f"start release of {request.version} at {parse.percentage(share)} %"
        return pb.StartReleaseResponse(revision=await self._change(request, edit, summary))

    async def SetPercentage(self, request: pb.SetPercentageRequest, context: Context) -> Any:
        share = _share(request.percentage)
        summary = f"set percentage to {parse.percentage(share)} %"
        edit = self._editor.set_percentage(share)
        return pb.SetPercentageResponse(revision=await self._change(request, edit, summary))

    async def EndRelease(self, request: pb.EndReleaseRequest, context: Context) -> Any:
        status = to_document(request).get("status", "unspecified")
        edit = self._editor.end_release(status)
        revision = await self._change(request, edit, f"end release: {status}")
        return pb.EndReleaseResponse(revision=revision)

    # Rules and whitelist

    async def SetRules(self, request: pb.SetRulesRequest, context: Context) -> Any:
        rules = [to_document(rule) for rule in request.rules]
        revision = await self._change(
            request, changes.replace("rules", rules), f"set {len(rules)} rules"
        )
        return pb.SetRulesResponse(revision=revision)

    async def AddRule(self, request: pb.AddRuleRequest, context: Context) -> Any:
        position = request.position if request.HasField("position") else None
        edit = changes.add_rule(to_document(request.rule), position)
        revision = await self._change(request, edit, f"add rule {request.rule.name}")
        return pb.AddRuleResponse(revision=revision)

    async def RemoveRule(self, request: pb.RemoveRuleRequest, context: Context) -> Any:
        edit = changes.remove("rules", request.name)
        revision = await self._change(request, edit, f"remove rule {request.name}")
        return pb.RemoveRuleResponse(revision=revision)

    async def SetWhitelist(self, request: pb.SetWhitelistRequest, context: Context) -> Any:
        edit = changes.replace("whitelist", to_document(request.whitelist))
        revision = await self._change(request, edit, "set the whitelist")
        return pb.SetWhitelistResponse(revision=revision)

    async def AddToWhitelist(self, request: pb.AddToWhitelistRequest, context: Context) -> Any:
        edit = changes.add_to_whitelist(to_document(request.entries))
        revision = await self._change(request, edit, "add to the whitelist")
        return pb.AddToWhitelistResponse(revision=revision)

    async def RemoveFromWhitelist(
        self, request: pb.RemoveFromWhitelistRequest, context: Context
    ) -> Any:
        edit = changes.remove_from_whitelist(to_document(request.entries))
        revision = await self._change(request, edit, "remove from the whitelist")
        return pb.RemoveFromWhitelistResponse(revision=revision)

    # Segments, members, flags

    async def PutSegment(self, request: pb.PutSegmentRequest, context: Context) -> Any:
        edit = changes.put_segment(to_document(request.segment))
        revision = await self._change(request, edit, f"put segment {request.segment.name}")
        return pb.PutSegmentResponse(revision=revision)

    async def RemoveSegment(self, request: pb.RemoveSegmentRequest, context: Context) -> Any:
        members = changes.member_edit(request.name, drop=True)
        edit = changes.remove_segment(request.name)
        revision = await self._change(request, edit, f"remove segment {request.name}", members)
        return pb.RemoveSegmentResponse(revision=revision)

    async def AddMembers(self, request: pb.AddMembersRequest, context: Context) -> Any:
        members = changes.member_edit(request.segment, add=tuple(request.users))
        edit = changes.change_members(request.segment, request.users)
        summary = f"add {len(request.users)} members to {request.segment}"
        revision = await self._change(request, edit, summary, members)
        return pb.AddMembersResponse(revision=revision)

    async def RemoveMembers(self, request: pb.RemoveMembersRequest, context: Context) -> Any:
        members = changes.member_edit(request.segment, remove=tuple(request.users))
        edit = changes.change_members(request.segment, request.users)
        summary = f"remove {len(request.users)} members from {request.segment}"
        revision = await self._change(request, edit, summary, members)
        return pb.RemoveMembersResponse(revision=revision)

    async def PutFlag(self, request: pb.PutFlagRequest, context: Context) -> Any:
        edit = changes.put("flags", to_document(request.flag))
        revision = await self._change(request, edit, f"put flag {request.flag.name}")
        return pb.PutFlagResponse(revision=revision)

    async def RemoveFlag(self, request: pb.RemoveFlagRequest, context: Context) -> Any:
        edit = changes.remove("flags", request.name)
        revision = await self._change(request, edit, f"remove flag {request.name}")
        return pb.RemoveFlagResponse(revision=revision)

    # How users are found, and compatibility

    async def SetBucketing(self, request: pb.SetBucketingRequest, context: Context) -> Any:
        edit = changes.replace("bucketing", to_document(request.bucketing))
        revision = await self._change(request, edit, "set how hash keys are found")
        return pb.SetBucketingResponse(revision=revision)

    async def SetIdentity(self, request: pb.SetIdentityRequest, context: Context) -> Any:
        edit = changes.replace("identity", to_document(request.identity))
        revision = await self._change(request, edit, "set how users are found")
        return pb.SetIdentityResponse(revision=revision)

    async def SetCompatibility(self, request: pb.SetCompatibilityRequest, context: Context) -> Any:
        edit = changes.replace("compatibility", to_document(request.compatibility))
        revision = await self._change(request, edit, "set compatibility rules")
        return pb.SetCompatibilityResponse(revision=revision)

    # Profiles and members

    async def PutProfile(self, request: pb.PutProfileRequest, context: Context) -> Any:
        _checked_who(request)
        user, profile = profile_of(to_document(request.profile))
        await self._people.put_profile(user, profile)
        _log_profile("put", request)
        return pb.PutProfileResponse()

    async def RemoveProfile(self, request: pb.RemoveProfileRequest, context: Context) -> Any:
        _checked_who(request)
        if not request.user:
            raise BadRequest("user: give the user id")
        await self._people.put_profile(request.user, None)
        _log_profile("removed", request)
        return pb.RemoveProfileResponse()

    async def GetProfile(self, request: pb.GetProfileRequest, context: Context) -> Any:
        profile = await self._people.profile(request.user)
        if profile is None:
            raise NotFound(f"there is no profile of user {request.user!r}")
        document = profile_document(request.user, profile)
        return pb.GetProfileResponse(profile=to_message(document, policy_pb2.Profile))

    async def ListMembers(self, request: pb.ListMembersRequest, context: Context) -> Any:
        policy = self._snapshot.get(request.service_key)
        if policy is None or request.segment not in {s.name for s in policy.segments}:
            raise NotFound(f"{request.service_key!r} has no segment {request.segment!r}")
        try:
            users, cursor, total = await self._people.members(
                request.service_key, request.segment, request.page_token
            )
        except StoreUnavailable:
            raise
        except StoreError as error:
            if not request.page_token:
                raise
            raise BadRequest(f"page_token: give the token of the page before: {error}") from error
        return pb.ListMembersResponse(users=users, next_page_token=cursor, total=total)

    # Looking

    async def ListServices(self, request: pb.ListServicesRequest, context: Context) -> Any:
        self._snapshot.check_loaded()
        policies = sorted(self._snapshot.policies().items())
        return pb.ListServicesResponse(services=[_summary(policy) for _, policy in policies])

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Context) -> Any:
        document = await self._policies.load(request.service_key, request.revision or None)
        if document is None:
            at = f" at revision {request.revision}" if request.revision else ""
            raise NotFound(f"there is no policy of {request.service_key!r}{at}")
        return pb.GetPolicyResponse(
            policy=convert.policy_message(stored_policy(request.service_key, document))
        )

    async def GetEffectivePolicy(
        self, request: pb.GetEffectivePolicyRequest, context: Context
    ) -> Any:
        self._snapshot.check_loaded()
        in_contact = list(self._baselines.in_contact(request.service_key))
        effective = [self._effective(request.service_key, found) for found in in_contact]
        return pb.GetEffectivePolicyResponse(
            policies=effective or [self._effective(request.service_key, None)]
        )

    async def ListBaselines(self, request: pb.ListBaselinesRequest, context: Context) -> Any:
        found = self._baselines.in_contact(request.service_key)
        return pb.ListBaselinesResponse(baselines=map(_baseline, found))

    async def ListChanges(self, request: pb.ListChangesRequest, context: Context) -> Any:
        limit = request.limit or 50
        if limit > 1_000:
            raise BadRequest("limit: give 1 to 1,000")
        records = await self._policies.changes(
            request.service_key, request.before_revision or None, limit
        )
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
            self._baselines.learn(asked.baseline.hash, document)
        at = request.at.ToDatetime(tzinfo=UTC) if request.HasField("at") else None
        decision, findings, why = await self._decider.explain(convert.question(asked), at)
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
        window_s = outcome_messages.window_s(request)
        key = request.service_key
        found = await self._outcomes.read(key, window_s)
        if not found and not (self._snapshot.get(key) or self._baselines.declares(key)):
            raise NotFound(f"service_key: nobody declares {key!r}")
        return outcome_messages.listed(found)

    async def _change(self, request: Any, edit: Any, summary: str, members: Any = ()) -> int:
        change = request.change
        expected = change.expected_revision if change.HasField("expected_revision") else None
        who = Who(actor=change.actor, reason=change.reason)
        return await self._editor.change(change.service_key, expected, who, summary, edit, members)

    def _effective(self, service_key: str, found: InContact | None) -> pb.EffectivePolicy:
        stored = self._snapshot.get(service_key)
        ruling = in_force(service_key, stored, found.policy if found else None)
        return pb.EffectivePolicy(
            baseline_hash=found.hash if found else "",
            gateways=found.gateways if found else (),
            is_baseline=ruling.is_baseline,
            why=ruling.why,
            policy=convert.policy_message(ruling.policy),
        )


def _share(value: float) -> int:
    complaints: list[str] = []
    share = Node({"percentage": value}, "", complaints).share("percentage")
    if share is None:
        raise BadRequest(*complaints)
    return share


def _strategy(document: Mapping[str, Any]) -> Strategy:
    complaints: list[str] = []
    strategy = Node(document, "", complaints).word("strategy", Strategy, Strategy.COMBINED)
    if complaints:
        raise BadRequest(*complaints)
    return strategy


def _checked_who(request: Any) -> None:
    Who(actor=request.actor, reason=request.reason).check()


def _log_profile(what: str, request: Any) -> None:
    """Say who and why; whose profile it is stays out of the log."""
    log.info(f"profile {what}", actor=request.actor, reason=request.reason)


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
