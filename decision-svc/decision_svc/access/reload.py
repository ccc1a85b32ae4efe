"""Files that are read again when they change; one that is wrong leaves the one before in force."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from decision_svc.errors import BadAccess

log = structlog.get_logger()

LOOK_EVERY_S = 1.0

Signature = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Some files that make one whole; ``load`` takes it over, or raises BadAccess."""

    name: str
    paths: Callable[[], Sequence[str]]
    load: Callable[[], None]


class Reloading:
    """Looks at the files' times and inodes; ``tell_state`` hears of each whole, right or wrong."""

    def __init__(
        self,
        sources: Sequence[Source],
        tell_state: Callable[[str, bool], None],
        *,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._sources, self._tell_state, self._every_s = sources, tell_state, every_s
        self._known: dict[str, Signature] = {}

    def load(self) -> None:
        """Read everything for the first time. Raises BadAccess."""
        for source in self._sources:
            self._known[source.name] = signature(source.paths())
            source.load()
            self._tell_state(source.name, True)

    async def run(self, after: Callable[[], None]) -> None:
        """Read what changed, until cancelled; ``after`` is called after every look."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await asyncio.to_thread(self.look)
                after()
            except Exception:  # whatever it is, the files must be looked at again
                log.exception("could not look at the files of credentials")

    def look(self) -> None:
        """Read what has changed since it was last looked at."""
        for source in self._sources:
            # Taken before it is read: what changes meanwhile is seen the next time.
            found = signature(source.paths())
            if found == self._known.get(source.name):
                continue
            self._known[source.name] = found
            try:
                source.load()
            except BadAccess as error:
                self._tell_state(source.name, False)
                log.error(
                    "credentials refused; those before stay in force",
                    file=source.name,
                    complaints=error.complaints,
                )
            else:
                self._tell_state(source.name, True)
                log.info("credentials read again", file=source.name)


def signature(paths: Sequence[str]) -> Signature:
    """What changes when a file is written, replaced, or reached by another link."""
    found: list[tuple[int, int, int, int] | None] = []
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size, stat.st_dev))
    return tuple(found)
