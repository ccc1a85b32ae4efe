"""A decision service that asks a real one and then says something else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc

Answers = Sequence[pb.NumberedResponse]
Lie = Callable[[Answers], "Answers | bytes"]
"""What is sent instead of a message of true answers; bytes are sent as they are."""


def honest(answers: Answers) -> Answers:
    """No lie."""
    return answers


class Liar:
    """Everything but decisions is as the real service says it."""

    def __init__(self, real: str) -> None:
        self._real = real
        self.lie: Lie = honest
        self.late_by_s = 0.0
        self.lies = 0
        """How many answers were told with ``lie`` in place."""

    @contextmanager
    def telling(self, lie: Lie, late_by_s: float = 0.0) -> Iterator[None]:
        """Lie while this is open."""
        self.lies = 0
        self.lie, self.late_by_s = lie, late_by_s
        try:
            yield
        finally:
            self.lie, self.late_by_s = honest, 0.0

    async def serve(self, ready: Callable[[str], None], end: asyncio.Event) -> None:
        """Serve on a free port, told to ``ready``, until ``end``."""
        # A pool of its own: the channel must not be one that another test has closed.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._real, options=options) as channel:
            self._stub = decision_pb2_grpc.DecisionServiceStub(channel)
            server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            server.add_generic_rpc_handlers((_handler(self),))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            ready(f"127.0.0.1:{port}")
            await end.wait()
            await server.stop(0)

    async def decide_stream(self, requests: AsyncIterator[Any], context: Any) -> None:
        """Ask the real service by a stream of its own, and lie about each message."""
        await context.send_initial_metadata(())
        call = self._stub.DecideStream()
        writing = asyncio.Lock()

        async def ask() -> None:
            async for message in requests:
                await call.write(message)

        async def answer(message: pb.DecideStreamResponse) -> None:
            said = self.lie(message.responses)
            self.lies += len(message.responses)
            await asyncio.sleep(self.late_by_s)
            whole = pb.DecideStreamResponse(responses=said) if not isinstance(said, bytes) else said
            async with writing:
                await context.write(whole)

        asking = asyncio.create_task(ask())
        try:
            async with asyncio.TaskGroup() as group:
                async for message in call:
                    group.create_task(answer(message))
        finally:
            asking.cancel()
            call.cancel()

    async def watch_policies(self, request: Any, context: Any) -> Any:
        """As the real service says it."""
        await context.send_initial_metadata(())
        async for message in self._stub.WatchPolicies(request):
            yield message

    async def report_outcomes(self, request: Any, context: Any) -> Any:
        """As the real service says it."""
        return await self._stub.ReportOutcomes(request, timeout=5)


def _handler(liar: Liar) -> grpc.GenericRpcHandler:
    """The methods that gateways use; what the decide stream answers may be any bytes."""
    return grpc.method_handlers_generic_handler(
        pb.DESCRIPTOR.services_by_name["DecisionService"].full_name,
        {
            "DecideStream": grpc.stream_stream_rpc_method_handler(
                liar.decide_stream,
                request_deserializer=pb.DecideStreamRequest.FromString,
                response_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            ),
            "WatchPolicies": grpc.unary_stream_rpc_method_handler(
                liar.watch_policies,
                request_deserializer=pb.WatchPoliciesRequest.FromString,
                response_serializer=pb.WatchPoliciesResponse.SerializeToString,
            ),
            "ReportOutcomes": grpc.unary_unary_rpc_method_handler(
                liar.report_outcomes,
                request_deserializer=pb.ReportOutcomesRequest.FromString,
                response_serializer=pb.ReportOutcomesResponse.SerializeToString,
            ),
        },
    )


@contextmanager
def lying(real: str) -> Iterator[tuple[Liar, str]]:
    """A liar in a thread of its own, and its address."""
    liar, found = Liar(real), list[str]()
    ready = threading.Event()
    stop: list[Callable[[], Any]] = []

    async def serve() -> None:
        end, loop = asyncio.Event(), asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(end.set))

        def listening(address: str) -> None:
            found.append(address)
            ready.set()

        await liar.serve(listening, end)

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="liar")
    thread.start()
    ready.wait()
    try:
        yield liar, found[0]
    finally:
        stop[0]()
        thread.join()
