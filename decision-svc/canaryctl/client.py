"""The only place that calls the service: every call has a deadline, every failure is a Refusal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import grpc
from canary.admin.v1 import admin_pb2_grpc

from canaryctl.credentials import Credentials
from canaryctl.errors import refusal

Request = TypeVar("Request")
Answer = TypeVar("Answer")

STREAM_PATIENCE = 60
NOTHING_SHOWN = Credentials()
LARGEST_ANSWER_BYTES = 64 * 1024 * 1024


class Client:
    """A connection to the admin API at ``address`` ("host:port" or "unix:PATH")."""

    def __init__(
        self, address: str, timeout_s: float, credentials: Credentials = NOTHING_SHOWN
    ) -> None:
        self.address, self.timeout_s = address, timeout_s
        options = [("grpc.max_receive_message_length", LARGEST_ANSWER_BYTES)]
        self._metadata = credentials.metadata()
        self._channel = credentials.channel(address, options)
        self.admin = admin_pb2_grpc.AdminServiceStub(self._channel)

    def call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Answer], request: Request
    ) -> Answer:
        """The service's answer within the deadline. Raises Refusal."""
        try:
            return method(request, timeout=self.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise refusal(error, request, self.address) from error

    def stream(
        self, method: grpc.UnaryStreamMultiCallable[Request, Answer], request: Request
    ) -> Iterator[Answer]:
        """The service's answers, all of them within STREAM_PATIENCE deadlines. Raises Refusal."""
        try:
            timeout_s = self.timeout_s * STREAM_PATIENCE
            yield from method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise refusal(error, request, self.address) from error

    def close(self) -> None:
        """Hang up."""
        self._channel.close()
