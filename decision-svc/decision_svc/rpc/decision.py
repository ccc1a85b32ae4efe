"""The DecisionService: what gateways call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import grpc
import structlog
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary_engine.errors import CanaryError
from canary_engine.model import Decision

from decision_svc.baselines import Baselines
from decision_svc.decider import Decider, Informed, Resend, Waiting
from decision_svc.errors import BadRequest
from decision_svc.exposure.protocol import Served
from decision_svc.metrics import Counted, Metrics
from decision_svc.outcomes.memory import Slots
from decision_svc.outcomes.protocol import LATE_S, Outcomes, Reported
from decision_svc.rpc import convert
from decision_svc.rpc import outcomes as outcome_messages
from decision_svc.rpc.errors import status_of
from decision_svc.snapshot import Snapshot

log = structlog.get_logger()

MAX_WATCHED = 10_000
Context = grpc.aio.ServicerContext[Any, Any]
Counts = Counter[Counted]
Heard = Callable[[Served, Iterable[int]], None]
"""Hears of users whom a gateway decided for by itself."""


class DecisionService(decision_pb2_grpc.DecisionServiceServicer):
    """Decides from memory; see decision.proto for what each call promises."""

    def __init__(
        self,
        decider: Decider,
        snapshot: Snapshot,
        baselines: Baselines,
        outcomes: Outcomes,
        told: Slots,
        metrics: Metrics,
        heard: Heard = lambda served, marks: None,
    ) -> None:
        self._decider, self._snapshot = decider, snapshot
        self._baselines, self._outcomes, self._metrics = baselines, outcomes, metrics
        self._told_slots, self._heard = told, heard

    async def Decide(  # noqa: N802 - the proto's name
        self, request: pb.DecideRequest, context: Context
    ) -> pb.DecideResponse:
        started = perf_counter()
        try:
            counts: Counts = Counter()
            answer = self._answer(request, self._decider.now(), counts)
            if isinstance(answer, Waiting):
                answer = await self._finish(request, answer, counts)
            response = pb.DecideResponse()
            self._write(request, answer, response)
            self._metrics.count(counts)
            return response
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
                now, ready = self._decider.now(), pb.DecideStreamResponse()
                counts: Counts = Counter()
                for numbered in batch.requests:
                    try:
                        answer = self._answer(numbered.request, now, counts)
                    except Exception as error:
                        self._refuse(numbered.id, error, ready)
                        continue
                    if isinstance(answer, Waiting):
                        late.create_task(self._answer_late(numbered, answer, write))
                    else:
                        self._add(numbered, answer, ready)
                self._metrics.count(counts)
                if ready.responses:
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
        known = await self._decider.person(request.service_key, request.user)
        return convert.person_message(request.user, known)

    def _told(self, changed: str | frozenset[str]) -> pb.WatchPoliciesResponse:
        if isinstance(changed, frozenset):
            users = sorted(changed - {""})
            return pb.WatchPoliciesResponse(outdated_users=users, all_outdated="" in changed)
        policy = self._snapshot.get(changed) if changed else None
        message = convert.gateway_policy_message(policy) if policy else None
        return pb.WatchPoliciesResponse(service_key=changed, policy=message)

    async def ReportOutcomes(  # noqa: N802 - the proto's name
        self, request: pb.ReportOutcomesRequest, context: Context
    ) -> pb.ReportOutcomesResponse:
        reported = outcome_messages.reported(request)
        self._snapshot.check_loaded()
        told = {r.labels.service_key for r in reported}
        undeclared = sorted(told - self._declared(reported))
        # What was added may be answered late, when nobody declares the service key any more.
        unknown = [
            key for key in undeclared if not await self._outcomes.is_added(request.batch_id, key)
        ]
        if unknown:
            return pb.ReportOutcomesResponse(unknown_service_keys=unknown)
        added = await self._outcomes.add(request.batch_id, reported)
        self._count_outcomes([r for r in reported if r.labels.service_key in added])
        # Of a batch that was added in two goes they are counted with its first service key.
        if min(told, default="") in added:
            for why in ("unlabelled", "foreign", "garbage", "dropped"):
                self._metrics.outcomes.uncounted.labels(why).inc(getattr(request, why))
            self._metrics.unexposed.inc(request.unexposed)
            self._count_shadows(request.shadows)
        self._note_served(request.served)
        return pb.ReportOutcomesResponse()

    def _count_shadows(self, told: Iterable[pb.ShadowTally]) -> None:
        for message in told:
            key, expires_at = message.service_key, message.expires_at.ToDatetime(tzinfo=UTC)
            policy = self._snapshot.get(key)
            # A gateway may tell of a shadow that was replaced since.
            if policy and policy.shadow and policy.shadow.expires_at == expires_at:
                pair = outcome_messages.pair_of(message)
                self._decider.shadows.add(key, expires_at, pair, message.requests)

    def _note_served(self, told: Iterable[pb.Served]) -> None:
        for message in told:
            key = message.service_key
            if self._snapshot.get(key) or self._baselines.declares(key):
                self._heard(outcome_messages.served_of(message), message.marks)

    def _count_outcomes(self, added: Sequence[Reported]) -> None:
        late = [r.tally for r in added if r.age_s > LATE_S]
        self._metrics.outcomes.uncounted.labels("late").inc(sum(t.requests + t.lost for t in late))
        in_time = [r for r in added if r.age_s <= LATE_S]
        self._metrics.outcomes.count(in_time)
        self._told_slots.add(in_time)

    def _declared(self, reported: Iterable[Reported]) -> set[str]:
        """The service keys that somebody declares: gateways must not be able to make labels."""
        return {
            key
            for key in {r.labels.service_key for r in reported}
            if self._snapshot.get(key) or self._baselines.declares(key)
        }

    def _refuse(self, id_: int, error: Exception, ready: pb.DecideStreamResponse) -> None:
        """Whatever is wrong with one request, the others in the stream get their answers."""
        code, text = status_of(error)
        self._metrics.errors.labels(code.name).inc()
        if code is grpc.StatusCode.INTERNAL:
            log.error("request in a stream failed", exc_info=error)
        ready.responses.add(id=id_, error=text)

    async def _answer_late(
        self, numbered: pb.NumberedRequest, waiting: Waiting, write: _Writer
    ) -> None:
        ready, counts = pb.DecideStreamResponse(), Counter[Counted]()
        try:
            answer = await self._finish(numbered.request, waiting, counts)
        except Exception as error:
            self._refuse(numbered.id, error, ready)
        else:
            self._add(numbered, answer, ready)
            self._metrics.count(counts)
        await write(ready)

    def _answer(
        self, request: pb.DecideRequest, now: datetime, counts: Counts
    ) -> Decision | Informed | Resend | Waiting:
        if request.HasField("baseline"):
            self._learn(request.baseline)
        answer = self._decider.decide_now(convert.question(request), now)
        if isinstance(answer, Decision):
            counts[self._label(request), answer.variant, answer.reason, answer.degraded] += 1
        elif isinstance(answer, Informed):
            self._count(request, answer.decision, counts)
        elif isinstance(answer, Resend):
            self._metrics.resends.inc()
        return answer

    async def _finish(
        self, request: pb.DecideRequest, waiting: Waiting, counts: Counts
    ) -> Decision | Informed:
        answer = await self._decider.finish(waiting)
        decision = answer.decision if isinstance(answer, Informed) else answer
        self._count(request, decision, counts)
        return answer

    def _count(self, request: pb.DecideRequest, decision: Decision, counts: Counts) -> None:
        counts[self._label(request), decision.variant, decision.reason, decision.degraded] += 1

    def _label(self, request: pb.DecideRequest) -> str:
        """The service key if somebody declared it: clients must not be able to make labels."""
        known = request.baseline_hash or self._snapshot.get(request.service_key)
        return request.service_key if known else "unknown"

    def _add(
        self,
        numbered: pb.NumberedRequest,
        answer: Decision | Informed | Resend,
        ready: pb.DecideStreamResponse,
    ) -> None:
        self._write(numbered.request, answer, ready.responses.add(id=numbered.id).response)

    def _write(
        self,
        request: pb.DecideRequest,
        answer: Decision | Informed | Resend,
        message: pb.DecideResponse,
    ) -> None:
        convert.write_answer(answer, message)
        message.echo = request.fallback_key
        stored = self._snapshot.get(request.service_key)
        if stored is not None:
            message.stored_revision = stored.revision

    def _learn(self, baseline: pb.Baseline) -> None:
        self._baselines.learn(baseline.hash, convert.policy_document(baseline.policy))


class _Writer:
    """Writes answers to a stream one message at a time, whoever has them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()

    async def __call__(self, ready: pb.DecideStreamResponse) -> None:
        async with self._lock:
            await self._context.write(ready)
