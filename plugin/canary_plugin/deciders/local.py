"""Decides in the plugin's own process, by the policies that the service streams."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from time import monotonic

from canary_engine import decide as engine
from canary_engine.decide import CompiledPolicy
from canary_engine.model import Decision, PersonNeeded

from canary_plugin.config import Baseline
from canary_plugin.deciders.persons import Persons
from canary_plugin.deciders.policies import KnownPolicies
from canary_plugin.deciders.protocol import (
    Answer,
    Decider,
    Hear,
    Projection,
    Question,
    Undecided,
    hear_nothing,
)
from canary_plugin.outcomes.noted import Noted


class LocalDecider:
    """The same engine as the service's. Until a policy is known, ``remote`` is asked instead."""

    def __init__(
        self,
        policies: KnownPolicies,
        persons: Persons,
        remote: Decider,
        hear: Hear = hear_nothing,
        noted: Noted | None = None,
    ) -> None:
        self._policies, self._persons, self._remote = policies, persons, remote
        self._hear, self._noted = hear, noted or Noted()

    def projection(self, service_key: str, baseline: Baseline | None) -> Projection:
        """See Decider."""
        return self._policies.projection(service_key, baseline)

    def decide(self, question: Question) -> Answer | Awaitable[Answer]:
        """See Decider."""
        ruling = self._policies.ruling(question.service_key, question.baseline)
        if ruling is None:
            return self._remote.decide(question)
        if question.digest and question.digest != ruling.reads_digest:
            return self._policies.projection(question.service_key, question.baseline)
        now = datetime.now(UTC)
        answer = engine.decide(ruling, question.request, None, now)
        if not isinstance(answer, PersonNeeded):
            return self._told(ruling, question, answer, now)
        person = self._persons.at_once(ruling.policy, answer.user)
        if person is None:
            return self._decide_later(ruling, question, answer.user)
        answer = engine.decide(ruling, question.request, person, now)
        return self._told(ruling, question, answer, now)

    def decide_alone(self, question: Question, trouble: Undecided) -> Decision:
        """See Decider."""
        return self._remote.decide_alone(question, trouble)

    async def _decide_later(
        self, ruling: CompiledPolicy, question: Question, user: str
    ) -> Decision:
        left_s = max(question.ends - monotonic(), 0.0)
        person = await self._persons.read(ruling.policy, user, left_s)
        now = datetime.now(UTC)
        answer = engine.decide(ruling, question.request, person, now)
        return self._told(ruling, question, answer, now)

    def _told(
        self,
        ruling: CompiledPolicy,
        question: Question,
        answer: Decision | PersonNeeded,
        now: datetime,
    ) -> Decision:
        assert isinstance(answer, Decision), "a person was given"
        self._hear(answer, "local")
        self._noted.saw(ruling, question.request, answer)
        if ruling.shadow is not None:
            other = engine.shadowed(ruling, question.request, now, self._persons.copy)
            if other is not None:
                self._hear(other, "shadow")
                self._noted.compare(ruling, answer, other)
        return answer
