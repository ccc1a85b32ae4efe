"""What a controller needs: leases, records, and what is new of the releases it sees to."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

import asyncio
from typing import Any

from canary.admin.v1 import admin_pb2 as pb
from canary.record.v1 import record_pb2
from google.protobuf.message import DecodeError

from decision_svc.errors import BadRequest, NotFound
from decision_svc.following import Followed, Known
from decision_svc.records.protocol import Record, RecordKey
from decision_svc.rpc import convert
from decision_svc.rpc import outcomes as outcome_messages
from decision_svc.rpc.admin.parts import Calls, Context
from decision_svc.store.protocol import StoreError

MAX_NAME = 255
MAX_VALID_S = 300
MAX_RECORD = 1 << 20
MAX_FOLLOWED = 20_000
MAX_SLOTS = 1_440
_MESSAGES_AT_ONCE = 10


class ControlCalls(Calls):
    """Calls of the controller."""

    async def HoldLease(self, request: pb.HoldLeaseRequest, context: Context) -> Any:
        complaints = [*_unnamed(request, "name", "holder")]
        if not 1 <= request.valid_s <= MAX_VALID_S:
            complaints.append(f"valid_s: give 1 to {MAX_VALID_S} seconds")
        if complaints:
            raise BadRequest(*complaints)
        lease = await self._parts.leases.hold(request.name, request.holder, request.valid_s)
        return pb.HoldLeaseResponse(
            is_held=lease.holder == request.holder,
            holder=lease.holder,
            token=lease.token,
            left_ms=max(lease.left_ms, 0),
        )

    async def DropLease(self, request: pb.DropLeaseRequest, context: Context) -> Any:
        if complaints := _unnamed(request, "name", "holder"):
            raise BadRequest(*complaints)
        await self._parts.leases.drop(request.name, request.holder)
        return pb.DropLeaseResponse()

    async def PutRecord(self, request: pb.PutRecordRequest, context: Context) -> Any:
        record = request.record
        data = record.SerializeToString(deterministic=True)
        if complaints := _record_complaints(record, data):
            raise BadRequest(*complaints)
        self._parts.snapshot.check_loaded()
        if self._parts.snapshot.get(record.service_key) is None:
            raise NotFound(f"there is no policy of {record.service_key!r}")
        await self._parts.records.put(
            RecordKey(record.service_key, record.release_id),
            Record(data=data, fence=record.fence, is_closed=record.is_closed),
        )
        return pb.PutRecordResponse()

    async def GetRecord(self, request: pb.GetRecordRequest, context: Context) -> Any:
        key = request.service_key
        release_id = request.release_id or self._parts.latest_release(key).id
        if len(release_id) > MAX_NAME:
            raise BadRequest(f"release_id: at most {MAX_NAME} characters")
        found = await self._parts.records.get(RecordKey(key, release_id))
        if found is None:
            raise NotFound(f"nothing is noted of release {release_id!r} of {key!r}")
        try:
            record = record_pb2.ReleaseRecord.FromString(found.data)
        except DecodeError as error:
            raise StoreError(f"the record of release {release_id} cannot be read") from error
        return pb.GetRecordResponse(record=record)

    async def FollowReleases(self, request: pb.FollowReleasesRequest, context: Context) -> Any:
        if len(request.followed) > MAX_FOLLOWED:
            raise BadRequest(f"followed: at most {MAX_FOLLOWED:,}")
        self._parts.snapshot.check_loaded()
        if any(len(f.requests) > MAX_SLOTS for f in request.followed):
            raise BadRequest(f"followed.requests: those of at most {MAX_SLOTS} slots")
        known = {f.service_key: Known(f.revision, f.slot, f.requests) for f in request.followed}
        response = pb.FollowReleasesResponse()
        response.now.FromDatetime(self._parts.following.now())
        async for followed in self._parts.following.follow(known):
            _write(followed, response.releases.add())
            if len(response.releases) % _MESSAGES_AT_ONCE == 0:
                await asyncio.sleep(0)  # decisions are waiting
        return response


def _write(followed: Followed, message: pb.FollowedRelease) -> None:
    policy, found = followed.policy, followed.found
    message.service_key, message.revision = policy.service_key, policy.revision
    if followed.is_new:
        message.policy.CopyFrom(convert.policy_message(policy))
    for slot, labels, tally in found.slots:
        outcome_messages.write_series(labels, tally, message.outcomes.add(slot=slot).series)
    if found.has_more:
        message.more_after = found.until


def _unnamed(request: Any, *names: str) -> list[str]:
    return [
        f"{name}: give one of 1 to {MAX_NAME} characters"
        for name in names
        if not 0 < len(getattr(request, name)) <= MAX_NAME
    ]


def _record_complaints(record: record_pb2.ReleaseRecord, data: bytes) -> list[str]:
    complaints = [
        f"record.{complaint}" for complaint in _unnamed(record, "service_key", "release_id")
    ]
    if record.fence < 1:
        complaints.append("record.fence: give the fencing token of the lease")
    if len(data) > MAX_RECORD:
        complaints.append(
            f"record: it has {len(data):,} bytes, give at most {MAX_RECORD:,}: thin the points out"
        )
    return complaints
