"""The admin API over gRPC: every call has a deadline, every failure is an AdminError."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary_engine.errors import InvalidPolicy
from canary_engine.metric_snapshot import MetricSnapshot
from canary_engine.model import Cohort, Policy, Variant
from canary_engine.record import ReleaseRecord

from canary_controller.admin import Counted, Known, Lease, News, Write
from canary_controller.errors import (
    AdminError,
    BadSettings,
    LostRace,
    Refused,
    Unknown,
    Unreachable,
    Unreadable,
)
from canary_controller.rpc import messages
from canary_controller.rpc.points import PointMessages

LEASE = "controller"
ACTOR = "controller"
MAX_REASON = 1_000
FOLLOW_TIMES = 3
"""What is new of a thousand releases may take longer than one change, by so much."""
LARGEST_BYTES = 256 * 1024 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]+\Z")
_OPTIONS = [
    ("grpc.max_receive_message_length", LARGEST_BYTES),
    ("grpc.max_send_message_length", LARGEST_BYTES),
    # A service that comes back is found within a look or two.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
_ERRORS: Mapping[grpc.StatusCode, type[AdminError]] = {
    grpc.StatusCode.ABORTED: LostRace,
    grpc.StatusCode.NOT_FOUND: Unknown,
    grpc.StatusCode.DATA_LOSS: Unreadable,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unreachable,
    grpc.StatusCode.CANCELLED: Unreachable,
}
"""All others are a refusal."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFiles:
    """Where the token, our certificate and the service's authority are; "" for none."""

    token: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""


