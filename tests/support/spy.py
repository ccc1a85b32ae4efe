"""A spy in front of a decision service: sees what leaves the gateway, and can misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, Self

import grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary_plugin.deciders.policy_stream import PolicyStream

from support.kong_side import KEY
from support.waiting import WITHIN_S, until

Forward = Callable[[pb.DecideRequest], Awaitable[pb.DecideResponse]]
Decide = Callable[[pb.DecideRequest, Forward], Awaitable[pb.DecideResponse]]
NEWEST = 1 << 40


async def _at_once() -> None:
    pass


class Refusal(Exception):  # noqa: N818 - an answer that the spy gives
    """What the spy answers instead of a decision."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(text)


class Spy(decision_pb2_grpc.DecisionServiceServicer):
    """Stands in front of the service, sees what leaves the gateway, and can misbehave."""

    def __init__(self, real: str) -> None:
        options = [("grpc.max_receive_message_length", 64 << 20)]
        self._channel = grpc.aio.insecure_channel(real, options=options)
        self._server: Any = None
        self.address = "127.0.0.1:0"
        self._stub = decision_pb2_grpc.DecisionServiceStub(self._channel)
        self.asked: list[pb.DecideRequest] = []
        self.batches: list[int] = []
        """How many questions each message of a decide stream held."""
        self.persons: list[pb.GetPersonRequest] = []
        self.reports: list[pb.ReportOutcomesRequest] = []
        self.watched: list[pb.WatchPoliciesRequest] = []
        self.told: list[pb.WatchPoliciesResponse] = []
        """What was passed on by policy streams and taken over by a plugin of this process."""
        self.decide: Decide = lambda request, forward: forward(request)
        self.watch: Callable[[], Awaitable[None]] = _at_once
        """Waited for before a policy stream stands."""
        self.hold: Callable[[], Awaitable[Any]] = _at_once
        """Waited for before each message of a policy stream is passed on."""
        self.tell: Callable[[pb.WatchPoliciesResponse], pb.WatchPoliciesResponse] = lambda m: m
        self.is_mute = False
        self.refuses_baselines = False
        self._calls: set[Any] = set()
        self._cut: set[Any] = set()
        self._on_their_way: list[pb.WatchPoliciesResponse] = []
        self._at_end = ExitStack()

    async def start(self) -> None:
        """Serve, at the same address as before."""
        self._server = grpc.aio.server()
        decision_pb2_grpc.add_DecisionServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Be gone."""
        await self._server.stop(0)

    async def __aenter__(self) -> Self:
        await self.start()
        self._at_end.enter_context(_taken_over(self._arrived))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._at_end.close()
        await self.stop()
        await self._channel.close()

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:  # noqa: N802
        self.asked.append(request)
        try:
            return await self.decide(request, self._forward)
        except Refusal as refusal:
            await context.abort(refusal.code, refusal.text)
            raise

    async def DecideStream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        writing = asyncio.Lock()
        await context.send_initial_metadata(())

        async def answer(numbered: pb.NumberedRequest) -> None:
            self.asked.append(numbered.request)
            answered = pb.NumberedResponse(id=numbered.id)
            try:
                response = await self.decide(numbered.request, self._forward)
                answered.response.CopyFrom(response)
                # What a test makes up is an answer to this very question, by the newest policy.
                answered.response.echo = response.echo or numbered.request.fallback_key
                answered.response.stored_revision = response.stored_revision or NEWEST
            except Refusal as refusal:
                answered.error = refusal.text
            async with writing:
                await context.write(pb.DecideStreamResponse(responses=[answered]))

        async with asyncio.TaskGroup() as answers:
            async for batch in request_iterator:
                self.batches.append(len(batch.requests))
                for numbered in batch.requests:
                    answers.create_task(answer(numbered))

    async def GetPerson(  # noqa: N802
        self, request: pb.GetPersonRequest, context: Any
    ) -> pb.GetPersonResponse:
        self.persons.append(request)
        person: pb.GetPersonResponse = await self._stub.GetPerson(request, timeout=WITHIN_S)
        return person

    async def ReportOutcomes(  # noqa: N802
        self, request: pb.ReportOutcomesRequest, context: Any
    ) -> pb.ReportOutcomesResponse:
        self.reports.append(request)
        answer: pb.ReportOutcomesResponse = await self._stub.ReportOutcomes(
            request, timeout=WITHIN_S
        )
        return answer

    async def _forward(self, request: pb.DecideRequest) -> pb.DecideResponse:
        response: pb.DecideResponse = await self._stub.Decide(request, timeout=WITHIN_S)
        return response

    async def WatchPolicies(self, request: pb.WatchPoliciesRequest, context: Any) -> Any:  # noqa: N802
        self.watched.append(request)
        if self.refuses_baselines and request.baselines:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "of another version")
        await self.watch()
        await context.send_initial_metadata(())
        call = self._stub.WatchPolicies(request)
        self._calls.add(call)
        try:
            async for message in call:
                await self.hold()
                if not self.is_mute:
                    told = self.tell(message)
                    self._on_their_way.append(told)
                    yield told
        except asyncio.CancelledError:
            if call not in self._cut:
                raise
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        finally:
            self._cut.discard(call)
            self._calls.discard(call)
            call.cancel()

    def cut_streams(self) -> None:
        """Break the policy streams that are open."""
        self._cut |= self._calls
        for call in self._calls:
            call.cancel()

    def _arrived(self, message: pb.WatchPoliciesResponse) -> None:
        if message in self._on_their_way:  # else another spy passed it on
            self._on_their_way.remove(message)
            self.told.append(message)

    async def heard(self, revision: int = 0) -> None:
        """Wait until the plugin was told of the policy, at that revision or a later one, and has
        taken it over.
        """

        def is_heard() -> bool:
            return any(m.service_key == KEY and m.policy.revision >= revision for m in self.told)

        await until(is_heard, f"the policy at revision {revision}")

    async def heard_all(self) -> None:
        """Wait until the plugin was told that it has heard of every policy."""
        end = pb.WatchPoliciesResponse()
        await until(lambda: end in self.told, "the end of the policies")


@contextmanager
def _taken_over(hear: Callable[[pb.WatchPoliciesResponse], None]) -> Iterator[None]:
    """Hear of each message when a policy stream of this process has taken it over.

    That it was sent is no sign of that: on a busy machine the threads between are late.
    """
    real = PolicyStream._hear

    def heard(self: PolicyStream, message: pb.WatchPoliciesResponse, told: set[str]) -> None:
        try:
            real(self, message, told)
        finally:
            hear(message)

    PolicyStream._hear = heard  # type: ignore[method-assign]
    try:
        yield
    finally:
        PolicyStream._hear = real  # type: ignore[method-assign]


@asynccontextmanager
async def spying(real: str) -> AsyncIterator[tuple[Spy, str]]:
    """A spy and its address."""
    async with Spy(real) as spy:
        yield spy, spy.address
