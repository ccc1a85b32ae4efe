"""Overrides: tokens for testers."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from typing import Any

import structlog
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_engine import parse
from canary_engine.model import Variant
from canary_engine.pseudonyms import Hash, address_of_one, hashing

from decision_svc import overrides
from decision_svc.audit import salt_of
from decision_svc.editor import LOOKED_THROUGH
from decision_svc.errors import BadRequest, NotFound, OverrideRefused
from decision_svc.overrides import EVERY, Named, Signed
from decision_svc.rpc.admin.parts import Calls, Context, digest_of

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
        policy, _ = await self._parts.current(change.service_key)
        if policy is None:
            raise NotFound(f"there is no policy of {change.service_key!r}")
        variant = _VARIANTS[request.variant]
        named = await self._named(request)
        signed = signer.sign(
            change.service_key, variant, request.valid_s, request.user, request.cidr, named
        )
        if named.expires_at is not None:
            return _answer(policy.revision, signed)
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
        return _answer(revision, signed)

    async def _named(self, request: pb.CreateOverrideRequest) -> Named:
        """What a request with an idempotency key has made already, or will make."""
        change, links = request.change, self._parts.links
        id_ = overrides.id_of(change.service_key, change.idempotency_key)
        if not id_:
            return Named()
        tail = await links.tail(change.service_key)
        newest = max(tail.length - LOOKED_THROUGH, 0)
        found = await links.links(change.service_key, newest, LOOKED_THROUGH)
        mark = _mark(request, hashing(salt_of(tail)))
        return Named(id=id_, expires_at=overrides.expiry_told(found, id_, mark))

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


def _answer(revision: int, signed: Signed) -> pb.CreateOverrideResponse:
    answer = pb.CreateOverrideResponse(revision=revision, id=signed.id, token=signed.token)
    answer.expires_at.FromDatetime(signed.expires_at)
    return answer


def _mark(request: pb.CreateOverrideRequest, hash_: Hash) -> str:
    """What stands for all that a request asks for."""
    return hash_(digest_of(request, request.change.actor))


def _told(request: pb.CreateOverrideRequest, signed: Signed, hash_: Hash) -> dict[str, Any]:
    """What the audit trail keeps of a token: never the token."""
    told: dict[str, Any] = {"id": signed.id, "expires_at": signed.expires_at.isoformat()}
    if request.change.idempotency_key:
        told["request"] = _mark(request, hash_)
    if request.user:
        told["user"] = hash_(request.user)
    if request.cidr:
        one = address_of_one(request.cidr)
        told["cidr"] = hash_(one) if one else request.cidr
    return {"override": told}
