"""The DecisionService: what gateways call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from time import perf_counter
from typing import Any

import grpc
import structlog
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary_engine.errors import CanaryError

from decision_svc.baselines import Baselines
from decision_svc.decider import Decider, Resend, Waiting
from decision_svc.errors import BadRequest
from decision_svc.metrics import Metrics
from decision_svc.rpc import convert
from decision_svc.rpc.errors import status_of
from decision_svc.snapshot import Snapshot

log = structlog.get_logger()

MAX_WATCHED = 10_000
Context = grpc.aio.ServicerContext[Any, Any]


class DecisionService(decision_pb2_grpc.DecisionServiceServicer):
    """Decides from memory; see decision.proto for what each call promises."""

    def __init__(
        self, decider: Decider, snapshot: Snapshot, baselines: Baselines, metrics: Metrics
    ) -> None:
        self._decider, self._snapshot = decider, snapshot
        self._baselines, self._metrics = baselines, metrics

    async def Decide(  # noqa: N802 - the proto's name
        self, request: pb.DecideRequest, context: Context
    ) -> pb.DecideResponse:
        started = perf_counter()
        try:
            answer = self._answer(request)
            if isinstance(answer, pb.DecideResponse):
                return answer
            return await self._finish(request, answer)
        except Exception as error:
            self._metrics.errors.labels(status_of(error)[0].name).inc()
            raise
        finally:
            self._metrics.latency.labels("unary").observe(perf_counter() - started)

    # The stubs know only generators; writing directly lets late answers overtake.
    async def DecideStream(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.DecideStreamRequest],
        context: Context,
    ) -> None:
        # Says that the stream stands, so that a client knows before its first question.
        await context.send_initial_metadata(())
        write = _Writer(context)
        async with asyncio.TaskGroup() as late:
            async for batch in request_iterator:
                started = perf_counter()
                ready = []
                for numbered in batch.requests:
                    answer = self._answered(numbered)
                    if isinstance(answer, Waiting):
                        late.create_task(self._answer_late(numbered, answer, write))
                    else:
                        ready.append(answer)
                if ready:
                    await write(ready)
                self._metrics.latency.labels("stream").observe(perf_counter() - started)

    async def WatchPolicies(  # noqa: N802 - the proto's name
        self, request: pb.WatchPoliciesRequest, context: Context
    ) -> AsyncIterator[pb.WatchPoliciesResponse]:
        try:
            if len(request.service_keys) > MAX_WATCHED:
                raise BadRequest(f"service_keys: at most {MAX_WATCHED:,}")
            for baseline in request.baselines:
                self._learn(baseline)
        except CanaryError as error:
            await context.abort(*status_of(error))
        hashes = [baseline.hash for baseline in request.baselines]
        with (
            self._metrics.watchers.track_inprogress(),
            self._baselines.contact(request.gateway, hashes),
            self._snapshot.watching(request.service_keys) as watcher,
        ):
            # Says that the stream stands, before there may be anything to tell.
            await context.send_initial_metadata(())
            await self._snapshot.loaded()
            async for changed in watcher:
                yield self._told(changed)

    async def GetPerson(  # noqa: N802 - the proto's name
        self, request: pb.GetPersonRequest, context: Context
    ) -> pb.GetPersonResponse:
        return convert.person_message(await self._decider.person(request.service_key, request.user))

    def _told(self, changed: str | frozenset[str]) -> pb.WatchPoliciesResponse:
        if isinstance(changed, frozenset):
            users = sorted(changed - {""})
            return pb.WatchPoliciesResponse(outdated_users=users, all_outdated="" in changed)
        policy = self._snapshot.get(changed)
        message = convert.policy_message(policy) if policy else None
        return pb.WatchPoliciesResponse(service_key=changed, policy=message)

    def _answered(self, numbered: pb.NumberedRequest) -> pb.NumberedResponse | Waiting:
        try:
            answer = self._answer(numbered.request)
        except Exception as error:
            return self._refused(numbered, error)
        if isinstance(answer, Waiting):
            return answer
        return pb.NumberedResponse(id=numbered.id, response=answer)

    def _refused(self, numbered: pb.NumberedRequest, error: Exception) -> pb.NumberedResponse:
        """Whatever is wrong with one request, the others in the stream get their answers."""
        code, text = status_of(error)
        self._metrics.errors.labels(code.name).inc()
        if code is grpc.StatusCode.INTERNAL:
            log.error("request in a stream failed", exc_info=error)
        return pb.NumberedResponse(id=numbered.id, error=text)

    async def _answer_late(
        self, numbered: pb.NumberedRequest, waiting: Waiting, write: _Writer
    ) -> None:
        try:
            response = await self._finish(numbered.request, waiting)
            answered = pb.NumberedResponse(id=numbered.id, response=response)
        except Exception as error:
            answered = self._refused(numbered, error)
        await write([answered])

    def _answer(self, request: pb.DecideRequest) -> pb.DecideResponse | Waiting:
        if request.HasField("baseline"):
            self._learn(request.baseline)
        answer = self._decider.decide_now(convert.question(request))
        if isinstance(answer, Waiting):
            return answer
        if isinstance(answer, Resend):
            self._metrics.resends.inc()
            reads = convert.reads_message(answer.reads)
            return pb.DecideResponse(resend=pb.Resend(reads=reads, baseline=answer.baseline))
        self._metrics.count(self._label(request), answer)
        return pb.DecideResponse(decision=convert.decision(answer))

    async def _finish(self, request: pb.DecideRequest, waiting: Waiting) -> pb.DecideResponse:
        decision = await self._decider.finish(waiting)
        self._metrics.count(self._label(request), decision)
        return pb.DecideResponse(decision=convert.decision(decision))

    def _label(self, request: pb.DecideRequest) -> str:
        """The service key if somebody declared it: clients must not be able to make labels."""
        known = request.baseline_hash or self._snapshot.get(request.service_key)
        return request.service_key if known else "unknown"

    def _learn(self, baseline: pb.Baseline) -> None:
        self._baselines.learn(baseline.hash, convert.policy_document(baseline.policy))


class _Writer:
    """Writes answers to a stream one message at a time, whoever has them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()

    async def __call__(self, responses: Iterable[pb.NumberedResponse]) -> None:
        async with self._lock:
            await self._context.write(pb.DecideStreamResponse(responses=responses))
