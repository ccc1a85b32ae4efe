"""Load through a gateway: clients that never stop, users with the version each of them must get.

Every answer is looked at, none is asked for twice: a request whose connection is lost has failed,
for not even the HTTP client repeats one behind our back.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPException

from support import waiting
from support.http1 import Connection

WITHIN_S = 90.0
# Longer than Kong waits for a plugin server, so that a hang shows as what Kong makes of it.
PATIENCE_S = 70.0
LOOK_EVERY_S = 0.02
REST_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who asks again and again, and the version they must get."""

    name: str
    headers: Mapping[str, str]
    version: str
    why: str
    """The stage that gives it to them."""
    path: str = "/api/v1/hello"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer; times are monotonic. Status 0: none came, and ``version`` says why."""

    user: User
    status: int
    version: str
    began: float
    ended: float

    @property
    def is_answered(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    def __str__(self) -> str:
        got = self.version if self.is_answered else f"{self.status} ({self.version})"
        wanted = f"{self.user.version} by {self.user.why}"
        return f"{self.user.name} got {got} instead of {wanted} after {self.took_s:.3f} s"

    @property
    def took_s(self) -> float:
        return self.ended - self.began


@dataclass(slots=True)
class Load:
    """What was answered so far."""

    users: Sequence[User]
    clients: int
    answered: int = 0
    failed: list[Answer] = field(default_factory=list)
    """Answers that are no 2xx, and requests without one."""
    wrong: list[Answer] = field(default_factory=list)
    """Answers by another version than the user's."""
    asked: Counter[str] = field(default_factory=Counter)
    """How often each user was answered."""
    by_why: Counter[str] = field(default_factory=Counter)
    seen: dict[str, list[str]] = field(default_factory=dict)
    """By user, the versions they got, each time another one than before."""
    slowest_s: float = 0.0
    began: int = 0
    under_way: set[str] = field(default_factory=set)
    """Users who have asked and wait."""

    def ask(self, user: User) -> None:
        """Take a request that begins into account."""
        self.began += 1
        self.under_way.add(user.name)

    def hear(self, answer: Answer) -> None:
        """Take an answer into account."""
        self.answered += 1
        self.under_way.discard(answer.user.name)
        self.asked[answer.user.name] += 1
        self.by_why[answer.user.why] += 1
        self.slowest_s = max(self.slowest_s, answer.took_s)
        if not answer.is_answered:
            self.failed.append(answer)
            return
        if answer.version != answer.user.version:
            self.wrong.append(answer)
        seen = self.seen.setdefault(answer.user.name, [])
        if seen[-1:] != [answer.version]:
            seen.append(answer.version)

    def forget(self) -> None:
        """Begin anew with what was seen and what was wrong."""
        self.failed.clear()
        self.wrong.clear()
        self.seen.clear()

    async def more(self, answers: int) -> None:
        """Wait for so many more answers to requests that begin from now on."""
        begun, wanted = self.began, self.answered + answers + self.clients
        await until(lambda: self.answered >= wanted, f"{answers} answers after {begun} requests")

    async def round(self) -> None:
        """Wait until every user has asked anew and was answered."""
        # A user has one client: the answer after the one that is awaited is to a new request.
        names = [user.name for user in self.users]
        wanted = {name: self.asked[name] + 1 + (name in self.under_way) for name in names}
        await until(
            lambda: all(self.asked[name] >= wanted[name] for name in wanted),
            "an answer to every user",
        )

    def summary(self) -> str:
        """For people: how much, how many of each kind, and the first that went wrong."""
        lines = [
            f"{self.answered} answers, {len(self.failed)} failed, {len(self.wrong)} wrong; "
            f"slowest {self.slowest_s:.3f} s; by stage: {dict(self.by_why)}",
            *map(str, self.failed[:5]),
            *map(str, self.wrong[:10]),
        ]
        return "\n  ".join(lines)

    def check(self, *, open_at_most: int = 0, stable: str = "") -> None:
        """No request failed, and nobody got another version than theirs.

        With ``open_at_most``, so many may have got ``stable`` for want of a decision.
        """
        assert not self.failed, self.summary()
        assert len(self.wrong) <= open_at_most, f"at most {open_at_most}: {self.summary()}"
        assert all(answer.version == stable for answer in self.wrong), self.summary()


@asynccontextmanager
async def load(
    address: str,
    users: Sequence[User],
    *,
    clients: int = 8,
    rest_s: float = REST_S,
    is_kept: bool = True,
) -> AsyncIterator[Load]:
    """Clients that ask, each for users of its own in turn, while this is open.

    What one user gets is thus known in its order. After each answer a client rests for ``rest_s``:
    what is being started meanwhile needs the machine too. A client keeps its connection, unless
    told not to: a gateway that reloads may end it under the next request.
    """
    found = Load(users, clients)
    is_over = asyncio.Event()

    async def ask(share: Sequence[User]) -> None:
        with Connection(address, is_kept=is_kept) as connection:
            while not is_over.is_set():
                for user in share:
                    if is_over.is_set():
                        return
                    found.ask(user)
                    found.hear(await _ask(connection, user))
                    await asyncio.sleep(rest_s)

    async with asyncio.TaskGroup() as group:
        for client in range(clients):
            group.create_task(ask(users[client::clients]))
        try:
            yield found
        finally:
            is_over.set()


async def _ask(connection: Connection, user: User) -> Answer:
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_S):
            status, body = await connection.get(user.path, user.headers)
        version = str(json.loads(body)["version"]) if status == 200 else body.decode()[:200]
    except (HTTPException, OSError, EOFError, TimeoutError) as error:
        status, version = 0, f"{type(error).__name__}: {error}"
    return Answer(user=user, status=status, version=version, began=began, ended=time.monotonic())


async def until(
    is_true: Callable[[], object],
    what: str,
    within_s: float = WITHIN_S,
    *,
    every_s: float = LOOK_EVERY_S,
) -> None:
    """The same as elsewhere, with rarer looks: they leave the machine to the load."""
    await waiting.until(is_true, what, within_s, every_s=every_s)
