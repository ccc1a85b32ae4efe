"""Who the caller is."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from typing import Any

from canary.admin.v1 import admin_pb2 as pb

from decision_svc.access import caller
from decision_svc.rpc.admin.parts import Calls, Context


class AccessCalls(Calls):
    """What callers may ask about themselves."""

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Context) -> Any:
        found = caller.current()
        roles = {key: str(role) for key, role in found.roles.items()}
        return pb.WhoAmIResponse(name=found.name, roles=roles, insecure=found.is_insecure)
