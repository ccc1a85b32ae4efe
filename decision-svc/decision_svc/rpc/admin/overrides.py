"""Overrides: tokens for testers."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from typing import Any

import structlog
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_engine import parse
from canary_engine.model import Variant
from canary_engine.pseudonyms import Hash, address_of_one

from decision_svc import overrides
from decision_svc.errors import BadRequest, NotFound, OverrideRefused
from decision_svc.overrides import EVERY, Signed
from decision_svc.rpc.admin.parts import Calls, Context

log = structlog.get_logger()

_VARIANTS = {
    policy_pb2.VARIANT_STABLE: Variant.STABLE,
    policy_pb2.VARIANT_CANARY: Variant.CANARY,
}


class OverrideCalls(Calls):
    """Tokens that force a variant. A token is in one answer, and in no log and no store."""

    async def CreateOverride(self, request: pb.CreateOverrideRequest, context: Context) -> Any:
        signer, change = self._parts.signer, request.change
        if signer is None:
            raise OverrideRefused(
                "this service has no key to sign with: make one with canaryctl override keygen "
                "and start every replica with --override-key FILE"
            )
        if request.variant not in _VARIANTS:
            raise BadRequest("variant: give stable or canary")
        if (await self._parts.current(change.service_key))[0] is None:
            raise NotFound(f"there is no policy of {change.service_key!r}")
        variant = _VARIANTS[request.variant]
        signed = signer.sign(
            change.service_key, variant, request.valid_s, request.user, request.cidr
        )
        edit = overrides.believe(signer.public_key)
        revision = await self._change(request, edit, f"create override {signed.id} for {variant}")
        # Where the policy knows the key already, no revision says that there is another token.
        who = self._who(change)
        await self._parts.audit.note(
            change.service_key,
            who.actor,
            who.reason,
            f"create override {signed.id} for {variant}",
            lambda hash_: _told(request, signed, hash_),
        )
        log.info(
            "override created",
            service_key=change.service_key,
            id=signed.id,
            variant=str(variant),
            expires_at=signed.expires_at.isoformat(),
            actor=change.actor,
            reason=change.reason,
        )
        answer = pb.CreateOverrideResponse(revision=revision, id=signed.id, token=signed.token)
        answer.expires_at.FromDatetime(signed.expires_at)
        return answer

    async def RevokeOverride(self, request: pb.RevokeOverrideRequest, context: Context) -> Any:
        if request.id == EVERY:
            revision = await self._change(request, overrides.believe_none(), "revoke all overrides")
            return pb.RevokeOverrideResponse(revision=revision)
        service_key, now = request.change.service_key, self._parts.decider.now()
        policy, _ = await self._parts.current(service_key)
        if policy is None:
            raise NotFound(f"there is no policy of {service_key!r}")
        id_, expires_at = overrides.named(request.id, parse.document(policy), now)
        edit = overrides.revoke(id_, expires_at, now)
        revision = await self._change(request, edit, f"revoke override {id_}")
        return pb.RevokeOverrideResponse(revision=revision)

    async def SetOverrides(self, request: pb.SetOverridesRequest, context: Context) -> Any:
        edit = overrides.look_in(request.header, request.cookie)
        revision = await self._change(request, edit, "set where overrides are looked for")
        return pb.SetOverridesResponse(revision=revision)


def _told(request: pb.CreateOverrideRequest, signed: Signed, hash_: Hash) -> dict[str, Any]:
    """What the audit trail keeps of a token: never the token."""
    told: dict[str, Any] = {"id": signed.id, "expires_at": signed.expires_at.isoformat()}
    if request.user:
        told["user"] = hash_(request.user)
    if request.cidr:
        one = address_of_one(request.cidr)
        told["cidr"] = hash_(one) if one else request.cidr
    return {"override": told}
