"""Whom a release has served."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from contextlib import suppress
from typing import Any

from canary.admin.v1 import admin_pb2 as pb

from decision_svc.errors import BadRequest, NotFound
from decision_svc.exposure.protocol import KEPT_S, Served
from decision_svc.records.protocol import RecordKey
from decision_svc.rpc.admin.parts import Calls, Context
from decision_svc.rpc.convert import VARIANTS
from decision_svc.store.protocol import StoreError

MAX_ID = 255
KEPT_DAYS = KEPT_S // 86_400


class ExposureCalls(Calls):
    """How many users each variant has served, and which."""

    async def GetExposure(self, request: pb.GetExposureRequest, context: Context) -> Any:
        if len(request.release_id) > MAX_ID:
            raise BadRequest(f"release_id: at most {MAX_ID} characters")
        release_id = request.release_id or self._parts.latest_release(request.service_key).id
        # What this replica has not told yet; the others tell within a second.
        with suppress(StoreError):
            await self._parts.exposure.flush()
        answer = pb.GetExposureResponse(release_id=release_id)
        for variant, number in VARIANTS.items():
            served = Served(request.service_key, release_id, variant)
            exposure = answer.exposures.add(
                variant=number, users=await self._parts.exposed.exposed(served)
            )
            if request.with_users:
                exposure.hashed_users.extend(await self._parts.exposed.exposed_users(served))
        if not any(exposure.users for exposure in answer.exposures):
            await self._check_known(request.service_key, release_id)
        return answer

    async def _check_known(self, service_key: str, release_id: str) -> None:
        """Raise NotFound where nothing is known of a release."""
        policy, _ = await self._parts.current(service_key)
        if policy is not None and policy.release is not None and policy.release.id == release_id:
            return
        if await self._parts.records.get(RecordKey(service_key, release_id)) is None:
            raise NotFound(
                f"release_id: nobody was counted for release {release_id!r} of {service_key!r}, "
                "and nothing is noted of it: canaryctl audit list --changes has the ids, "
                f"and what was counted is kept for {KEPT_DAYS} days"
            )
