"""How a request is decided: eight stages in order, the first that matches gives the reason.

The theory on one page
----------------------
A *policy* is data. Compiling it makes one object per stage that has anything to do, in the
order below; deciding asks them one after the other and takes the first answer. Nothing here
reads a clock, a random number or a socket: the moment, the key drawn for an anonymous client
and what the store knows of the user are arguments, so a decision can be repeated exactly,
today in the service, tomorrow in a test, next week in ``explain``.

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
from canary_engine.bucketing import bucket, prefix
from canary_engine.model import (
    NOBODY,
    Anonymous,
    Backend,
    CompatibilityRule,
    Decision,
    Flag,
    Identity,
    Person,
    PersonNeeded,
    Policy,
    Reads,
    Reason,
    Release,
    Request,
    Rule,
    Segment,
    Strategy,
    Variant,
    VersionStatus,
    Whitelist,
)
from canary_engine.network import NetworkSet
from canary_engine.parse import percentage
from canary_engine.rules import RuleIndex, first_of, reader
from canary_engine.segments import membership

Answer = Decision | PersonNeeded


class Asked:
    """One question: the request, what is known of the user, and what stages worked out.

    One is made per request, so it holds no more than it is given until a stage wants more.
    """

    __slots__ = ("_bucket", "_policy", "issued", "now", "person", "request")

    def __init__(
        self, compiled: CompiledPolicy, request: Request, person: Person | None, now: datetime
    ) -> None:
        self._policy = compiled
        self.request = request
        self.person = person
        self.now = now
        self.issued = False
        self._bucket: int | None = None

    def user(self) -> str:
        """The user's id; "" for anonymous clients."""
        return self.request.headers.get(self._policy.user_id_header, "")

    def key(self) -> str:
        """The hash key: the first that the request has, else the one drawn; "" if none."""
        return self._policy.key_of(self.request) or self._drawn()

    def _drawn(self) -> str:
        drawn, anonymous = self.request.fallback_key, self._policy.anonymous
        if not drawn or anonymous is Anonymous.STABLE:
            return ""
        self.issued = anonymous is Anonymous.STICKY_COOKIE
        return drawn

    def bucket(self) -> int | None:
        """The bucket of the hash key under the release's salt; None without a key."""
        if self._bucket is None:
            policy = self._policy
            key = policy.key_of(self.request) or self._drawn()
            if key:
                self._bucket = bucket(policy.prefix, key)
        return self._bucket


_as_decision = tuple.__new__


class Verdict:
    """A decision but for what is new in every request: the bucket, and the cookie's issue."""

    __slots__ = ("_head", "_tails", "plain")

    def __init__(self, plain: Decision) -> None:
        self.plain = plain
        """The decision where no bucket was looked at."""
        at = Decision._fields.index("bucket")
        self._head = plain[:at]
        self._tails = tuple(plain._replace(issue_cookie=issue)[at + 1 :] for issue in (False, True))

    def measured(self, bucket: int, issue: bool) -> Decision:
        """The decision where a bucket was."""
        # Decision(variant=..., version=..., ...) would take three times as long.
        return _as_decision(Decision, self._head + (bucket,) + self._tails[issue])


class Verdicts:
    """Makes decisions of one policy."""

    __slots__ = ("_canary", "_release", "_revision", "_stable")

    def __init__(self, policy: Policy) -> None:
        stable = policy.version_with(VersionStatus.STABLE)
        release = policy.release
        canary = policy.version_named(release.version) if release else None
        self._stable = (stable.version if stable else "", stable.backend if stable else None)
        self._canary = (canary.version if canary else "", canary.backend if canary else None)
        self._release = release.id if release and release.is_in_force else ""
        self._revision = policy.revision

    def make(
        self, variant: Variant, reason: Reason, matched: str = "", *, issue: bool = False
    ) -> Decision:
        """A decision for ``variant`` because of ``reason``."""
        side: tuple[str, Backend | None]
        side = self._canary if variant is Variant.CANARY else self._stable
        return Decision(
            variant, side[0], side[1], reason, matched, None,
            self._release, self._revision, issue,
        )  # fmt: skip

    def verdict(self, variant: Variant, reason: Reason, matched: str = "") -> Verdict:
        """The same, made ready for requests with buckets."""
        return Verdict(self.make(variant, reason, matched))


