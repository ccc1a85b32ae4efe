"""Asks the decision service; while it is gone, decides by the last known policy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime

from canary.decision.v1 import decision_pb2 as pb
from canary_engine import decide as engine
from canary_engine.model import UNKNOWN, Decision

from canary_plugin.config import Baseline
from canary_plugin.deciders import messages
from canary_plugin.deciders.policies import KnownPolicies
from canary_plugin.deciders.protocol import (
    Answer,
    Hear,
    Projection,
    Question,
    Undecided,
    hear_nothing,
)
from canary_plugin.deciders.stream import DecideStream
from canary_plugin.troubles import Troubles


class RemoteDecider:
    """Every question goes to the service, with all others that wait at that moment."""

    def __init__(
        self,
        stream: DecideStream,
        policies: KnownPolicies,
        troubles: Troubles,
        hear: Hear = hear_nothing,
    ) -> None:
        self._stream, self._policies, self._troubles = stream, policies, troubles
        self._hear = hear

    def projection(self, service_key: str, baseline: Baseline | None) -> Projection:
        """See Decider."""
        return self._policies.projection(service_key, baseline)

    def decide(self, question: Question) -> Answer | Awaitable[Answer]:
        """See Decider."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answered(response: pb.DecideResponse | Undecided) -> None:
            if future.done():
                return  # nobody waits any more
            if (
                isinstance(response, pb.DecideResponse)
                and response.HasField("resend")
                and response.resend.baseline
                and question.baseline
            ):
                whole = messages.request(question, with_baseline=True)
                self._stream.ask(whole, question.ends, again)
            else:
                again(response)

        def again(response: pb.DecideResponse | Undecided) -> None:
            if future.done():
                return
            try:
                future.set_result(self._answer(question, response))
            except Exception as trouble:
                future.set_exception(trouble)

        request = messages.request(question, with_baseline=False)
        self._stream.ask(request, question.ends, answered)
        return future

    def _answer(self, question: Question, response: pb.DecideResponse | Undecided) -> Answer:
        """What a response says. Raises Undecided if nothing known decides instead of it."""
        try:
            if isinstance(response, Undecided):
                raise response
            if response.HasField("decision"):
                decision = messages.decision(response.decision)
                self._hear(decision, "remote")
                return decision
            if not response.HasField("resend") or response.resend.baseline:
                raise Undecided("garbage", "neither a decision nor a question")
        except Undecided as trouble:
            return self._decide_alone(question, trouble)
        wanted = messages.projection(response.resend.reads)
        known = self._policies.projection(question.service_key, question.baseline)
        return known if known.digest == wanted.digest else wanted

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
        self._hear(decision, "alone")
        return decision
