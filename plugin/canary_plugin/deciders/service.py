"""The decision service's addresses: one channel each, with the options that outages taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
from canary.decision.v1 import decision_pb2_grpc

from canary_plugin.deciders.addresses import Address, address

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


class Stubs(list["DecisionServiceAsyncStub"]):
    """A stub for each address, and the addresses for what has connections of its own."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], addresses: Sequence[Address]) -> None:
        super().__init__(decision_pb2_grpc.DecisionServiceStub(channel) for channel in channels)
        self.addresses = addresses


class Service:
    """Stubs of every address, in the order in which they are to be tried."""

    def __init__(self, addresses: Sequence[str]) -> None:
        if not addresses:
            raise ValueError("no address of a decision service was given")
        known = [address(text) for text in addresses]
        self._channels = [grpc.aio.insecure_channel(a, options=_OPTIONS) for a in addresses]
        self.stubs = Stubs(self._channels, known)

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()