class NoReleaseStage:
    """Always stable; the only stage of a policy whose release takes no traffic."""

    reason = Reason.NO_RELEASE

    def __init__(self, verdicts: Verdicts, release: Release | None) -> None:
        self._decision = verdicts.make(Variant.STABLE, self.reason)
        self._release = release

    def decide(self, asked: Asked) -> Answer | None:
        return self._decision

    def finding(self, asked: Asked) -> str:
        release = self._release
        if release is None:
            return "there is no release"
        state = "halted" if release.is_in_force else str(release.status)
        return f"release {release.id} is {state}"


class RuleStage:
    """The first of the ordered rules that matches."""

    reason = Reason.RULE

    def __init__(self, verdicts: Verdicts, rules: tuple[Rule, ...]) -> None:
        self._index = RuleIndex(rules)
        self._rules = rules
        self._decisions = {
            rule.name: verdicts.make(rule.variant, self.reason, rule.name) for rule in rules
        }

    def decide(self, asked: Asked) -> Answer | None:
        rule = self._index.first(asked.request)
        return None if rule is None else self._decisions[rule.name]

    def finding(self, asked: Asked) -> str:
        rule = self._index.first(asked.request)
        if rule is None:
            return f"none of {len(self._rules)} rules matches"
        looked_at = f"{rule.source} {rule.key}".strip()
        return f"rule {rule.name!r} on {looked_at} says {rule.variant}"


class CompatibilityStage:
    """Clients whose API version the canary cannot serve."""

    reason = Reason.COMPATIBILITY

    def __init__(
        self, verdicts: Verdicts, header: str, rules: tuple[CompatibilityRule, ...], canary: str
    ) -> None:
        self._header, self._canary = header, canary
        self._refused = {
            rule.source: verdicts.make(Variant.STABLE, self.reason, f"{rule.source} to {rule.to}")
            for rule in rules
            if rule.to == canary and not rule.compatible
        }

    def decide(self, asked: Asked) -> Answer | None:
        return self._refused.get(asked.request.headers.get(self._header, ""))

    def finding(self, asked: Asked) -> str:
        version = asked.request.headers.get(self._header, "")
        if not version:
            return f"the request has no {self._header} header"
        can = "cannot" if version in self._refused else "can"
        return f"{self._canary} {can} serve API version {version!r}"


class WhitelistStage:
    """Addresses, users and consumers that always get the canary."""

    reason = Reason.WHITELIST

    def __init__(self, verdicts: Verdicts, whitelist: Whitelist) -> None:
        self._verdicts = verdicts
        self._network = NetworkSet(whitelist.ips).find if whitelist.ips else None
        self._users = frozenset(whitelist.users)
        self._consumers = frozenset(whitelist.consumers)

    def decide(self, asked: Asked) -> Answer | None:
        request = asked.request
        if self._network and (network := self._network(request.client_ip)):
            return self._because(network)
        if self._users and asked.user() in self._users:
            return self._because("user")
        return self._because("consumer") if request.consumer in self._consumers else None

    def _because(self, matched: str) -> Decision:
        return self._verdicts.make(Variant.CANARY, self.reason, matched)

    def finding(self, asked: Asked) -> str:
        decided = self.decide(asked)
        if isinstance(decided, Decision):
            return f"{decided.matched} is listed"
        return "neither IP, user nor consumer is listed"


class SegmentStage:
    """Groups of users: protected ones first, then eligible ones with their shares."""

    reason = Reason.SEGMENT

    def __init__(
        self, verdicts: Verdicts, segments: tuple[Segment, ...], identity: Identity
    ) -> None:
        protected, eligible = Variant.STABLE, Variant.CANARY
        self._protected = tuple(
            (s, membership(s, identity), verdicts.make(protected, self.reason, s.name))
            for s in segments
            if not s.canary_eligible
        )
        self._eligible = tuple(
            (s, membership(s, identity), verdicts.verdict(eligible, self.reason, s.name))
            for s in segments
            if s.canary_eligible
        )
        self._unknown = verdicts.make(Variant.STABLE, Reason.DEFAULT)

    def decide(self, asked: Asked) -> Answer | None:
        request, person, now = asked.request, asked.person, asked.now
        if person is None:
            return PersonNeeded(asked.user())
        for _, is_member, decision in self._protected:
            if is_member(request, person, now):
                return decision
        if self._protected and not person.is_known:
            return self._unknown
        for segment, is_member, verdict in self._eligible:
            if is_member(request, person, now):
                if segment.share is None:
                    return verdict.plain
                number = asked.bucket()
                if number is not None and number < segment.share:
                    return verdict.measured(number, asked.issued)
        return None

    def finding(self, asked: Asked) -> str:
        person = asked.person or NOBODY
        of = [
            _segment_words(segment)
            for segment, is_member, _ in (*self._protected, *self._eligible)
            if is_member(asked.request, person, asked.now)
        ]
        text = f"the user is in {', '.join(of)}" if of else "the user is in no segment"
        return text if person.is_known else f"{text}, but the store could not be asked"


