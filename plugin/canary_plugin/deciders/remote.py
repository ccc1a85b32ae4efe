"""Asks the decision service; while it is gone, decides by the last known policy.

What such a decision may need of the user is heard with the answers before: where the policy reads
persons, a question asks for the user's, unless there is a valid copy of it already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from canary.decision.v1 import decision_pb2 as pb
from canary_engine import decide as engine
from canary_engine.model import Decision, PersonNeeded

from canary_plugin.config import Baseline
from canary_plugin.deciders import messages
from canary_plugin.deciders.persons import Persons
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


class Wanted(NamedTuple):
    """Whose person is asked for, and how many announcements had been heard by then."""

    user: str
    asked: int


class RemoteDecider:
    """Every question goes to the service, with all others that wait at that moment."""

    def __init__(
        self,
        stream: DecideStream,
        policies: KnownPolicies,
        persons: Persons,
        troubles: Troubles,
        hear: Hear = hear_nothing,
    ) -> None:
        self._stream, self._policies, self._persons = stream, policies, persons
        self._troubles, self._hear = troubles, hear

    def projection(self, service_key: str, baseline: Baseline | None) -> Projection:
        """See Decider."""
        return self._policies.projection(service_key, baseline)

    def decide(self, question: Question) -> Answer | Awaitable[Answer]:
        """See Decider."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        wanted = self._wanted(question)
        request = messages.request(question, want_person=wanted is not None)
        # A closure that knows itself would hold the question's baseline until garbage is collected.
        heard = partial(self._heard, future, question, wanted, False)
        self._stream.ask(request, question.ends, heard)
        return future

    def _heard(
        self,
        future: asyncio.Future[Answer],
        question: Question,
        wanted: Wanted | None,
        is_whole: bool,
        response: pb.DecideResponse | Undecided,
    ) -> None:
        """Take over a response; send the baseline whole, once, if that is what it asks for."""
        if future.done():
            return  # nobody waits any more
        if not is_whole and question.baseline and _asks_for_baseline(response):
            whole = messages.request(question, with_baseline=True, want_person=wanted is not None)
            heard = partial(self._heard, future, question, wanted, True)
            self._stream.ask(whole, question.ends, heard)
            return
        try:
            future.set_result(self._answer(question, response, wanted))
        except Exception as trouble:
            future.set_exception(trouble)

    def _wanted(self, question: Question) -> Wanted | None:
        """Whose person to ask for; None if the decision reads none or a valid copy is here."""
        ruling = self._policies.ruling_on_persons(question.service_key, question.baseline)
        if ruling is None:
            return None
        # As the engine asks for it, see PersonNeeded.
        user = question.request.headers.get(ruling.user_id_header, "")
        if not user or self._persons.copy(ruling.policy, user) is not None:
            return None
        return Wanted(user, self._persons.heard)

    def _answer(
        self,
        question: Question,
        response: pb.DecideResponse | Undecided,
        wanted: Wanted | None,
    ) -> Answer:
        """What a response says. Raises Undecided if nothing known decides instead of it."""
        try:
            if isinstance(response, Undecided):
                raise response
            if response.echo != question.request.fallback_key:
                raise Undecided("garbage", "an answer to another question")
            if response.stored_revision < self._policies.revision(question.service_key):
                self._stream.leave("the service knows an older policy than this gateway")
                raise Undecided("behind", "the service knows an older policy than this gateway")
            if response.HasField("decision"):
                decision = messages.decision(response.decision)
                self._hear(decision, "remote")
                if wanted is not None and response.HasField("person"):
                    self._keep(question.service_key, response.person, wanted)
                return decision
            if not response.HasField("resend") or response.resend.baseline:
                raise Undecided("garbage", "neither a decision nor a question")
        except Undecided as trouble:
            return self.decide_alone(question, trouble)
        return messages.projection(response.resend)

    def _keep(self, service_key: str, told: pb.GetPersonResponse, wanted: Wanted) -> None:
        # A service with another policy may know the user by another header.
        if told.user != wanted.user:
            return
        try:
            self._persons.keep(service_key, told.user, messages.known(told), wanted.asked)
        except Undecided as trouble:  # the decision is good all the same
            self._troubles.count(trouble.cause, str(trouble))

    def decide_alone(self, question: Question, trouble: Undecided) -> Decision:
        """See Decider."""
        ruling = self._policies.ruling(question.service_key, question.baseline)
        if ruling is None or (question.digest and question.digest != ruling.reads_digest):
            raise trouble
        self._troubles.count(f"alone-{trouble.cause}", str(trouble))
        now = datetime.now(UTC)
        decision = engine.decide(ruling, question.request, None, now)
        if isinstance(decision, PersonNeeded):
            person = self._persons.at_best(ruling.policy, decision.user)
            decision = engine.decide(ruling, question.request, person, now)
        assert isinstance(decision, Decision), "a person was given"
        self._hear(decision, "alone")
        return decision


def _asks_for_baseline(response: pb.DecideResponse | Undecided) -> bool:
    return (
        isinstance(response, pb.DecideResponse)
        and response.HasField("resend")
        and response.resend.baseline
    )
