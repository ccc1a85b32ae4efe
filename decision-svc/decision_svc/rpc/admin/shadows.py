"""Shadows: policies that are decided by and counted without acting."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from canary.admin.v1 import admin_pb2 as pb
from canary_documents import to_document, to_message
from canary_engine import parse

from decision_svc import changes
from decision_svc.errors import BadRequest, NotFound
from decision_svc.rpc import convert
from decision_svc.rpc.admin.parts import Calls, Context

DEFAULT_S, MAX_S = 86_400, 30 * 86_400


class ShadowCalls(Calls):
    """The life of a shadow, and what it shows."""

    async def SetShadow(self, request: pb.SetShadowRequest, context: Context) -> Any:
        valid_s = request.valid_s or DEFAULT_S
        if valid_s > MAX_S:
            raise BadRequest(f"valid_s: give 1 to {MAX_S:,} seconds")
        expires_at = datetime.now(UTC) + timedelta(seconds=valid_s)
        proposed = to_document(request.policy)
        proposed["service_key"] = proposed.get("service_key") or request.change.service_key
        proposed.pop("revision", None)
        written = expires_at.isoformat().replace("+00:00", "Z")
        shadow = {"policy": proposed, "expires_at": written}
        edit = changes.replace("shadow", shadow)
        revision = await self._change(request, edit, f"set a shadow for {valid_s:,} s")
        response = pb.SetShadowResponse(revision=revision)
        response.expires_at.FromDatetime(expires_at)
        return response

    async def RemoveShadow(self, request: pb.RemoveShadowRequest, context: Context) -> Any:
        edit = changes.replace("shadow", None)
        revision = await self._change(request, edit, "remove the shadow")
        return pb.RemoveShadowResponse(revision=revision)

    async def GetShadow(self, request: pb.GetShadowRequest, context: Context) -> Any:
        policy = self._parts.snapshot.get(request.service_key)
        shadow = policy.shadow if policy is not None else None
        if shadow is None:
            raise NotFound(f"{request.service_key!r} has no shadow")
        counts = self._parts.decider.shadows.counts(request.service_key, shadow.expires_at)
        response = pb.GetShadowResponse(
            policy=to_message(parse.document(shadow.policy), type(pb.GetShadowResponse().policy)),
            counts=[
                pb.ShadowCount(
                    in_force=convert.VARIANTS[pair.in_force],
                    in_force_reason=convert.REASONS[pair.in_force_reason],
                    shadow=convert.VARIANTS[pair.shadow],
                    shadow_reason=convert.REASONS[pair.shadow_reason],
                    requests=requests,
                )
                for pair, requests in sorted(counts.items())
            ],
        )
        response.expires_at.FromDatetime(shadow.expires_at)
        return response