def _segment_words(segment: Segment) -> str:
    if not segment.canary_eligible:
        return f"{segment.name} (protected)"
    if segment.share is None:
        return f"{segment.name} (eligible)"
    return f"{segment.name} (eligible, {percentage(segment.share)} %)"


class FlagStage:
    """Feature flags that the request or its route names."""

    reason = Reason.FLAG

    def __init__(self, verdicts: Verdicts, policy: Policy) -> None:
        self._header = policy.identity.flags_header
        self._members = {s.name: membership(s, policy.identity) for s in policy.segments}
        self._flags = {
            flag.name: (
                flag,
                frozenset(flag.users),
                prefix("flag:" + flag.name),
                verdicts.verdict(Variant.CANARY, self.reason, flag.name),
            )
            for flag in policy.flags
            if flag.enabled
        }

    def _named(self, asked: Asked) -> list[str]:
        header = asked.request.headers.get(self._header, "") if self._header else ""
        return [*asked.request.flags, *(name.strip() for name in header.split(",") if name)]

    def decide(self, asked: Asked) -> Answer | None:
        for name in self._named(asked):
            if name not in self._flags:
                continue
            flag, users, salt, verdict = self._flags[name]
            user = asked.user()
            if user and user in users:
                return verdict.plain
            if flag.segments and asked.person is None:
                return PersonNeeded(user)
            if self._in_segment(flag, asked):
                return verdict.plain
            key = asked.key() if flag.share else ""
            if key and (number := bucket(salt, key)) < flag.share:
                return verdict.measured(number, asked.issued)
        return None

    def _in_segment(self, flag: Flag, asked: Asked) -> bool:
        person = asked.person or NOBODY
        return any(self._members[name](asked.request, person, asked.now) for name in flag.segments)

    def finding(self, asked: Asked) -> str:
        named = self._named(asked)
        if not named:
            return "neither request nor route names a flag"
        decided = self.decide(asked)
        if isinstance(decided, Decision):
            return f"flag {decided.matched!r} is on for this user"
        return f"off for this user: {', '.join(named)}"


class PercentageStage:
    """The sticky bucket of the hash key against the release's share."""

    reason = Reason.PERCENTAGE

    def __init__(self, verdicts: Verdicts, share: int) -> None:
        self._share = share
        self._canary = verdicts.verdict(Variant.CANARY, self.reason)
        self._stable = verdicts.verdict(Variant.STABLE, Reason.DEFAULT)

    def decide(self, asked: Asked) -> Answer | None:
        share = self._share
        if not share:
            return None
        number = asked.bucket()
        if number is None:
            return None
        verdict = self._canary if number < share else self._stable
        return verdict.measured(number, asked.issued)

    def finding(self, asked: Asked) -> str:
        share = f"{percentage(self._share)} %"
        number = asked.bucket()
        if number is None:
            return f"the request has no hash key to compare with {share}"
        side = "below" if number < self._share else "not below"
        return f"bucket {number} is {side} {share} ({self._share} of 100000)"


class DefaultStage:
    """Everybody else."""

    reason = Reason.DEFAULT

    def __init__(self, verdicts: Verdicts, percentage: PercentageStage | None) -> None:
        self._decision = verdicts.make(Variant.STABLE, self.reason)
        self._issuing = verdicts.make(Variant.STABLE, self.reason, issue=True)
        self._percentage = percentage

    def decide(self, asked: Asked) -> Answer | None:
        # A key that a segment's or a flag's share was measured with must stay: with a new
        # one per request, everybody anonymous would be drawn into the canary in the end.
        return self._issuing if asked.issued else self._decision

    def finding(self, asked: Asked) -> str:
        if self._percentage is None:
            return "nothing else matched"
        return f"nothing else matched, and {self._percentage.finding(asked)}"


