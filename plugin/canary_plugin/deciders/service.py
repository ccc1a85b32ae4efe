"""The decision service's addresses: one channel each, with the options that outages taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary_engine.errors import CanaryError
from canary_engine.model import Person

from canary_plugin.deciders import messages

if TYPE_CHECKING:
    from canary.decision.v1.decision_pb2_grpc import DecisionServiceAsyncStub

# Kong's clients wait, so a lost connection is looked for again soon and never rarely.
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.lb_policy_name", "round_robin"),
    # Replicas may be killed and come back with other addresses.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # A policy with 200,000 addresses is some 5 MB.
    ("grpc.max_receive_message_length", 64 << 20),
]


class Service:
    """Stubs of every address, in the order in which they are to be tried."""

    def __init__(self, addresses: Sequence[str]) -> None:
        if not addresses:
            raise ValueError("no address of a decision service was given")
        self._channels = [grpc.aio.insecure_channel(a, options=_OPTIONS) for a in addresses]
        self.stubs: list[DecisionServiceAsyncStub] = [
            decision_pb2_grpc.DecisionServiceStub(c) for c in self._channels
        ]

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()

    async def person(self, service_key: str, user: str, deadline_s: float) -> Person:
        """What the first address that answers knows of a user. Raises CanaryError."""
        request = pb.GetPersonRequest(service_key=service_key, user=user)
        trouble: Exception | None = None
        for stub in self.stubs:
            try:
                return messages.person(await stub.GetPerson(request, timeout=deadline_s))
            except grpc.aio.AioRpcError as error:
                trouble = error
        raise CanaryError("no address answers") from trouble
