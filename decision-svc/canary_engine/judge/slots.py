"""What both sides did in the same ten seconds, as counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from canary_engine.histogram import Histogram
from canary_engine.outcomes import FIRST_ERROR, Outcomes, errors_of, requests_of

SLOT_S = 10
_FIRST_CLIENT_ERROR = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The requests of one cohort in one slot; nobody changes ``latency`` any more.

    It is the time at the backend: sending a request to the canary takes the gateway a call more
    than leaving it on stable, and a busy gateway's calls must not be held against a version.
    """

    requests: int = 0
    errors: int = 0
    client_errors: int = 0
    latency: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Canary: users whom the draw put there. Control: users of that draw who stand for stable.

    ``expected`` is the canary's share of the traffic of both by the weights in force, above 0 and
    below 1; None where that cannot be said, as when the weight changed within the slot.
    """

    start_s: int
    canary: Side = field(default_factory=Side)
    control: Side = field(default_factory=Side)
    expected: float | None = None


def side(outcomes: Outcomes) -> Side:
    """The side that a cohort's outcomes make."""
    client = range(_FIRST_CLIENT_ERROR, FIRST_ERROR)
    statuses = outcomes.statuses
    return Side(
        requests=requests_of(statuses),
        errors=errors_of(statuses),
        client_errors=sum(n for status, n in statuses.items() if status in client),
        latency=outcomes.upstream,
    )
