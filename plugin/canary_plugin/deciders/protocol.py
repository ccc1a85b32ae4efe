"""What a decider must do, for the handler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from canary_engine.errors import CanaryError
from canary_engine.model import Decision, Reads, Request

from canary_plugin.config import Baseline


class Undecided(CanaryError):  # noqa: N818 - it says what is the matter
    """There is no decision; ``cause`` is one word for the counter."""

    def __init__(self, cause: str, detail: str = "") -> None:
        self.cause = cause
        super().__init__(f"{cause}: {detail}" if detail else cause)


class Projection(NamedTuple):
    """The reads by which facts are chosen, and their digest; "" if they are a guess."""

    reads: Reads
    digest: str


@dataclass(slots=True, kw_only=True)
class Question:
    """The facts of one request, and how they were chosen."""

    service_key: str
    request: Request
    baseline: Baseline | None
    digest: str
    deadline_s: float


class Decider(Protocol):
    """Answers questions; knows which facts the policy in force reads."""

    def projection(self, service_key: str, baseline: Baseline | None) -> Projection:
        """What to read for a service key. Never waits."""
        ...

    async def decide(self, question: Question) -> Decision | Projection:
        """The decision, or the projection by which the facts must be gathered anew.

        Raises Undecided; takes at most the question's deadline.
        """
        ...
