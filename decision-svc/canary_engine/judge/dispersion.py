"""How many events one cause makes, as far as the slots so far tell: the clump of the next.

Users try again, and one user's errors are all on one side. Then whose the events of a slot are
varies more than a draw of each by itself would have it, and by that factor evidence is overstated.
The factor is the sum over slots of (a - n p)^2 by that of n p (1 - p), where p is what the relative
risk found so far makes of the canary's share; it is that, and not the share alone, so that a canary
that is worse does not look like one whose errors clump.

A slot is counted by the factor of the slots before it, so what it is raised to the power of is
settled beforehand and its expectation stays at most 1, whatever the factor is.
"""

from __future__ import annotations

from dataclasses import dataclass

USUAL = 2.0
"""So much variance, just as large as it should be, is taken as seen before the first slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispersion:
    """Squared deviations of all slots, and what they should be where nothing clumps."""

    squares: float = 0.0
    expected: float = 0.0

    @property
    def clump(self) -> float:
        """How many events count as one, 1 at least."""
        return max(1.0, (USUAL + self.squares) / (USUAL + self.expected))


def add(
    dispersion: Dispersion, *, canary: int, control: int, share: float, risk: float
) -> Dispersion:
    """The same after a slot with so many events of each side, at a relative risk of ``risk``."""
    events = canary + control
    if not events or not 0 < share < 1:
        return dispersion
    owned = risk * share / (risk * share + 1 - share)
    return Dispersion(
        squares=dispersion.squares + (canary - events * owned) ** 2,
        expected=dispersion.expected + events * owned * (1 - owned),
    )
