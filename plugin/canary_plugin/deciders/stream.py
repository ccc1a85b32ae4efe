"""One stream that carries every question waiting at a moment as one message.

While a message is on its way out, the next questions gather; so the busier it gets, the more
questions share a message and the less each costs. One timer, set to the first deadline of all,
keeps every question's.

A breaker stops paying the deadline when the service is known to be gone: at once when the stream
is down, and after ``MAX_LATE`` questions in a row got no answer in time. Then one question at a
time is let through as a probe, every ``PROBE_EVERY_S``, until an answer comes in time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from heapq import heappop, heappush
from time import monotonic
from typing import TYPE_CHECKING

import grpc
from canary.decision.v1 import decision_pb2 as pb

from canary_plugin.deciders.protocol import Undecided
from canary_plugin.troubles import Troubles

if TYPE_CHECKING:
    from canary.decision.v1.decision_pb2_grpc import DecisionServiceAsyncStub

MAX_LATE = 16
PROBE_EVERY_S = 0.1
MAX_IN_MESSAGE = 512
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0

Answered = Callable[["pb.DecideResponse | Undecided"], None]


class DecideStream:
    """Asks over one stream, opened again at the next address when it breaks."""

    def __init__(self, stubs: list[DecisionServiceAsyncStub], troubles: Troubles) -> None:
        self._stubs, self._troubles = stubs, troubles
        self._waiting: dict[int, Answered] = {}
        self._outgoing: list[pb.NumberedRequest] = []
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._next = 0
        self._late = 0
        self._probed = 0.0
        self._at = 0
        self._has_heard = False
        self.is_open = False

    def ask(self, request: pb.DecideRequest, ends: float, answered: Answered) -> None:
        """Ask; ``answered`` is called once, by ``ends`` (monotonic), with the answer or why not."""
        if not self.is_open:
            answered(Undecided("unavailable", "the stream is down"))
            return
        if self._late >= MAX_LATE and not self._may_probe():
            answered(Undecided("timeout", "the service has stopped answering in time"))
            return
        id_ = self._next
        self._next = id_ + 1
        self._waiting[id_] = answered
        self._outgoing.append(pb.NumberedRequest(id=id_, request=request))
        if len(self._outgoing) == 1:
            self._wake.set()
        self._end_by(ends, id_)

    async def run(self) -> None:
        """Keep the stream open until cancelled."""
        pause_s = SHORTEST_PAUSE_S
        while True:
            stub = self._stubs[self._at % len(self._stubs)]
            self._has_heard = False
            try:
                await self._serve(stub)
            except (grpc.aio.AioRpcError, grpc.aio.UsageError, ConnectionError) as error:
                self._troubles.count("decide-stream", _told(error))
            finally:
                self._fail_all("unavailable", "the stream broke")
            self._at += 1
            pause_s = SHORTEST_PAUSE_S if self._has_heard else pause_s
            # Jitter: a thousand gateways must not come back in the same millisecond.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _serve(self, stub: DecisionServiceAsyncStub) -> None:
        call = stub.DecideStream()
        try:
            # The service answers the opening with its headers, so a dead address shows here.
            await call.initial_metadata()
            self.is_open = True
            self._late = 0
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(self._write(call))
                async for message in call:
                    self._hear(message)
                writing.cancel()
            raise ConnectionError("the service ended the stream")
        except BaseExceptionGroup as errors:
            raise ConnectionError(str(errors.exceptions[0])) from errors
        finally:
            self.is_open = False
            call.cancel()

    async def _write(
        self, call: grpc.aio.StreamStreamCall[pb.DecideStreamRequest, pb.DecideStreamResponse]
    ) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outgoing:
                batch, self._outgoing = (
                    self._outgoing[:MAX_IN_MESSAGE],
                    self._outgoing[MAX_IN_MESSAGE:],
                )
                await call.write(pb.DecideStreamRequest(requests=batch))

    def _hear(self, message: pb.DecideStreamResponse) -> None:
        self._late = 0
        self._has_heard = True
        for numbered in message.responses:
            answered = self._waiting.pop(numbered.id, None)
            if answered is None:
                continue  # too late, or for somebody else
            if numbered.HasField("response"):
                answered(numbered.response)
            else:
                answered(Undecided("refused", numbered.error))

    def _may_probe(self) -> bool:
        now = monotonic()
        if now - self._probed < PROBE_EVERY_S:
            return False
        self._probed = now
        return True

    def _end_by(self, ends: float, id_: int) -> None:
        heappush(self._deadlines, (ends, id_))
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(ends - monotonic(), 0.0), self._expire)

    def _expire(self) -> None:
        """Fail what is over, forget what was answered, and set the timer for what is next."""
        self._timer = None
        now = monotonic()
        while self._deadlines:
            ends, id_ = self._deadlines[0]
            if id_ in self._waiting and ends > now:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(ends - now, self._expire)
                return
            heappop(self._deadlines)
            answered = self._waiting.pop(id_, None)
            if answered is not None:
                self._late += 1
                answered(Undecided("timeout"))

    def _fail_all(self, cause: str, detail: str) -> None:
        waiting, self._waiting = self._waiting, {}
        self._outgoing.clear()
        for answered in waiting.values():
            answered(Undecided(cause, detail))


def _told(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
