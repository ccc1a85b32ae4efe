"""Evidence that one side has more than its share of events; it may be looked at any time.

Given that an event (an error, say) arrives, and that a request of the canary is r times as likely
to be one as a request of control, the canary owns it with chance

    p(r) = r s / (r s + 1 - s),      s = the canary's share of both sides' requests in that slot.

So of n events in a slot, a of them the canary's, the likelihood ratio of r against a boundary b is

    (r / b)^a ((1 + (b - 1) s) / (1 + (r - 1) s))^n

and the product over slots is, if the truth is b, a martingale that starts at 1. By Ville's
inequality it ever reaches 1/x with chance x at most, however often anybody looks: the e-value
(Lindon, Malek: "Anytime-Valid Inference for Multinomial Count Data", NeurIPS 2022). It grows with
a if r > b, so a truth below b makes large values rarer still, and b stands for all of them.

Given both sides' requests and n, what the canary owns under b = 1 is hypergeometric, not binomial.
That is smaller in convex order (Hoeffding: "Probability Inequalities for Sums of Bounded Random
Variables", JASA 58, 1963, theorem 4), and the ratio is convex in a: its expectation is at most 1.

Nobody knows r, nor when the canary goes bad, so the value is a mixture, which is an e-value again:
over risks r with prior weights, and over the slot in which the ratio starts to count. MASS_LATER
of the weight is kept back and is spent, as events come, on starts at the next slot, after the
schedule R(n) = MASS_LATER / (1 + ln(1 + n / 50)). Without this a canary that was well for a day
would have evidence for itself that takes another day of errors to undo.

Two things are approximate. Within a slot that still grows the value is recomputed with the share
so far, so it is exact at the ends of slots and looked at in between; the benchmark ``judge`` looks
every second and counts. And events that have one cause are not independent: see ``dispersion``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import exp, log, log1p

MASS_LATER = 0.15
LARGEST = 1e300
"""Larger values are this one."""
_PACE = 50
_LARGEST_LOG = 690.0


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Against which boundary evidence is gathered, and for which risks with which weights.

    ``clump`` is how many events one cause makes at least; ratios are taken to the power of 1 /
    clump, which has an expectation of at most 1 as well (Jensen) and counts so many events as one.
    """

    risks: tuple[float, ...]
    prior: tuple[float, ...]
    boundary: float = 1.0
    clump: float = 1.0

    @cached_property
    def parts(self) -> tuple[tuple[float, float, float], ...]:
        """Of each risk: its weight, by how much it is above 1, what an event of the canary adds."""
        return tuple(
            (weight, risk - 1, log(risk / self.boundary))
            for risk, weight in zip(self.risks, self.prior, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """How far it is: the mixture's parts, the weight not yet spent, the events so far.

    ``e_value`` is their sum, ``highest`` the largest there was.
    """

    parts: tuple[float, ...]
    unspent: float = MASS_LATER
    events: int = 0
    e_value: float = 1.0
    highest: float = 1.0


def begin(mixture: Mixture) -> Process:
    """A process that has seen nothing; its e-value is 1."""
    return Process(parts=tuple(weight * (1 - MASS_LATER) for weight in mixture.prior))


def add(
    mixture: Mixture,
    process: Process,
    *,
    canary: int,
    control: int,
    share: float,
    clump: float = 1.0,
) -> Process:
    """The process after a slot with so many events of each side.

    ``share`` is the canary's of the requests; where only one side has any, an event says nothing.
    ``clump`` counts if it is more than the mixture's; it must be known from earlier slots.
    """
    events = canary + control
    if not events or not 0 < share < 1:
        return process
    unspent = MASS_LATER / (1 + log1p(process.events / _PACE))
    spent = process.unspent - unspent
    at_boundary = log1p((mixture.boundary - 1) * share)
    clump = max(clump, mixture.clump)
    own, each = canary / clump, events / clump
    parts = []
    for before, (weight, above, gain) in zip(process.parts, mixture.parts, strict=True):
        ratio = own * gain - each * (log1p(above * share) - at_boundary)
        part = (before + weight * spent) * exp(ratio if ratio < _LARGEST_LOG else _LARGEST_LOG)
        parts.append(part if part < LARGEST else LARGEST)
    e_value = min(sum(parts) + unspent, LARGEST)
    return Process(
        parts=tuple(parts),
        unspent=unspent,
        events=process.events + events,
        e_value=e_value,
        highest=max(process.highest, e_value),
    )
