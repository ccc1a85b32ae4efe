"""What a decider must do, for the handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from canary_engine.errors import CanaryError
from canary_engine.model import (
    DEFAULT_OVERRIDE_COOKIE,
    DEFAULT_OVERRIDE_HEADER,
    Decision,
    Reads,
    Request,
)

from canary_plugin.config import Baseline


class Undecided(CanaryError):  # noqa: N818 - it says what is the matter
    """There is no decision; ``cause`` is one word for the counter."""

    def __init__(self, cause: str, detail: str = "") -> None:
        self.cause = cause
        super().__init__(f"{cause}: {detail}" if detail else cause)


class Projection(NamedTuple):
    """The reads by which facts are chosen, their digest, and the header that names the user; ""
    where there is no policy to say so. The header with an override ends at the gateway.
    """

    reads: Reads
    digest: str
    user_id_header: str = ""
    override_header: str = DEFAULT_OVERRIDE_HEADER
    override_cookie: str = DEFAULT_OVERRIDE_COOKIE


Answer = Decision | Projection
Hear = Callable[[Decision, str], None]
"""Hears of a decision, and who made it: remote, alone (instead of the service), local, or
shadow: what a shadow would have said beside a local one."""


@dataclass(slots=True, kw_only=True)
class Question:
    """The facts of one request, and how they were chosen; ``ends`` is the monotonic time by
    which there must be an answer.
    """

    service_key: str
    request: Request
    baseline: Baseline | None
    digest: str
    ends: float


def hear_nothing(decision: Decision, decider: str) -> None:
    """For whoever does not count decisions."""


class Decider(Protocol):
    """Answers questions; knows which facts the policy in force reads."""

    def projection(self, service_key: str, baseline: Baseline | None) -> Projection:
        """What to read for a service key. Never waits."""
        ...

    def decide(self, question: Question) -> Answer | Awaitable[Answer]:
        """The decision, or the projection by which the facts must be gathered anew.

        At once where it can be had at once; else by the question's end. Raises Undecided.
        """
        ...

    def decide_alone(self, question: Question, trouble: Undecided) -> Decision:
        """The decision by the last known policy, without asking anybody.

        Raises ``trouble``, which is why, if nothing is known or the question's facts were
        gathered for another policy.
        """
        ...
