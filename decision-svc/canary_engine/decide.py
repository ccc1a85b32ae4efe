"""How a request is decided: eight stages in order, the first that matches gives the reason.

The theory on one page
----------------------
A *policy* is data. Compiling it makes a stage of each part that has anything to do
(``stages/``, a file each), in the order below; deciding asks them one after the other and takes
the first answer. Nothing here reads a clock, a random number or a socket: the moment, the key
drawn for an anonymous client and what the store knows of the user are arguments, so a decision
can be repeated exactly, today in the service, tomorrow in a test, next week in ``explain``.

====================  =============================================  ==================
stage (= reason)      matches when                                   gives
====================  =============================================  ==================
no-release            no release is in force, or it is halted        stable
rule                  the first of the ordered rules that matches    as the rule says
compatibility         the canary cannot serve the client's API       stable
whitelist             the IP, user or consumer is listed             canary
segment               a protected segment has the user; or an        stable; or
                      eligible one has (and the bucket is in its     canary
                      share)
flag                  a flag that request or route names is on       canary
percentage            the bucket lies under the release's share      canary
default               always                                         stable
====================  =============================================  ==================

**Sticky.** The bucket depends on salt and hash key alone, and ``bucket < share`` is the only
comparison: raising a share adds users, lowering it removes users, and nobody is exchanged.

**Protection comes first** within the segment stage: a user in a protected segment gets
stable even where an eligible segment has them too.

**Fast, because compiled.** A stage is a function that holds what it needs of the policy, made
ready: rules, networks and tiers are looked up rather than tried, and most decisions without a
bucket are made when the policy is compiled. Stages share nothing, and nothing is kept from one
request to the next but the numbers of addresses that came lately (``network.py``).

**What the store knows** is asked for only when a stage is reached that needs it: ``decide``
then answers PersonNeeded instead of a decision, the caller brings a Person and asks again.
If the store cannot say (``Person.is_known`` is False), a policy that protects segments
answers stable, because protecting wrongly costs a preview and exposing wrongly costs trust;
any other policy goes on as if the user were in no segment. Both are marked ``degraded``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from canary_engine import reads
from canary_engine.model import (
    NOBODY,
    Answer,
    Decision,
    Person,
    Policy,
    Reads,
    Reason,
    Request,
    Strategy,
)
from canary_engine.stages import CHOSEN_BY, stages_of
from canary_engine.stages.stage import Stage


class CompiledPolicy:
    """A policy made ready to decide. Immutable; share it between threads as you like."""

    __slots__ = ("deciders", "policy", "reads", "reads_digest", "stages", "user_id_header")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.reads: Reads = reads.of(policy)
        self.reads_digest = reads.digest(self.reads)
        self.user_id_header = policy.identity.user_id_header
        self.stages: tuple[Stage, ...] = stages_of(policy)
        self.deciders = tuple(stage.decide for stage in self.stages)


def decide(
    compiled: CompiledPolicy, request: Request, person: Person | None, now: datetime
) -> Answer:
    """Where ``request`` goes at ``now``, and why.

    ``person`` is what the store knows of the user, or None if it was not asked yet;
    PersonNeeded is answered only then.
    """
    if person is None and not request.headers.get(compiled.user_id_header):
        person = NOBODY
    for ask in compiled.deciders:
        answer = ask(request, person, now)
        if answer is not None:
            if person is not None and not person.is_known and type(answer) is Decision:
                return answer._replace(degraded=True)
            return answer
    raise AssertionError("the last stage always decides")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one stage says about a request."""

    reason: Reason
    finding: str
    decided: bool


def explain(
    compiled: CompiledPolicy, request: Request, person: Person, now: datetime
) -> tuple[Decision, tuple[Finding, ...]]:
    """The decision, and a finding for every one of the eight stages, in their order."""
    decision = decide(compiled, request, person, now)
    assert isinstance(decision, Decision)
    at_work = {stage.reason: stage for stage in compiled.stages}
    findings = []
    for reason in Reason:
        stage = at_work.get(reason)
        text = stage.find(request, person, now) if stage else _why_absent(compiled.policy, reason)
        findings.append(Finding(reason=reason, finding=text, decided=decision.reason is reason))
    return decision, tuple(findings)


def _why_absent(policy: Policy, reason: Reason) -> str:
    release = policy.release
    if release is None or not release.is_in_force or release.halted:
        return "not asked: no release takes traffic"
    if reason is Reason.NO_RELEASE:
        return f"release {release.id} is {release.status}"
    if reason in CHOSEN_BY[Strategy.COMBINED] - CHOSEN_BY[release.strategy]:
        return f"takes no part in strategy {release.strategy}"
    return "the policy has none"
