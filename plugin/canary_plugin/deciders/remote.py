"""Asks the decision service; while it is gone, decides by the last known policy."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator, MutableMapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

import grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary_engine import decide as engine
from canary_engine.errors import InvalidPolicy
from canary_engine.model import UNKNOWN, Decision

from canary_plugin.config import Baseline
from canary_plugin.deciders import messages
from canary_plugin.deciders.policies import KnownPolicies
from canary_plugin.deciders.protocol import Projection, Question, Undecided
from canary_plugin.troubles import Troubles

if TYPE_CHECKING:
    from canary.decision.v1.decision_pb2_grpc import DecisionServiceAsyncStub

# Kong's clients wait, so a lost connection is looked for again soon and never rarely.
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.lb_policy_name", "round_robin"),
    # Replicas may be killed and come back with other addresses.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # A policy with 200,000 addresses is some 5 MB.
    ("grpc.max_receive_message_length", 64 << 20),
]

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0


class RemoteDecider:
    """Unary calls with a deadline to the first of several addresses that answers."""

    def __init__(
        self, addresses: Sequence[str], policies: KnownPolicies, troubles: Troubles
    ) -> None:
        self._channels = [grpc.aio.insecure_channel(a, options=_OPTIONS) for a in addresses]
        self.stubs: list[DecisionServiceAsyncStub] = [
            decision_pb2_grpc.DecisionServiceStub(c) for c in self._channels
        ]
        self._policies, self._troubles = policies, troubles
        self._at = 0

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()

    def projection(self, service_key: str, baseline: Baseline | None) -> Projection:
        """See Decider."""
        return self._policies.projection(service_key, baseline)

    async def decide(self, question: Question) -> Decision | Projection:
        """See Decider."""
        ends = monotonic() + question.deadline_s
        try:
            response = await self._ask(messages.request(question, with_baseline=False), ends)
            if response.HasField("resend") and response.resend.baseline:
                whole = messages.request(question, with_baseline=True)
                response = await self._ask(whole, ends)
            if response.HasField("decision"):
                return messages.decision(response.decision)
            if not response.HasField("resend") or response.resend.baseline:
                raise Undecided("garbage", "neither a decision nor a question")
        except Undecided as trouble:
            return self._decide_alone(question, trouble)
        return messages.projection(response.resend.reads)

    async def _ask(self, request: pb.DecideRequest, ends: float) -> pb.DecideResponse:
        """Ask one address after the other until one answers or the time is over."""
        trouble = Undecided("timeout")
        first = self._at
        for at in (*range(first, len(self.stubs)), *range(first)):
            left = ends - monotonic()
            if left <= 0:
                break
            try:
                answer: pb.DecideResponse = await self.stubs[at].Decide(request, timeout=left)
                return answer
            except grpc.aio.AioRpcError as error:
                code = error.code()
                if code is grpc.StatusCode.INVALID_ARGUMENT:
                    raise Undecided("refused", error.details() or "") from error
                trouble = _trouble(code, error.details() or "")
                if self._at == at:  # of many questions that fail at once, one moves on
                    self._at = (at + 1) % len(self.stubs)
        raise trouble

    def _decide_alone(self, question: Question, trouble: Undecided) -> Decision:
        ruling = self._policies.ruling(question.service_key, question.baseline)
        if ruling is None or (question.digest and question.digest != ruling.reads_digest):
            raise trouble
        self._troubles.count(f"alone-{trouble.cause}", str(trouble))
        now = datetime.now(UTC)
        decision = engine.decide(ruling, question.request, None, now)
        if not isinstance(decision, Decision):
            decision = engine.decide(ruling, question.request, UNKNOWN, now)
        assert isinstance(decision, Decision), "a person was given"
        return decision


def _trouble(code: grpc.StatusCode, details: str) -> Undecided:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Undecided("timeout")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Undecided("unavailable", details)
    return Undecided("error", f"{code.name}: {details}")


class PolicyStream:
    """Keeps ``KnownPolicies`` at what the service says about the service keys in use."""

    def __init__(
        self, decider: RemoteDecider, policies: KnownPolicies, troubles: Troubles, gateway: str
    ) -> None:
        self._decider, self._policies, self._troubles = decider, policies, troubles
        self._gateway = gateway
        self._pause_s = SHORTEST_PAUSE_S
        # By identity and weakly: a baseline is declared for as long as an instance holds it.
        self._baselines: dict[str, MutableMapping[int, Baseline]] = {}
        self._changed = asyncio.Event()

    def follow(self, service_key: str, baseline: Baseline | None) -> None:
        """Follow a service key too, and declare the baseline that was found for it."""
        known = self._baselines.get(service_key)
        if known is None:
            known = self._baselines[service_key] = weakref.WeakValueDictionary()
            self._changed.set()
        if baseline is not None:
            if all(other.hash != baseline.hash for other in known.values()):
                self._changed.set()
            known[id(baseline)] = baseline
            weakref.finalize(baseline, self._changed.set).atexit = False

    async def run(self) -> None:
        """Follow until cancelled; a broken stream is opened again at the next address."""
        at = 0
        while True:
            await self._first_key()
            self._changed.clear()
            stub = self._decider.stubs[at % len(self._decider.stubs)]
            try:
                await self._read(stub)
            except Exception as error:  # whatever it is, the stream must come back
                self._troubles.count("policy-stream", _told(error))
                at += 1
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    async def _first_key(self) -> None:
        while not self._baselines:
            await self._changed.wait()
            self._changed.clear()

    def _declared(self) -> Iterator[Baseline]:
        """Every baseline once."""
        for known in self._baselines.values():
            yield from {baseline.hash: baseline for baseline in known.values()}.values()

    async def _read(self, stub: DecisionServiceAsyncStub) -> None:
        """Read one stream until there is something else to follow. Raises when it breaks."""
        call = stub.WatchPolicies(
            pb.WatchPoliciesRequest(
                service_keys=sorted(self._baselines),
                gateway=self._gateway,
                baselines=map(messages.baseline_message, self._declared()),
            )
        )
        changed = asyncio.create_task(self._changed.wait())
        changed.add_done_callback(lambda _: call.cancel())
        try:
            async for message in call:
                self._pause_s = SHORTEST_PAUSE_S
                self._hear(message)
            raise ConnectionError("the service ended the stream")
        except asyncio.CancelledError:
            # It was the call that was cancelled, unless somebody wants this task to end.
            task = asyncio.current_task()
            if not self._changed.is_set() or (task is not None and task.cancelling()):
                raise
        finally:
            changed.cancel()
            call.cancel()

    def _hear(self, message: pb.WatchPoliciesResponse) -> None:
        try:
            policy = messages.policy(message)
        except InvalidPolicy as error:
            # A newer service may say what is not understood here; the others must be heard.
            self._troubles.count("bad-policy", f"{message.service_key}: {error}")
            return
        self._policies.heard(message.service_key, policy)


def _told(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
