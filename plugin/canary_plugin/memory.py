"""Which instances Kong has started, kept where the death of a worker does not reach them.

Kong goes on with the instance ids that it has. A worker that knows those of the one before it
serves them at once; for one that does not, Kong must start them anew, and it answers 500 where
that is cut off. What is kept is a help, never needed: without it Kong does start them anew.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgpack

if TYPE_CHECKING:
    from canary_plugin.runtime.instances import Instances

log = logging.getLogger("canary_plugin")

# Records that are written until those of instances that are gone are left out.
SLACK = 1_000


class Memory:
    """Instances in a file that the supervisor holds open."""

    def __init__(self, fd: int, instances: Instances) -> None:
        self._fd, self._instances = fd, instances
        self._records = 0

    def recall(self) -> None:
        """Go on with the instances of a worker that has died."""
        for id_, name, config_json in self._read():
            try:
                self._instances.adopt(id_, name, config_json)
            except Exception as error:  # Kong starts it anew, as it would without us
                log.error("an instance is not gone on with: %s: %s", type(error).__name__, error)

    def keep(self) -> None:
        """Write down every instance there is, and from now on each that is started."""
        self._rewrite()
        self._instances.started = self._note

    def _note(self, id_: int, name: str, config_json: str) -> None:
        self._records += 1
        if self._records > len(self._instances) + SLACK:
            self._rewrite()
        else:
            self._write(msgpack.packb((id_, name, config_json)))

    def _rewrite(self) -> None:
        found = list(self._instances.described())
        os.ftruncate(self._fd, 0)
        self._write(b"".join(map(msgpack.packb, found)))
        self._records = len(found)

    def _write(self, data: bytes) -> None:
        os.pwrite(self._fd, data, os.fstat(self._fd).st_size)

    def _read(self) -> Iterator[tuple[int, str, str]]:
        """What was written whole."""
        unpacker = msgpack.Unpacker(max_buffer_size=0)
        unpacker.feed(os.pread(self._fd, os.fstat(self._fd).st_size, 0))
        yield from unpacker
