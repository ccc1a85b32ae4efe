"""Asks the decision service; while it is gone, decides by the last known policy.

What such a decision may need of the user is heard with the answers before: a question asks for the
person, unless there is a valid copy already; then it says by which membership epoch that is valid,
for the service may decide by a newer policy than was heard of here.
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
from canary_plugin.outcomes.noted import Noted
from canary_plugin.troubles import Troubles


class Wanted(NamedTuple):
    """Whose person would be kept, and how many announcements had been heard by then.

    Without a ``user`` that of any header, for the policy known here reads no persons. With an
    ``epoch`` there is a copy, and the person is wanted only if the service has another epoch.
    """

    user: str
    asked: int
    epoch: int | None = None


class RemoteDecider:
    """Every question goes to the service, with all others that wait at that moment."""

    def __init__(
        self,
        stream: DecideStream,
        policies: KnownPolicies,
        persons: Persons,
        troubles: Troubles,
        hear: Hear = hear_nothing,
        noted: Noted | None = None,
    ) -> None:
        self._stream, self._policies, self._persons = stream, policies, persons
        self._troubles, self._hear, self._noted = troubles, hear, noted or Noted()

    def projection(self, service_key: str, baseline: Baseline | None) -> Projection:
        """See Decider."""
        return self._policies.projection(service_key, baseline)

    def decide(self, question: Question) -> Answer | Awaitable[Answer]:
        """See Decider."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        wanted = self._wanted(question)
        request = _message(question, wanted)
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
            whole = _message(question, wanted, with_baseline=True)
            heard = partial(self._heard, future, question, wanted, True)
            self._stream.ask(whole, question.ends, heard)
            return
        try:
            future.set_result(self._answer(question, response, wanted))
        except Exception as trouble:
            future.set_exception(trouble)

    def _wanted(self, question: Question) -> Wanted | None:
        """Whose person to ask for; None if the request names no user."""
        ruling = self._policies.ruling_on_persons(question.service_key, question.baseline)
        heard = self._persons.heard
        if ruling is None:
            return Wanted("", heard) if question.request.headers else None
        # As the engine asks for it, see PersonNeeded.
        user = question.request.headers.get(ruling.user_id_header, "")
        if not user:
            return None
        has_copy = self._persons.copy(ruling.policy, user) is not None
        return Wanted(user, heard, ruling.policy.membership_epoch if has_copy else None)

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
                if decision.degraded and self._knows_better(question):
                    raise Undecided("degraded", "the service cannot say who the user is")
                self._hear(decision, "remote")
                if wanted is not None and response.HasField("person"):
                    self._keep(question, response.person, wanted)
                return decision
            if not response.HasField("resend") or response.resend.baseline:
                raise Undecided("garbage", "neither a decision nor a question")
        except Undecided as trouble:
            return self.decide_alone(question, trouble)
        return messages.projection(response.resend)

    def _knows_better(self, question: Question) -> bool:
        """Whether there is a copy of the user, whom the service's store could not name in time."""
        ruling = self._policies.ruling_on_persons(question.service_key, question.baseline)
        if ruling is None:
            return False
        user = question.request.headers.get(ruling.user_id_header, "")
        return bool(user) and self._persons.at_best(ruling.policy, user).is_known

    def _keep(self, question: Question, told: pb.GetPersonResponse, wanted: Wanted) -> None:
        # A service with another policy may know the user by another header.
        users = (wanted.user,) if wanted.user else question.request.headers.values()
        if told.user not in users:
            return
        try:
            known = messages.known(told)
            self._persons.keep(question.service_key, told.user, known, wanted.asked)
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
        self._noted.saw(ruling, question.request, decision)
        if ruling.shadow is not None:
            other = engine.shadowed(ruling, question.request, now, self._persons.copy)
            if other is not None:
                self._hear(other, "shadow")
                self._noted.compare(ruling, decision, other)
        return decision


def _message(
    question: Question, wanted: Wanted | None, *, with_baseline: bool = False
) -> pb.DecideRequest:
    if wanted is None:
        return messages.request(question, with_baseline=with_baseline)
    return messages.request(
        question,
        with_baseline=with_baseline,
        want_person=wanted.epoch is None,
        copy_epoch=wanted.epoch or 0,
    )


def _asks_for_baseline(response: pb.DecideResponse | Undecided) -> bool:
    return (
        isinstance(response, pb.DecideResponse)
        and response.HasField("resend")
        and response.resend.baseline
    )