class Client:
    """A connection to the admin API at ``address``; it is Leases, Admin, Policies and Figures."""

    def __init__(self, address: str, deadline_s: float, files: CredentialFiles) -> None:
        self._deadline_s, self._token_file = deadline_s, files.token
        self._channel = _channel(address, files)
        self.stub = admin_pb2_grpc.AdminServiceStub(self._channel)
        self._points = PointMessages()
        self._metadata()

    async def hold_lease(self, holder: str, valid_s: int) -> Lease:
        """See Leases."""
        request = admin_pb2.HoldLeaseRequest(name=LEASE, holder=holder, valid_s=valid_s)
        answer = await self.call(self.stub.HoldLease, request)
        return Lease(
            is_held=answer.is_held,
            holder=answer.holder,
            token=answer.token,
            left_s=answer.left_ms / 1_000,
        )

    async def drop_lease(self, holder: str) -> None:
        """See Leases."""
        request = admin_pb2.DropLeaseRequest(name=LEASE, holder=holder)
        await self.call(self.stub.DropLease, request)

    async def services(self) -> Sequence[str]:
        """See Admin."""
        answer = await self.call(self.stub.ListServices, admin_pb2.ListServicesRequest())
        return [found.service_key for found in answer.services]

    async def follow(self, known: Collection[Known]) -> News:
        """See Admin."""
        request = admin_pb2.FollowReleasesRequest(followed=map(messages.followed_message, known))
        patience_s = self._deadline_s * FOLLOW_TIMES
        return messages.news(await self.call(self.stub.FollowReleases, request, patience_s))

    async def write(self, write: Write) -> int:
        """See Admin."""
        action = write.action
        change = admin_pb2.Change(
            service_key=write.service_key,
            actor=ACTOR,
            reason=(action.why or action.because)[:MAX_REASON],
            expected_revision=write.revision,
            fencing_token=write.token,
        )
        if messages.is_percentage(action):
            assert action.share is not None, "it says which"
            percentage = admin_pb2.SetPercentageRequest(
                change=change, percentage=messages.percentage(action.share)
            )
            if action.control is not None:
                percentage.control = messages.percentage(action.control)
            return (await self.call(self.stub.SetPercentage, percentage)).revision
        request = admin_pb2.MoveReleaseRequest(
            change=change, move=messages.move(action.do), delay_s=action.delay_s
        )
        return (await self.call(self.stub.MoveRelease, request)).revision

    async def record(self, service_key: str, release_id: str) -> ReleaseRecord:
        """See Admin."""
        request = admin_pb2.GetRecordRequest(service_key=service_key, release_id=release_id)
        found = (await self.call(self.stub.GetRecord, request)).record
        try:
            return messages.record(found)
        except ValueError as error:  # a newer controller wrote it
            raise Unreadable(f"this controller cannot read it: {error}") from error

    async def put_record(self, record: ReleaseRecord) -> None:
        """See Admin."""
        message = messages.record_message(record, self._points.of(record))
        await self.call(self.stub.PutRecord, admin_pb2.PutRecordRequest(record=message))

    async def policy(self, service_key: str) -> Policy:
        """See Policies."""
        request = admin_pb2.GetPolicyRequest(service_key=service_key)
        try:
            return messages.policy((await self.call(self.stub.GetPolicy, request)).policy)
        except InvalidPolicy as error:
            raise Refused(f"this controller cannot read it: {error}") from error

    async def metrics(self, service_key: str, window_s: int) -> Mapping[Cohort, MetricSnapshot]:
        """See Figures."""
        request = admin_pb2.GetMetricsRequest(service_key=service_key, window_s=window_s)
        answer = await self.call(self.stub.GetMetrics, request)
        return {
            messages.COHORTS.get(found.cohort, Cohort.OTHER): messages.snapshot(found.metrics)
            for found in answer.cohorts
        }

    async def counted(self, service_key: str, window_s: int) -> Sequence[Counted]:
        """See Figures."""
        request = admin_pb2.ListOutcomesRequest(service_key=service_key, window_s=window_s)
        answer = await self.call(self.stub.ListOutcomes, request)
        return [
            Counted(
                version=found.version,
                variant=messages.VARIANTS.get(found.variant, Variant.STABLE),
                release_id=found.release_id,
                requests=found.requests,
                errors=found.errors,
            )
            for found in answer.outcomes
        ]

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()

    async def call(
        self,
        method: Callable[..., Awaitable[Answer]],
        request: Any,
        deadline_s: float | None = None,
    ) -> Answer:
        """The answer of one of the stub's methods, within the deadline. Raises AdminError."""
        timeout_s = self._deadline_s if deadline_s is None else deadline_s
        try:
            return await method(request, timeout=timeout_s, metadata=self._metadata())
        except BadSettings as error:  # the token's file is gone
            raise Refused(str(error)) from error
        except grpc.aio.AioRpcError as error:
            kind = _ERRORS.get(error.code(), Refused)
            raise kind(error.details() or error.code().name) from error
        except grpc.aio.UsageError as error:  # the channel was closed
            raise Unreachable(str(error)) from error

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """What is shown with every call; the file is read each time, for it may change."""
        if not self._token_file:
            return ()
        try:
            token = Path(self._token_file).read_text(errors="replace").strip()
        except OSError as error:
            raise BadSettings(f"--token-file: {error}") from error
        if not _TOKEN.match(token):
            raise BadSettings("--token-file: it holds no token, which is one word")
        return (("authorization", f"Bearer {token}"),)


def _channel(address: str, files: CredentialFiles) -> grpc.aio.Channel:
    if bool(files.certificate) != bool(files.key):
        raise BadSettings("--tls-cert, --tls-key: give both or none")
    if not (files.ca or files.certificate):
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    try:
        context = ssl.create_default_context(cafile=files.ca or None)
        if files.certificate:
            context.load_cert_chain(files.certificate, files.key, password="")
        paths = (files.ca, files.key, files.certificate)
        ca, key, certificate = (Path(path).read_bytes() if path else None for path in paths)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise BadSettings(f"--tls-ca, --tls-cert, --tls-key: {error}") from error
    chosen = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.aio.secure_channel(address, chosen, options=_OPTIONS)
