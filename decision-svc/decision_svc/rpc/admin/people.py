"""Profiles and members."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from typing import Any

import structlog
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_documents import to_document, to_message
from canary_engine.diff import differences
from canary_engine.model import Profile
from canary_engine.pseudonyms import Hash

from decision_svc.audit import GENERAL, changes_told
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
        await self._note_profile("put a profile", request, user, profile)
        await self._parts.people.put_profile(user, profile)
        _log_profile("put", request)
        return pb.PutProfileResponse()

    async def RemoveProfile(self, request: pb.RemoveProfileRequest, context: Context) -> Any:
        _checked_who(request)
        if not request.user:
            raise BadRequest("user: give the user id")
        await self._note_profile("remove a profile", request, request.user, None)
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

    async def _note_profile(
        self, summary: str, request: Any, user: str, after: Profile | None
    ) -> None:
        """Write down who changes what is known of a user, not what it is."""
        before = await self._profile_before(user)

        def told(hash_: Hash) -> dict[str, Any]:
            found = differences(_hashed(before, hash_), _hashed(after, hash_))
            return {"user": hash_(user), **changes_told(found)}

        who = self._who(request)
        await self._parts.audit.note(GENERAL, who.actor, who.reason, summary, told)

    async def _profile_before(self, user: str) -> Profile | None:
        try:
            return await self._parts.people.profile(user)
        except StoreUnavailable:
            raise
        except StoreError:
            return None  # Something else than this service wrote it, and it is replaced now.


def _hashed(profile: Profile | None, hash_: Hash) -> dict[str, Any]:
    """The profile with every value hashed, for all of them are personal."""
    if profile is None:
        return {}
    document = profile_document("", profile)
    return {name: _mask(value, hash_) for name, value in document.items() if name != "user"}


def _mask(value: Any, hash_: Hash) -> Any:
    match value:
        case dict():
            return {name: _mask(item, hash_) for name, item in value.items()}
        case list():
            return [_mask(item, hash_) for item in value]
        case _:
            return hash_(str(value))


def _checked_who(request: Any) -> None:
    Who(actor=request.actor, reason=request.reason).check()


def _log_profile(what: str, request: Any) -> None:
    """Say who and why; whose profile it is stays out of the log."""
    log.info(f"profile {what}", actor=request.actor, reason=request.reason)
