"""Profiles and members."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from typing import Any

import structlog
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_documents import to_document, to_message

from decision_svc.editor import Who
from decision_svc.errors import BadRequest, NotFound
from decision_svc.profiles import profile_document, profile_of
from decision_svc.rpc.admin.parts import Calls, Context
from decision_svc.store.protocol import StoreError, StoreUnavailable

log = structlog.get_logger()


class PeopleCalls(Calls):
    """What is known of users besides their requests."""

    async def PutProfile(self, request: pb.PutProfileRequest, context: Context) -> Any:
        _checked_who(request)
        user, profile = profile_of(to_document(request.profile))
        await self._parts.people.put_profile(user, profile)
        _log_profile("put", request)
        return pb.PutProfileResponse()

    async def RemoveProfile(self, request: pb.RemoveProfileRequest, context: Context) -> Any:
        _checked_who(request)
        if not request.user:
            raise BadRequest("user: give the user id")
        await self._parts.people.put_profile(request.user, None)
        _log_profile("removed", request)
        return pb.RemoveProfileResponse()

    async def GetProfile(self, request: pb.GetProfileRequest, context: Context) -> Any:
        profile = await self._parts.people.profile(request.user)
        if profile is None:
            raise NotFound(f"there is no profile of user {request.user!r}")
        document = profile_document(request.user, profile)
        return pb.GetProfileResponse(profile=to_message(document, policy_pb2.Profile))

    async def ListMembers(self, request: pb.ListMembersRequest, context: Context) -> Any:
        policy = self._parts.snapshot.get(request.service_key)
        if policy is None or request.segment not in {s.name for s in policy.segments}:
            raise NotFound(f"{request.service_key!r} has no segment {request.segment!r}")
        try:
            users, cursor, total = await self._parts.people.members(
                request.service_key, request.segment, request.page_token
            )
        except StoreUnavailable:
            raise
        except StoreError as error:
            if not request.page_token:
                raise
            raise BadRequest(f"page_token: give the token of the page before: {error}") from error
        return pb.ListMembersResponse(users=users, next_page_token=cursor, total=total)


def _checked_who(request: Any) -> None:
    Who(actor=request.actor, reason=request.reason).check()


def _log_profile(what: str, request: Any) -> None:
    """Say who and why; whose profile it is stays out of the log."""
    log.info(f"profile {what}", actor=request.actor, reason=request.reason)
