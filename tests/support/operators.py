"""An operator for async tests: changes the policy of one service key, by documents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary.policy.v1 import policy_pb2
from canary_documents import to_message
from decision_svc.app import Running

from support.kong_side import KEY
from support.waiting import WITHIN_S


class Admin:
    """An operator: changes the policy of one service key."""

    def __init__(self, address: str, service_key: str = KEY) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = admin_pb2_grpc.AdminServiceStub(self._channel)
        self._change = {"service_key": service_key, "actor": "kim", "reason": "a test"}

    async def close(self) -> None:
        await self._channel.close()

    async def do(self, method: str, **fields: Any) -> None:
        """One admin call; the fields as a document."""
        message = to_message(
            {"change": self._change, **fields}, getattr(admin_pb2, f"{method}Request")
        )
        await getattr(self._stub, method)(message, timeout=WITHIN_S)

    async def policy(self) -> policy_pb2.Policy:
        """The stored policy."""
        request = admin_pb2.GetPolicyRequest(service_key=KEY)
        return (await self._stub.GetPolicy(request, timeout=WITHIN_S)).policy

    async def profile(self, user: str, **fields: Any) -> None:
        """Put a user's profile."""
        document = {"profile": {"user": user, **fields}, "actor": "kim", "reason": "a test"}
        message = to_message(document, admin_pb2.PutProfileRequest)
        await self._stub.PutProfile(message, timeout=WITHIN_S)

    async def revision(self) -> int:
        """The revision of the stored policy."""
        request = admin_pb2.GetPolicyRequest(service_key=self._change["service_key"])
        response = await self._stub.GetPolicy(request, timeout=WITHIN_S)
        return int(response.policy.revision)

    async def baselines(self) -> list[policy_pb2.Policy]:
        """The baselines of the gateways in contact."""
        request = admin_pb2.ListBaselinesRequest()
        response = await self._stub.ListBaselines(request, timeout=WITHIN_S)
        return [b.baseline.policy for b in response.baselines]

    async def release(
        self, percentage: float, backend: Any = None, stable_backend: Any = None
    ) -> None:
        """Register v1 as stable and v2 as canary, and release v2."""
        stable = {"version": "v1", "status": "stable", "backend": stable_backend or {}}
        canary = {"version": "v2", "backend": backend or {"upstream": "v2-upstream"}}
        await self.do("RegisterVersion", version=stable)
        await self.do("RegisterVersion", version=canary)
        await self.do("StartRelease", version="v2", percentage=percentage, salt="salt")


@asynccontextmanager
async def administering(service: Running) -> AsyncIterator[Admin]:
    """An operator at a service."""
    admin = Admin(service.admin_address)
    try:
        yield admin
    finally:
        await admin.close()
