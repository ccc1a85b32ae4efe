"""Goes through logs with every core: plain files by ranges of bytes, others block by block."""

from __future__ import annotations

import gc
import gzip
import os
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from canary_engine.decide import CompiledPolicy
from canary_engine.model import Policy

from canaryctl.errors import Misuse, Trouble
from canaryctl.replay.lines import READERS, Format, Wanted, detect
from canaryctl.replay.tally import Count, Tally

STDIN = "-"
PART_BYTES = 16 << 20
"""How much one worker is given at once."""
BLOCK_BYTES = 1 << 20
"""How much is read at once; a longer line is no line."""
SMALL_BYTES = 8 << 20
"""Logs up to this size are done sooner than workers start."""
SAMPLE_BYTES = 64 << 10


class Stream(Protocol):
    """What is read block by block."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is replayed against what."""

    now: Policy
    proposed: Policy
    wanted: Wanted
    format: Format | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a log: a range of a file, or the bytes themselves."""

    format: Format
    path: str
    start: int = 0
    end: int = 0
    data: bytes = b""
    progress: int = 0
    """How many bytes of what is on disk it stands for."""


class Replay:
    """Both policies, ready to decide."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._proposed = CompiledPolicy(_without_telling(job.proposed))
        self._now = CompiledPolicy(_without_telling(job.now))
        self._remembers = True

    def count(self) -> Count:
        """A new count."""
        return Count(self._now, self._proposed, remembers=self._remembers)

    def add(self, part: Part, count: Count) -> None:
        """Count the part's requests."""
        count.found.formats.add(part.format)
        count.found.open(part.path)
        read = READERS[part.format]
        blocks = [part.data] if part.data else _range(part.path, part.start, part.end)
        seen = (read(block, self._job.wanted, count.found) for block in blocks)
        count.add(chain.from_iterable(seen))
        self._remembers = count.remembers


def _without_telling(policy: Policy) -> Policy:
    """The policy without what it tells clients of their API versions, which decides nothing."""
    return replace(policy, compatibility=replace(policy.compatibility, api_versions=()))


_replay: Replay | None = None


def _begin(job: Job) -> None:
    """Make a worker ready."""
    global _replay  # noqa: PLW0603 - a worker has one job, and is told of it once
    _replay = Replay(job)
    gc.disable()  # nothing here makes cycles, and looking for them takes a tenth of the time


def _work(part: Part) -> tuple[Tally, int]:
    assert _replay is not None
    count = _replay.count()
    _replay.add(part, count)
    return count.tally(), part.progress


def size_of(paths: tuple[str, ...]) -> int | None:
    """How many bytes there are to go through; None if nobody knows."""
    return None if STDIN in paths else sum(Path(path).stat().st_size for path in paths)


def replay(
    job: Job, paths: tuple[str, ...], workers: int, tell: Callable[[int, int], None]
) -> Tally:
    """What the logs come to. ``tell`` hears of the lines so far, and the bytes done since.

    Raises Misuse if a log cannot be read.
    """
    total = Tally()
    size = size_of(paths)
    try:
        if workers == 1 or (size is not None and size <= SMALL_BYTES):
            one = Replay(job)
            count = one.count()
            for part in _parts(job, paths, BLOCK_BYTES):
                one.add(part, count)
                tell(count.found.lines, part.progress)
            return count.tally()
        for tally, done in _side_by_side(job, paths, workers):
            total.merge(tally)
            tell(total.found.lines, done)
    except (OSError, EOFError, zlib.error) as error:
        name = getattr(error, "filename", None) or ", ".join(paths)
        said = getattr(error, "strerror", None) or str(error)
        raise Misuse(f"{name}: {said}", next_step="name logs that can be read") from error
    except BrokenProcessPool as error:
        raise Trouble(
            "internal", "a worker was killed", "repeat with fewer workers: --jobs 1"
        ) from error
    return total


def _side_by_side(job: Job, paths: tuple[str, ...], workers: int) -> Iterator[tuple[Tally, int]]:
    # A fork of a process that has spoken gRPC may hang, so workers begin anew.
    context = get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(job,))
    waiting: deque[Future[tuple[Tally, int]]] = deque()
    try:
        for part in _parts(job, paths, PART_BYTES):
            waiting.append(pool.submit(_work, part))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _parts(job: Job, paths: tuple[str, ...], part_bytes: int) -> Iterator[Part]:
    for path in paths:
        if path == STDIN:
            yield from _of_stream(job, path, sys.stdin.buffer, lambda: 0)
            continue
        with Path(path).open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                file.seek(0)
                with gzip.open(file) as stream:
                    yield from _of_stream(job, path, stream, file.tell)
                continue
        yield from _of_file(job, path, part_bytes)


def _of_file(job: Job, path: str, part_bytes: int) -> Iterator[Part]:
    size = os.stat(path).st_size
    with Path(path).open("rb") as file:
        written = job.format or detect(file.read(SAMPLE_BYTES))
        start = 0
        while start < size:
            file.seek(min(start + part_bytes, size))
            file.readline(BLOCK_BYTES)
            end = min(file.tell(), size)
            yield Part(format=written, path=path, start=start, end=end, progress=end - start)
            start = end


def _of_stream(job: Job, path: str, stream: Stream, done: Callable[[], int]) -> Iterator[Part]:
    """Blocks of whole lines."""
    written, before = job.format, 0
    while data := stream.read(4 * BLOCK_BYTES):
        data += stream.readline(BLOCK_BYTES)
        written = written or detect(data[:SAMPLE_BYTES])
        now = done()
        yield Part(format=written, path=path, data=data, progress=now - before)
        before = now


def _range(path: str, start: int, end: int) -> Iterator[bytes]:
    """Blocks of whole lines between two line starts."""
    with Path(path).open("rb") as file:
        file.seek(start)
        left = end - start
        while left > 0 and (data := file.read(min(BLOCK_BYTES, left))):
            if len(data) < left:
                data += file.readline(min(BLOCK_BYTES, left - len(data)))
            left -= len(data)
            yield data
