"""A writer that is killed where it waits: reads "URL MOVE N" lines, answers how each child ended.

The child moves the release of ``shop`` in the store at URL and is killed the moment it waits for
the N-th time. It is forked from a process that has imported everything, for one is made for every
place where a service can die.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from canary_engine.release import Move
from decision_svc.editor import Editor, Who
from decision_svc.metrics import Metrics
from decision_svc.snapshot import Snapshot
from decision_svc.store.redis import RedisStore

SHOP = "shop"


class Killed:
    """Awaits ``work``; this process is killed when it waits for the N-th time, from 0 on."""

    def __init__(self, work: Coroutine[Any, Any, Any], waits: int) -> None:
        self._work, self._left = work, waits

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        step = partial(next, inner)
        while True:
            try:
                waited_for = step()
            except StopIteration as stop:
                return stop.value
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
            try:
                yield waited_for
            except BaseException as error:
                step = partial(inner.throw, error)
            else:
                step = partial(next, inner)


def editor_of(store: RedisStore) -> Editor:
    """An editor as the service has it."""
    return Editor(
        store,
        Snapshot(),
        Metrics(),
        clock=lambda: datetime.now(UTC),
        new_id=lambda: secrets.token_hex(4),
    )


async def move(url: str, which: str) -> None:
    """Move the release."""
    store = RedisStore.connect(url, timeout_s=60)
    editor = editor_of(store)
    who = Who(actor="kim", reason="now or never")
    await editor.change(SHOP, None, who, f"{which} release", editor.move_release(Move(which)))


def main() -> None:
    """Fork a child for each line."""
    for line in sys.stdin:
        url, which, waits = line.split()
        child = os.fork()
        if child == 0:
            asyncio.run(_until_killed(url, which, int(waits)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


async def _until_killed(url: str, which: str, waits: int) -> None:
    await Killed(move(url, which), waits)


class Writers:
    """Makes writers that are killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def move(self, url: str, which: str, waits: int) -> bool:
        """Whether the move was killed; else it came to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(url, which, waits, file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL), f"the writer ended with {code}"
        return code != 0


@contextmanager
def killed_writers() -> Iterator[Writers]:
    """They are forked from a process of their own."""
    folder = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-m", "support.killed_writer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": folder},
    ) as process:
        yield Writers(process)


if __name__ == "__main__":
    # What the service would log is of no interest here, and stdout is for answers.
    import structlog

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    main()
