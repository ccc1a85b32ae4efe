"""What the plugin server counts, for Prometheus, on a port of its own.

Counting is an integer in a dictionary or a list; what Prometheus reads is made of it when it
asks. One loop counts and answers, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from canary_engine.model import Decision
from greenlet import GreenletExit
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from canary_plugin.troubles import Troubles

log = logging.getLogger("canary_plugin")

PHASES = ("access", "log")
ENDED, FAILED, ABANDONED = "ended", "failed", "abandoned"
BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0)
# Causes are words of our own, but a bug must not make a series of each message.
MAX_CAUSES = 100
TRY_EVERY_S, WARN_AFTER_S, ASKED_WITHIN_S = 0.2, 15.0, 5.0

Phase = Callable[[Any], None]


class Metrics:
    """The counts."""

    def __init__(self, troubles: Troubles, *, restarts: int = 0) -> None:
        self._troubles, self._restarts = troubles, restarts
        self._events = {phase: Counter[str]() for phase in PHASES}
        self._seconds = {phase: [0] * (len(BUCKETS_S) + 1) for phase in PHASES}
        self._sums_s = dict.fromkeys(PHASES, 0.0)
        self._decisions: Counter[tuple[str, str, str]] = Counter()
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def show(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a value that somebody else keeps."""
        self._gauges[f"canary_plugin_{name}"] = (text, value)

    def decided(self, decision: Decision, decider: str) -> None:
        """Count a decision made by the service (remote), instead of it (alone) or here (local)."""
        self._decisions[decision.variant, decision.reason, decider] += 1

    def timed(self, phase: str, run: Phase) -> Phase:
        """The phase, counted and timed."""
        outcomes, seconds, sums_s = self._events[phase], self._seconds[phase], self._sums_s

        def timed(kong: Any) -> None:
            began = time.monotonic()
            outcome = FAILED
            try:
                run(kong)
                outcome = ENDED
            except GreenletExit:
                outcome = ABANDONED
                raise
            finally:
                took_s = time.monotonic() - began
                outcomes[outcome] += 1
                seconds[bisect_left(BUCKETS_S, took_s)] += 1
                sums_s[phase] += took_s

        return timed

    def collect(self) -> Iterator[Metric]:
        """What prometheus-client asks of a collector."""
        events = CounterMetricFamily(
            "canary_plugin_events", "Phases that Kong began here.", labels=("phase", "outcome")
        )
        seconds = HistogramMetricFamily(
            "canary_plugin_event_seconds",
            "Time from a phase's first call to its last, with what Kong takes in between.",
            labels=("phase",),
        )
        for phase in PHASES:
            for outcome in (ENDED, FAILED, ABANDONED):
                events.add_metric((phase, outcome), self._events[phase][outcome])
            seconds.add_metric((phase,), self._cumulated(phase), self._sums_s[phase])
        yield events
        yield seconds
        yield _counter(
            "decisions",
            "Decisions by what they say and why, and by who made them.",
            ("variant", "reason", "decider"),
            self._decisions,
        )
        yield _counter(
            "troubles",
            "What went wrong; causes beginning with alone- cost nobody a decision.",
            ("cause",),
            {(cause,): number for cause, number in _bounded(self._troubles.counts).items()},
        )
        yield _counter(
            "worker_restarts",
            "Workers that were started before this one.",
            (),
            {(): self._restarts},
        )
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(name, text, value=value())

    def _cumulated(self, phase: str) -> list[tuple[str, float]]:
        found, sum_ = [], 0
        for bound, number in zip((*map(str, BUCKETS_S), "+Inf"), self._seconds[phase], strict=True):
            sum_ += number
            found.append((bound, float(sum_)))
        return found


class Timed:
    """A plugin instance's phases, timed; it has just those that the instance has."""

    access: Phase

    def __init__(self, phases: object, metrics: Metrics) -> None:
        for phase in PHASES:
            run = getattr(phases, phase, None)
            if run is not None:
                setattr(self, phase, metrics.timed(phase, run))


class MetricsPort:
    """Answers Prometheus at HOST:PORT, unless that is "".

    The port may still be a predecessor's: it is tried until it is free.
    """

    def __init__(self, metrics: Metrics, troubles: Troubles, listen: str) -> None:
        self._metrics, self._troubles = metrics, troubles
        self._host, _, port = listen.rpartition(":")
        self._port = int(port or -1)
        self._server: asyncio.Server | None = None
        self._trying: asyncio.Task[None] | None = None

    async def open(self) -> str:
        """ "metrics=HOST:PORT"; "" if it is not listened on, or not yet."""
        if self._port < 0:
            return ""
        try:
            return f"metrics={await self._listen()}"
        except OSError:
            self._trying = asyncio.create_task(self._try())
            return ""

    async def close(self) -> None:
        """Leave the port to a successor."""
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.gather(self._trying, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    async def _listen(self) -> str:
        self._server = await asyncio.start_server(
            self._answer, self._host, self._port, reuse_address=True
        )
        return "{}:{}".format(*self._server.sockets[0].getsockname()[:2])

    async def _try(self) -> None:
        warn_at = time.monotonic() + WARN_AFTER_S
        while True:
            await asyncio.sleep(TRY_EVERY_S)
            try:
                log.info("metrics=%s", await self._listen())
                return
            except OSError as error:
                if time.monotonic() > warn_at:
                    warn_at += WARN_AFTER_S
                    self._troubles.count("metrics-port", str(error))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            async with asyncio.timeout(ASKED_WITHIN_S):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(request))
                await writer.drain()
        writer.close()

    def _response(self, request: bytes) -> bytes:
        method, path, *_ = [*request.split(b"\r\n", 1)[0].split(b" "), b"", b""]
        if method != b"GET" or path.partition(b"?")[0] != b"/metrics":
            return b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        body = generate_latest(self._metrics.registry)
        head = f"Content-Type: {CONTENT_TYPE_LATEST}\r\nContent-Length: {len(body)}\r\n\r\n"
        return b"HTTP/1.0 200 OK\r\n" + head.encode() + body


def _counter(name: str, text: str, labels: Iterable[str], counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(f"canary_plugin_{name}", text, labels=tuple(labels))
    for values, number in counts.items():
        family.add_metric(tuple(map(str, values)), number)
    return family


def _bounded(counts: Mapping[str, int]) -> Mapping[str, int]:
    """By cause, of which there are at most so many; those that came later are "other"."""
    if len(counts) <= MAX_CAUSES:
        return counts
    found: Counter[str] = Counter()
    for index, (cause, number) in enumerate(counts.items()):
        found[cause if index < MAX_CAUSES else "other"] += number
    return found
