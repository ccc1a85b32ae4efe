"""One stream that carries every question waiting at a moment as one message.

While a message is on its way out, the next questions gather; so the busier it gets, the more
questions share a message and the less each costs. One timer, set to the first deadline of all,
keeps every question's.

A breaker stops paying the deadline when the service is known to be gone: at once when the stream
is down, and after ``MAX_LATE`` questions in a row got no answer in time. Then one question at a
time is let through as a probe, every ``PROBE_EVERY_S``, until an answer comes in time. Where
there is another address, that is gone to instead.
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
OPENING_S = 1.0
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
        self._is_mute = asyncio.Event()
        self._next = 0
        self._late = 0
        self._probed = 0.0
        self._at = 0
        self._has_heard = False
        self.is_open = False
        self.opened = asyncio.Event()
        """Set once the stream stood for the first time."""

    def ask(self, request: pb.DecideRequest, ends: float, answered: Answered) -> None:
        """Ask; ``answered`` is called once, by ``ends`` (monotonic), with the answer or why not."""
        if not self.is_open:
            self._tell(answered, Undecided("unavailable", "the stream is down"))
            return
        if self._late >= MAX_LATE and not self._may_probe():
            self._tell(answered, Undecided("timeout", "the service has stopped answering in time"))
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
            except Exception as error:  # whatever it is, the stream must come back
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
            async with asyncio.timeout(OPENING_S):
                await call.initial_metadata()
            if call.done():  # a call that failed has headers too, empty ones
                raise ConnectionError(f"{(await call.code()).name}: {await call.details()}")
            self._late = 0
            self._is_mute.clear()
            self.is_open = True
            self.opened.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(call))
                group.create_task(self._leave_when_mute())
                async for message in call:
                    self._hear(message)
                raise ConnectionError("the service ended the stream")
        except BaseExceptionGroup as errors:
            raise ConnectionError(_told(errors.exceptions[0])) from errors
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

    async def _leave_when_mute(self) -> None:
        await self._is_mute.wait()
        raise ConnectionError("the service has stopped answering in time")

    def _hear(self, message: pb.DecideStreamResponse) -> None:
        self._has_heard = True
        for numbered in message.responses:
            answered = self._waiting.pop(numbered.id, None)
            if answered is None:
                continue  # too late, or for somebody else
            self._late = 0
            if numbered.HasField("response"):
                self._tell(answered, numbered.response)
            else:
                self._tell(answered, Undecided("refused", numbered.error))

    def _tell(self, answered: Answered, response: pb.DecideResponse | Undecided) -> None:
        try:
            answered(response)
        except Exception as error:  # one asker's bug must not cost the others their answers
            self._troubles.count("plugin-error", _told(error))

    def _may_probe(self) -> bool:
        now = monotonic()
        if now - self._probed < PROBE_EVERY_S:
            return False
        self._probed = now
        return True

    def _end_by(self, ends: float, id_: int) -> None:
        heappush(self._deadlines, (ends, id_))
        if self._deadlines[0][1] != id_ and self._timer is not None:
            return
        # The first of all: deadlines differ, so the timer may be set to a later one.
        if self._timer is not None:
            self._timer.cancel()
        self._set_timer(ends - monotonic())

    def _set_timer(self, left_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(left_s, 0.0), self._expire)

    def _expire(self) -> None:
        """Fail what is over, forget what was answered, and set the timer for what is next."""
        self._timer = None
        now = monotonic()
        while self._deadlines:
            ends, id_ = self._deadlines[0]
            if id_ in self._waiting and ends > now:
                if self._timer is None:  # else an asker that was told has asked again
                    self._set_timer(ends - now)
                return
            heappop(self._deadlines)
            answered = self._waiting.pop(id_, None)
            if answered is not None:
                self._late += 1
                if self._late >= MAX_LATE and len(self._stubs) > 1:
                    self._is_mute.set()
                self._tell(answered, Undecided("timeout"))

    def _fail_all(self, cause: str, detail: str) -> None:
        waiting, self._waiting = self._waiting, {}
        self._outgoing.clear()
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for answered in waiting.values():
            self._tell(answered, Undecided(cause, detail))


def _told(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
