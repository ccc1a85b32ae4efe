"""The only place that calls the service: every call has a deadline, every failure is a Refusal."""

from __future__ import annotations

from typing import TypeVar

import grpc
from canary.admin.v1 import admin_pb2_grpc

from canaryctl.errors import refusal

Request = TypeVar("Request")
Answer = TypeVar("Answer")

LARGEST_ANSWER_BYTES = 64 * 1024 * 1024


class Client:
    """A connection to the admin API at ``address`` ("host:port" or "unix:PATH")."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self.address, self.timeout_s = address, timeout_s
        options = [("grpc.max_receive_message_length", LARGEST_ANSWER_BYTES)]
        self._channel = grpc.insecure_channel(address, options=options)
        self.admin = admin_pb2_grpc.AdminServiceStub(self._channel)

    def call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Answer], request: Request
    ) -> Answer:
        """The service's answer within the deadline. Raises Refusal."""
        try:
            return method(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise refusal(error, request, self.address) from error

    def close(self) -> None:
        """Hang up."""
        self._channel.close()
