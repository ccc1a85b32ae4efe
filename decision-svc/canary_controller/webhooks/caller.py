"""Puts questions to webhooks in the background; a slow or dead one makes nobody else wait.

Whom to ask is said anew on every tick (``ask``), and what was heard is fetched (``heard``): so a
controller that starts anew, or loses its lease, need tell nothing but what it wants now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from canary_engine.record import Answer
from canary_engine.webhooks import MAX_TEXT, Question

from canary_controller.reaching import why_unreached
from canary_controller.webhooks.messages import Said, headers_of, meaning

TIMEOUT_S = 10.0
MAX_BYTES = 64 * 1024
MOST_AT_ONCE = 96
MOST_AT_ONE_PLACE = 8
"""So that one place that hangs takes no room from the others."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
_FINAL = frozenset({Answer.YES, Answer.NO})

Body = Callable[[], bytes]
"""Makes the message, when it is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What one try brought."""

    question: Question
    answer: Answer
    text: str


class Webhooks:
    """Everybody who is asked now. ``secret`` empty: nothing is signed."""

    def __init__(
        self,
        session: ClientSession,
        *,
        secret: bytes = b"",
        timeout_s: float = TIMEOUT_S,
        first_pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._session, self._secret, self._now = session, secret, now
        self._timeout, self._timeout_s = ClientTimeout(total=timeout_s), timeout_s
        self._first_pause_s, self._longest_pause_s = first_pause_s, longest_pause_s
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._places: dict[str, asyncio.Semaphore] = {}
        self._asked: dict[Question, asyncio.Task[None]] = {}
        self._answers: dict[Question, Heard] = {}
        self._heard: list[Heard] = []

    def ask(self, wanted: Mapping[Question, Body]) -> None:
        """Go on with these and nobody else. What was answered already is heard once more."""
        for question in self._asked.keys() - wanted.keys():
            self._asked.pop(question).cancel()
            self._answers.pop(question, None)
        for question, body in wanted.items():
            if question not in self._asked:
                task = asyncio.get_running_loop().create_task(self._until_answered(question, body))
                self._asked[question] = task
            elif (answer := self._answers.get(question)) and answer not in self._heard:
                self._heard.append(answer)

    def heard(self) -> tuple[Heard, ...]:
        """What came in since this was called last, in order."""
        found, self._heard = tuple(self._heard), []
        return found

    async def close(self) -> None:
        """Ask nobody any more."""
        tasks = list(self._asked.values())
        self.ask({})
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_answered(self, question: Question, body: Body) -> None:
        """Try until there is a yes or no; the pauses grow up to the longest."""
        pause_s = self._first_pause_s
        while True:
            said = await self._try(question, body)
            heard = Heard(question=question, answer=said.answer, text=said.text)
            self._heard.append(heard)
            if said.answer in _FINAL:
                self._answers[question] = heard
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._longest_pause_s)

    async def _try(self, question: Question, make: Body) -> Said:
        try:
            body = make()
            headers = headers_of(question, body, self._secret, int(self._now()))
            async with (
                self._place(question.url),
                self._room,
                self._session.post(
                    question.url,
                    data=body,
                    headers=headers,
                    timeout=self._timeout,
                    allow_redirects=False,
                ) as answer,
            ):
                found = await _read(answer.content.iter_any)
                if found is None:
                    return Said(Answer.SILENCE, f"it answered more than {MAX_BYTES:,} bytes")
                return meaning(answer.status, found)
        except TimeoutError:
            return Said(Answer.SILENCE, f"it did not answer within {self._timeout_s:g} s")
        except (ClientError, OSError, ValueError) as error:
            said = f"it cannot be reached: {why_unreached(error)}"
            return Said(Answer.SILENCE, said[:MAX_TEXT])

    def _place(self, url: str) -> asyncio.Semaphore:
        place = url.split("/", 3)[2]
        return self._places.setdefault(place, asyncio.Semaphore(MOST_AT_ONE_PLACE))


async def _read(chunks: Callable[[], Any]) -> bytes | None:
    """The body; None if it is too long."""
    found = bytearray()
    async for chunk in chunks():
        found += chunk
        if len(found) > MAX_BYTES:
            return None
    return bytes(found)