Stage = (
    NoReleaseStage | RuleStage | CompatibilityStage | WhitelistStage
    | SegmentStage | FlagStage | PercentageStage | DefaultStage
)  # fmt: skip


_LAST_STAGES = {
    Strategy.COMBINED: frozenset({Reason.SEGMENT, Reason.FLAG, Reason.PERCENTAGE}),
    Strategy.PERCENTAGE: frozenset({Reason.PERCENTAGE}),
    Strategy.USER_SEGMENT: frozenset({Reason.SEGMENT}),
    Strategy.FEATURE_FLAG: frozenset({Reason.FLAG}),
}


class CompiledPolicy:
    """A policy made ready to decide. Immutable; share it between threads as you like."""

    __slots__ = (
        "anonymous", "deciders", "key_of", "key_readers", "policy", "prefix", "reads",
        "reads_digest", "stages", "user_id_header",
    )  # fmt: skip

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.reads: Reads = reads.of(policy)
        self.reads_digest = reads.digest(self.reads)
        self.user_id_header = policy.identity.user_id_header
        self.anonymous = policy.bucketing.anonymous
        self.prefix = prefix(policy.release.salt if policy.release else "")
        self.key_readers = tuple(reader(k.source, k.key) for k in reads.hash_keys(policy))
        self.key_of = first_of(self.key_readers)
        self.stages: tuple[Stage, ...] = _stages(policy)
        self.deciders = tuple(stage.decide for stage in self.stages)


def _stages(policy: Policy) -> tuple[Stage, ...]:
    """The stages that have anything to do, in the order of the table above."""
    verdicts = Verdicts(policy)
    release = policy.release
    if release is None or not release.is_in_force or release.halted:
        return (NoReleaseStage(verdicts, release),)
    stages: list[Stage] = []
    if policy.rules:
        stages.append(RuleStage(verdicts, policy.rules))
    if policy.compatibility.header and policy.compatibility.rules:
        stages.append(
            CompatibilityStage(
                verdicts, policy.compatibility.header, policy.compatibility.rules, release.version
            )
        )
    if policy.whitelist != Whitelist():
        stages.append(WhitelistStage(verdicts, policy.whitelist))
    last = _LAST_STAGES[release.strategy]
    if policy.segments and Reason.SEGMENT in last:
        stages.append(SegmentStage(verdicts, policy.segments, policy.identity))
    if policy.flags and Reason.FLAG in last:
        stages.append(FlagStage(verdicts, policy))
    drawn = None
    if Reason.PERCENTAGE in last:
        drawn = PercentageStage(verdicts, release.share)
        stages.append(drawn)
    return (*stages, DefaultStage(verdicts, drawn))


def decide(
    compiled: CompiledPolicy, request: Request, person: Person | None, now: datetime
) -> Answer:
    """Where ``request`` goes at ``now``, and why.

    ``person`` is what the store knows of the user, or None if it was not asked yet;
    PersonNeeded is answered only then.
    """
    if person is None and not request.headers.get(compiled.user_id_header):
        asked = Asked(compiled, request, NOBODY, now)
    else:
        asked = Asked(compiled, request, person, now)
    for ask in compiled.deciders:
        answer = ask(asked)
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
    asked = Asked(compiled, request, person, now)
    at_work = {stage.reason: stage for stage in compiled.stages}
    findings = []
    for reason in Reason:
        stage = at_work.get(reason)
        text = stage.finding(asked) if stage else _why_absent(compiled.policy, reason)
        findings.append(Finding(reason=reason, finding=text, decided=decision.reason is reason))
    return decision, tuple(findings)


def _why_absent(policy: Policy, reason: Reason) -> str:
    release = policy.release
    if release is None or not release.is_in_force or release.halted:
        return "not asked: no release takes traffic"
    if reason is Reason.NO_RELEASE:
        return f"release {release.id} is {release.status}"
    if reason in _LAST_STAGES[Strategy.COMBINED] - _LAST_STAGES[release.strategy]:
        return f"takes no part in strategy {release.strategy}"
    return "the policy has none"
