"""One stream that carries every question waiting at a moment as one message.

What is asked in one turn of the loop travels together; so the busier it gets, the more questions
share a message and the less each costs. One timer, set to the first deadline of all, keeps every
question's.

A breaker stops paying the deadline when the service is known to be gone: at once when the stream
is down, and when a number of questions in a row got no answer in time (``breaker.py``). Where
there is another address, that is gone to instead.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from time import monotonic
from typing import Protocol

from canary.decision.v1 import decision_pb2 as pb

from canary_plugin.credentials import Credentials
from canary_plugin.deciders import http2
from canary_plugin.deciders.addresses import Address, Endpoint
from canary_plugin.deciders.breaker import Breaker
from canary_plugin.deciders.protocol import Undecided
from canary_plugin.troubles import Troubles

METHOD = "/canary.decision.v1.DecisionService/DecideStream"
MAX_IN_MESSAGE = 512
OPENING_S = 1.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0

Answered = Callable[["pb.DecideResponse | Undecided"], None]


class Addressed(Protocol):
    """Whatever knows where decision services are."""

    @property
    def addresses(self) -> Sequence[Address]:
        """In the order in which they are to be tried."""
        ...

    @property
    def credentials(self) -> Credentials:
        """What they are shown."""
        ...


class DecideStream:
    """Asks over one stream, opened again at the next address when it breaks."""

    def __init__(self, service: Addressed, troubles: Troubles) -> None:
        self._addresses, self._credentials = service.addresses, service.credentials
        self._troubles = troubles
        self._waiting: dict[int, Answered] = {}
        self._outgoing: list[pb.DecideStreamRequest] = []
        self._is_sending = False
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._stream: http2.Http2Stream | None = None
        self._last: Endpoint | None = None
        self._has_others = False
        self._next = 0
        self.breaker = Breaker()
        self._at = 0
        self._has_heard = False
        self.opened = asyncio.Event()
        """Set once the stream stood for the first time."""

    @property
    def is_open(self) -> bool:
        """Whether the service can be asked."""
        return self._stream is not None and not self._stream.is_over

    def ask(self, request: pb.DecideRequest, ends: float, answered: Answered) -> None:
        """Ask; ``answered`` is called once, by ``ends`` (monotonic), with the answer or why not."""
        if not self.is_open:
            self._tell(answered, Undecided("unavailable", "the stream is down"))
            return
        if not self.breaker.may_ask():
            self._tell(answered, Undecided("timeout", "the service has stopped answering in time"))
            return
        id_ = self._next
        self._next = id_ + 1
        self._waiting[id_] = answered
        self._gather(id_, request)
        self._end_by(ends, id_)

    def leave(self, why: str) -> None:
        """Go to another address, if there is one."""
        if self._has_others and self._stream is not None:
            self._has_heard = False  # not at once again, if it comes round to this one
            self._stream.fail(why)

    async def run(self) -> None:
        """Keep the stream open until cancelled."""
        pause_s = SHORTEST_PAUSE_S
        while True:
            address = self._addresses[self._at % len(self._addresses)]
            self._has_heard = False
            try:
                await self._serve(address)
            except Exception as error:  # whatever it is, the stream must come back
                self._troubles.count("decide-stream", _told(error))
            finally:
                self._fail_all("unavailable", "the stream broke")
            self._at += 1
            pause_s = SHORTEST_PAUSE_S if self._has_heard else pause_s
            # Jitter: a thousand gateways must not come back in the same millisecond.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _serve(self, address: Address) -> None:
        # The service answers the opening with its headers, so a dead address shows here.
        stream, endpoints = await http2.connected(
            address,
            METHOD,
            self._hear,
            self._send,
            within_s=OPENING_S,
            last=self._last,
            credentials=self._credentials,
        )
        try:
            self._last = stream.endpoint
            self._has_others = endpoints > 1 or len(self._addresses) > 1
            self.breaker.answered()
            self._stream = stream
            self.opened.set()
            await stream.ended
        finally:
            self._stream = None
            stream.close()

    def _gather(self, id_: int, request: pb.DecideRequest) -> None:
        """Add a question to the message that leaves when all who ask now have asked."""
        outgoing = self._outgoing
        # A whole baseline may be large; several must not add up to more than a message may hold.
        is_large = request.HasField("baseline")
        if not outgoing or is_large or len(outgoing[-1].requests) >= MAX_IN_MESSAGE:
            outgoing.append(pb.DecideStreamRequest())
        outgoing[-1].requests.add(id=id_).request.CopyFrom(request)
        if not self._is_sending:
            self._is_sending = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """Send what has gathered; what finds no room waits for it and gathers more."""
        self._is_sending = False
        while self._outgoing and self._stream is not None and self._stream.has_room:
            self._stream.send(self._outgoing.pop(0).SerializeToString())

    def _hear(self, message: bytes) -> None:
        responses = pb.DecideStreamResponse.FromString(message).responses
        self._has_heard = True
        for numbered in responses:
            answered = self._waiting.pop(numbered.id, None)
            if answered is None:
                continue  # too late, or for somebody else
            self.breaker.answered()
            if numbered.HasField("response"):
                self._tell(answered, numbered.response)
            else:
                self._tell(answered, Undecided("refused", numbered.error))

    def _tell(self, answered: Answered, response: pb.DecideResponse | Undecided) -> None:
        try:
            answered(response)
        except Exception as error:  # one asker's bug must not cost the others their answers
            self._troubles.count("plugin-error", _told(error))

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
                self.breaker.failed()
                if self.breaker.is_open:
                    self.leave("the service has stopped answering in time")
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


def _told(error: Exception) -> str:
    is_plain = isinstance(error, http2.StreamBroken)
    return str(error) if is_plain else f"{type(error).__name__}: {error}"
