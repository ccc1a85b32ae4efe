"""The decision service's addresses: one channel each, with the options that outages taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
from canary.decision.v1 import decision_pb2_grpc

from canary_plugin.credentials import Credentials
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


class _Showing:
    """Adds the token to every call, as the file has it then."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def _shown(self, details: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if authorization := self._credentials.authorization():
            metadata.add("authorization", authorization)
        return details._replace(metadata=metadata)


class _ShowingOnce(_Showing, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self._shown(details), request)


class _ShowingToStream(_Showing, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self._shown(details), request)


def _channel(text: str, credentials: Credentials) -> grpc.aio.Channel:
    shows = [kind(credentials) for kind in (_ShowingOnce, _ShowingToStream)]
    interceptors: Any = shows if credentials.has_token else None
    if not credentials.is_secure:
        return grpc.aio.insecure_channel(text, options=_OPTIONS, interceptors=interceptors)
    tls = grpc.ssl_channel_credentials(*credentials.pems())
    return grpc.aio.secure_channel(text, tls, options=_OPTIONS, interceptors=interceptors)


class Stubs(list["DecisionServiceAsyncStub"]):
    """A stub for each address, and what is needed by those with connections of their own."""

    def __init__(
        self,
        channels: Sequence[grpc.aio.Channel],
        addresses: Sequence[Address],
        credentials: Credentials,
    ) -> None:
        super().__init__(decision_pb2_grpc.DecisionServiceStub(channel) for channel in channels)
        self.addresses, self.credentials = addresses, credentials


class Service:
    """Stubs of every address, in the order in which they are to be tried."""

    def __init__(self, addresses: Sequence[str], credentials: Credentials | None = None) -> None:
        if not addresses:
            raise ValueError("no address of a decision service was given")
        known = [address(text) for text in addresses]
        shown = credentials or Credentials()
        self._channels = [_channel(text, shown) for text in addresses]
        self.stubs = Stubs(self._channels, known, shown)

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()
