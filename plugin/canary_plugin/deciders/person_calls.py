"""Asks the decision service what it knows of a user, at the address that answered last."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

import grpc
from canary.decision.v1 import decision_pb2 as pb
from canary_engine.copies import Known
from canary_engine.errors import CanaryError

from canary_plugin.deciders import messages

if TYPE_CHECKING:
    from canary.decision.v1.decision_pb2_grpc import DecisionServiceAsyncStub


class PersonCalls:
    """One call for a user; the next address is asked where one fails, if there is time."""

    def __init__(self, stubs: Sequence[DecisionServiceAsyncStub]) -> None:
        self._stubs = stubs
        self._at = 0

    async def person(self, service_key: str, user: str, deadline_s: float) -> Known:
        """What the service knows of a user. Raises CanaryError, by the deadline."""
        request = pb.GetPersonRequest(service_key=service_key, user=user)
        ends = monotonic() + deadline_s
        trouble: Exception | None = None
        for _ in self._stubs:
            at = self._at
            try:
                stub = self._stubs[at % len(self._stubs)]
                return messages.known(await stub.GetPerson(request, timeout=ends - monotonic()))
            except grpc.aio.AioRpcError as error:
                trouble = error
            if self._at == at:  # else another call has gone on already
                self._at = at + 1
            if monotonic() >= ends:
                break
        raise CanaryError("no address answers") from trouble
