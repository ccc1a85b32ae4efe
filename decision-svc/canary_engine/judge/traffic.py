"""Whether canary and control get the traffic that the weights give them: an alarm, never a verdict.

The same evidence as in ``process``, with requests as events: given that a request of either side
arrives, it is the canary's with the chance that the weights say. Users make many requests each and
some make thousands, so REQUESTS_OF_ONE count as one, and a small difference is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from canary_engine.judge import process
from canary_engine.judge.process import Mixture, Process
from canary_engine.judge.slots import Slot

REQUESTS_OF_ONE = 20
CHANCE = 0.001
LEAST_DEVIATION = 0.1
_ODDS = (0.5, 0.8, 1.25, 2.0)
MIXTURE = Mixture(risks=_ODDS, prior=(0.25, 0.25, 0.25, 0.25), clump=REQUESTS_OF_ONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests of both sides in slots whose weights are known, and those expected of the canary."""

    canary: int = 0
    both: int = 0
    expected: float = 0.0
    odds: Process = field(default_factory=lambda: process.begin(MIXTURE))

    @property
    def deviation(self) -> float | None:
        """By which part the canary's requests differ from what is expected; None if unknown."""
        return self.canary / self.expected - 1 if self.expected > 0 else None

    @property
    def is_alarming(self) -> bool:
        """Whether it is both proven and large enough to matter."""
        deviation = self.deviation
        return (
            deviation is not None
            and abs(deviation) >= LEAST_DEVIATION
            and self.odds.e_value >= 1 / CHANCE
        )


def add(traffic: Traffic, slot: Slot) -> Traffic:
    """The same after a slot."""
    canary, control = slot.canary.requests, slot.control.requests
    share = slot.expected
    if share is None or not 0 < share < 1 or not canary + control:
        return traffic
    return Traffic(
        canary=traffic.canary + canary,
        both=traffic.both + canary + control,
        expected=traffic.expected + share * (canary + control),
        odds=process.add(MIXTURE, traffic.odds, canary=canary, control=control, share=share),
    )
