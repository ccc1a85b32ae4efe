"""The decision service: decisions a second and milliseconds through the stream.

Asked by grpc.aio, and for information by the plugin's own stream, which is against its own
ping-pong: a faster client makes the same service look slower beside an emptier baseline.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import grpc
import uvloop
from baselines.ping_pong import METHOD
from canary.decision.v1 import decision_pb2 as pb
from canary_plugin.deciders import http2
from canary_plugin.deciders.addresses import address
from dev_stack.processes import Process
from harness.policies import SERVICE_KEY, policy, visitors
from harness.results import Goal, report, row
from harness.service import BASELINES, question, service

ROUNDS = 9
SECONDS = 0.8
IN_FLIGHT = 32
MESSAGES = 1
"""In how many messages they are under way: who is answered together asks together again."""
DECIDE_STREAM = "/canary.decision.v1.DecisionService/DecideStream"
OPENING_S = 5.0
DECIDE = "/canary.decision.v1.DecisionService/Decide"
SEGMENTED = "shop-with-segments"

Call = Any
Measure = Callable[[], Awaitable[float]]


def main() -> None:
    """Measure and report."""
    plain = policy() | {"segments": []}
    segmented = policy() | {"service_key": SEGMENTED}
    with tempfile.TemporaryDirectory(prefix="canary-bench-") as folder:
        run_dir = Path(folder)
        ping_pong = Process(
            "ping-pong",
            [sys.executable, str(BASELINES / "ping_pong.py")],
            run_dir / "ping-pong.log",
            ready_word="ready ",
        )
        ping_pong_address = ping_pong.start().split()[1]
        try:
            with service(run_dir, plain, segmented) as running:
                uvloop.run(_measure(running.address, ping_pong_address))
        finally:
            ping_pong.stop()


async def _measure(service_address: str, ping_pong_address: str) -> None:
    async with (
        grpc.aio.insecure_channel(service_address) as channel,
        grpc.aio.insecure_channel(ping_pong_address) as ping_pong,
    ):
        # Messages as bytes, made beforehand.
        stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        stream, unary = channel.stream_stream(DECIDE_STREAM), channel.unary_unary(DECIDE)
        many, many_segmented = _messages(SERVICE_KEY), _messages(SEGMENTED)
        alone = _messages(SERVICE_KEY, 1)

        async def own(to: str, method: str, measure: Any, messages: Sequence[bytes]) -> float:
            found: float = await measure(await _Own().opened(to, method), messages)
            return found

        measures: dict[str, Measure] = {
            "stream": lambda: _throughput(stream(), many),
            "segments": lambda: _throughput(stream(), many_segmented),
            "unary": lambda: _unary_throughput(unary),
            "alone": lambda: _latency(stream(), alone),
            "ping-pong": lambda: _latency(ping_pong.stream_stream(METHOD)(), [b""]),
            "own": lambda: own(service_address, DECIDE_STREAM, _throughput, many),
            "own alone": lambda: own(service_address, DECIDE_STREAM, _latency, alone),
            "own ping-pong": lambda: own(ping_pong_address, METHOD, _latency, [b""]),
        }
        found: dict[str, list[float]] = {name: [] for name in measures}
        for measure in measures.values():
            await measure()  # warm, not counted
        for _ in range(ROUNDS):
            for name, measure in measures.items():
                found[name].append(await measure())

    at = f"with {IN_FLIGHT} in flight"
    fast, faster = Goal(of="value", limit=40_000), Goal(limit=7)
    report(
        "decision",
        [
            row(f"the plugin's stream {at}", found["own"], "decisions/s", goal=fast),
            row(
                f"the plugin's stream {at}",
                found["own"],
                "decisions/s",
                baseline="unary call",
                against=found["unary"],
                goal=faster,
            ),
            row(
                "stream alone, p50",
                found["alone"],
                "ms",
                baseline="empty ping-pong",
                against=found["ping-pong"],
                goal=Goal(limit=1.3, at_most=True),
            ),
            row(f"grpc.aio's stream {at}", found["stream"], "decisions/s"),
            row(
                f"stream {at}, 3 segments",
                found["segments"],
                "decisions/s",
                baseline="without segments",
                against=found["stream"],
            ),
            row(
                f"the plugin's stream {at}",
                found["own"],
                "decisions/s",
                baseline="grpc.aio's",
                against=found["stream"],
            ),
            row(
                "the plugin's stream alone, p50",
                found["own alone"],
                "ms",
                baseline="its empty ping-pong",
                against=found["own ping-pong"],
            ),
            row(
                "the plugin's stream alone, p50",
                found["own alone"],
                "ms",
                baseline="grpc.aio's",
                against=found["alone"],
            ),
        ],
        [
            f"policy of 4 rules, 100 CIDRs and a percentage; {ROUNDS} rounds of {SECONDS} s",
            f"{IN_FLIGHT} in flight in {MESSAGES} message",
        ],
    )


class _Own:
    """The plugin's stream, spoken to as if it were a call of grpc.aio's."""

    def __init__(self) -> None:
        self._stream: http2.Http2Stream
        self._heard: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None

    async def opened(self, to: str, method: str) -> _Own:
        self._stream, _ = await http2.connected(
            address(to), method, self._hear, lambda: None, within_s=OPENING_S
        )
        return self

    def _hear(self, message: bytes) -> None:
        self._heard.append(message)
        if self._waiter is not None:
            self._waiter.set_result(None)
            self._waiter = None

    async def write(self, message: bytes) -> None:
        self._stream.send(message)

    async def read(self) -> bytes:
        if not self._heard:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._heard.pop(0)

    def cancel(self) -> None:
        self._stream.close()


def _messages(service_key: str, size: int = IN_FLIGHT // MESSAGES) -> list[bytes]:
    """Messages of that many questions by different visitors."""
    asked = [question(visitor, service_key) for visitor in visitors(20 * IN_FLIGHT)]
    return [
        pb.DecideStreamRequest(
            requests=[
                pb.NumberedRequest(id=id_, request=request)
                for id_, request in enumerate(asked[start : start + size])
            ]
        ).SerializeToString()
        for start in range(0, len(asked), size)
    ]


async def _throughput(call: Call, messages: Sequence[bytes]) -> float:
    """Answers a second while as many questions as were answered are asked anew."""
    sent = answered = 0
    started = perf_counter()
    for _ in range(MESSAGES):
        await call.write(messages[sent % len(messages)])
        sent += 1
    size = IN_FLIGHT // MESSAGES
    waiting = size
    while perf_counter() - started < SECONDS:
        waiting -= _count(await call.read())
        if waiting <= 0:  # late answers come in messages of their own
            answered += size
            waiting += size
            await call.write(messages[sent % len(messages)])
            sent += 1
    took = perf_counter() - started
    call.cancel()
    return answered / took


def _count(message: bytes) -> int:
    responses = pb.DecideStreamResponse.FromString(message).responses
    for response in responses:
        if not response.response.HasField("decision"):
            raise SystemExit(f"no decision but {response}")
    return len(responses)


async def _unary_throughput(unary: Call) -> float:
    """Answers a second with as many calls under way."""
    asked = [question(visitor).SerializeToString() for visitor in visitors(IN_FLIGHT)]
    ends = perf_counter() + SECONDS
    done = 0

    async def ask(message: bytes) -> None:
        nonlocal done
        while perf_counter() < ends:
            answer = pb.DecideResponse.FromString(await unary(message))
            assert answer.HasField("decision")
            done += 1

    started = perf_counter()
    await asyncio.gather(*map(ask, asked))
    return done / (perf_counter() - started)


async def _latency(call: Call, messages: Sequence[bytes]) -> float:
    """Median milliseconds from a question to its answer, one at a time."""
    took = []
    ends = perf_counter() + SECONDS
    sent = 0
    while (started := perf_counter()) < ends:
        await call.write(messages[sent % len(messages)])
        await call.read()
        took.append(perf_counter() - started)
        sent += 1
    call.cancel()
    return median(took) * 1_000


if __name__ == "__main__":
    main()
