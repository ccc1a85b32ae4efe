"""Rules, whitelist, segments, flags, and how users are found."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from typing import Any

from canary.admin.v1 import admin_pb2 as pb
from canary_documents import to_document

from decision_svc import changes
from decision_svc.rpc.admin.parts import Calls, Context


class RuleCalls(Calls):
    """Who gets the canary besides the percentage."""

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
