"""Asks the decision service; while it is gone, decides by the last known policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

import grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary_engine import decide as engine
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
]


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
        for _ in self.stubs:
            left = ends - monotonic()
            if left <= 0:
                break
            try:
                return await self.stubs[self._at].Decide(request, timeout=left)
            except grpc.aio.AioRpcError as error:
                code = error.code()
                if code is grpc.StatusCode.INVALID_ARGUMENT:
                    raise Undecided("refused", error.details() or "") from error
                trouble = _trouble(code, error.details() or "")
                self._at = (self._at + 1) % len(self.stubs)
        raise trouble

    def _decide_alone(self, question: Question, trouble: Undecided) -> Decision:
        ruling = self._policies.ruling(question.service_key, question.baseline)
        if ruling is None or (question.digest and question.digest != ruling.reads_digest):
            raise trouble
        self._troubles.count(f"alone-{trouble.cause}", str(trouble))
        decision = engine.decide(ruling, question.request, UNKNOWN, datetime.now(UTC))
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
        self._baselines: dict[str, dict[str, Baseline]] = {}
        self._grown = asyncio.Event()

    def follow(self, service_key: str, baseline: Baseline | None) -> None:
        """Follow a service key too, and declare the baseline that was found for it."""
        known = self._baselines.get(service_key)
        if known is None:
            known = self._baselines[service_key] = {}
            self._grown.set()
        if baseline is not None and baseline.hash not in known:
            known[baseline.hash] = baseline
            self._grown.set()

    async def run(self) -> None:
        """Follow until cancelled; a broken stream is opened again at the next address."""
        pause_s, at = 0.05, 0
        while True:
            await self._first_key()
            self._grown.clear()
            stub = self._decider.stubs[at % len(self._decider.stubs)]
            try:
                heard = await self._read(stub)
                pause_s = 0.05 if heard else pause_s
            except Exception as error:  # whatever it is, the stream must come back
                self._troubles.count("policy-stream", f"{type(error).__name__}: {error}")
                at += 1
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 1.0)

    async def _first_key(self) -> None:
        while not self._baselines:
            await self._grown.wait()
            self._grown.clear()

    async def _read(self, stub: DecisionServiceAsyncStub) -> bool:
        """Read one stream until there is more to follow. Raises when it breaks."""
        baselines = [b for known in self._baselines.values() for b in known.values()]
        call = stub.WatchPolicies(
            pb.WatchPoliciesRequest(
                service_keys=sorted(self._baselines),
                gateway=self._gateway,
                baselines=map(messages.baseline_message, baselines),
            ),
            wait_for_ready=True,
        )
        grown = asyncio.create_task(self._grown.wait())
        grown.add_done_callback(lambda _: call.cancel())
        heard = False
        try:
            async for message in call:
                heard = True
                self._policies.heard(message.service_key, messages.policy(message))
            raise ConnectionError("the service ended the stream")
        except asyncio.CancelledError:
            if self._grown.is_set():
                return heard
            raise
        finally:
            grown.cancel()
            call.cancel()
