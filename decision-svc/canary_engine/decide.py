"""How a request is decided: nine stages in order, the first that matches gives the reason.

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
override              a signed token in the request is believed      as the token says
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
request to the next but the numbers of addresses and the tokens that came lately
(``network.py``, ``override.py``).

**What a client is told** of its API version (``Decision.deprecation``) has nothing to do with
where it goes: every stage's decision carries it, that of no-release too. A policy without
deprecated API versions does not look for it.

**What the store knows** is asked for only when a stage is reached that needs it: ``decide``
then answers PersonNeeded instead of a decision, the caller brings a Person and asks again.
If the store cannot say (``Person.is_known`` is False), a policy that protects segments
answers stable, because protecting wrongly costs a preview and exposing wrongly costs trust;
any other policy goes on as if the user were in no segment. Both are marked ``degraded``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from canary_engine import api_version, reads
from canary_engine.exposure import who_of
from canary_engine.model import (
    NOBODY,
    UNKNOWN,
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

    __slots__ = (
        "deciders", "policy", "reads", "reads_digest", "shadow", "stages", "user_id_header", "who",
    )  # fmt: skip

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.reads: Reads = reads.of(policy)
        self.reads_digest = reads.digest(self.reads)
        self.user_id_header = policy.identity.user_id_header
        self.who = who_of(policy)
        """Tells users apart; see ``exposure``."""
        self.stages: tuple[Stage, ...] = stages_of(policy)
        deciders = tuple(stage.decide for stage in self.stages)
        self.deciders = api_version.telling(policy.compatibility, deciders)
        self.shadow = _shadow(policy)
        """What is decided beside it; None if nothing is."""


def _shadow(policy: Policy) -> CompiledPolicy | None:
    if policy.shadow is None:
        return None
    # The store knows listed members by the epoch of the policy that it keeps.
    epoch = policy.membership_epoch
    return CompiledPolicy(replace(policy.shadow.policy, membership_epoch=epoch))


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
    """The decision, and a finding for every one of the nine stages, in their order."""
    decision = decide(compiled, request, person, now)
    assert isinstance(decision, Decision)
    at_work = {stage.reason: stage for stage in compiled.stages}
    findings = []
    for reason in Reason:
        stage = at_work.get(reason)
        if stage is None:
            text = _why_absent(compiled.policy, reason)
        elif reason is Reason.DEFAULT and decision.reason is not reason:
            text = f"not asked: {decision.reason} decided"
        else:
            text = stage.find(request, person, now)
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


def shadowed(
    compiled: CompiledPolicy,
    request: Request,
    now: datetime,
    person_of: Callable[[Policy, str], Person | None],
) -> Decision | None:
    """What the shadow decides, without acting; None if there is none, or it has expired.

    ``person_of`` gives what is in memory of a user: nobody waits for a shadow, and one whom it
    does not know is unknown.
    """
    shadow, policy = compiled.shadow, compiled.policy
    if shadow is None or policy.shadow is None or now >= policy.shadow.expires_at:
        return None
    answer = decide(shadow, request, None, now)
    if not isinstance(answer, Decision):
        person = person_of(shadow.policy, answer.user) or UNKNOWN
        answer = decide(shadow, request, person, now)
    assert isinstance(answer, Decision), "a person was given"
    return answer
