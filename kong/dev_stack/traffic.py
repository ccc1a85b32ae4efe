"""Visitors who keep asking through the gateway; every answer is looked at."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

CLIENTS = 4
EVERY_S = 0.02
"""Pause of a client between two requests: some 200 requests a second in all, at most."""
TIMEOUT_S = 10.0


class Traffic:
    """Asks for ``users`` in turn while it is open; ``answers`` counts status and version."""

    def __init__(self, address: str, users: Sequence[str]) -> None:
        self._address, self._users = address, users
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,), daemon=True)
            for number in range(CLIENTS)
        ]
        self.answers: Counter[tuple[int, str]] = Counter()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        for user in self._turns(number):
            began = time.monotonic()
            answer = _get(connection, user)
            with self._lock:
                self.answers[answer] += 1
            self._end.wait(max(0.0, EVERY_S - (time.monotonic() - began)))
        connection.close()

    def _turns(self, number: int) -> Iterator[str]:
        mine = self._users[number::CLIENTS]
        while True:
            for user in mine:
                if self._end.is_set():
                    return
                yield user


def _get(connection: http.client.HTTPConnection, user: str) -> tuple[int, str]:
    """Status and version; 0 and what went wrong where no answer came."""
    try:
        connection.request("GET", "/api/v1/hello", headers={"x-user-id": user})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return 0, type(error).__name__
    return response.status, str(json.loads(body)["version"]) if body[:1] == b"{" else ""
