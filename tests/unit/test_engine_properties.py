"""What holds for every policy and every request, not only for those somebody thought of."""

from __future__ import annotations

import ipaddress
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from math import sqrt
from typing import Any

import pytest
import re2
from canary.policy.v1 import policy_pb2
from canary_documents import to_document, to_message
from canary_engine import parse
from canary_engine.bucketing import bucket, prefix
from canary_engine.decide import CompiledPolicy, decide, explain
from canary_engine.errors import InvalidPolicy
from canary_engine.keys import HashKeys
from canary_engine.model import (
    BUCKETS,
    NOBODY,
    UNKNOWN,
    Anonymous,
    Answer,
    ApiVersion,
    Backend,
    Bucketing,
    Compatibility,
    CompatibilityRule,
    Criteria,
    Decision,
    Flag,
    HashKey,
    Identity,
    Overrides,
    Person,
    PersonNeeded,
    Policy,
    Profile,
    Reads,
    Reason,
    Registered,
    Release,
    ReleaseStatus,
    Request,
    Rule,
    Segment,
    Source,
    Strategy,
    Variant,
    Version,
    VersionStatus,
    Whitelist,
)
from canary_engine.network import NetworkSet
from canary_engine.rules import RuleIndex
from canary_engine.segments import TIER, membership, membership_by_tier
from canary_engine.widening import widening
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from support.overrides import BELIEVED, COOKIE, HEADER, token

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

# Hypothesis loads its "ci" profile, which is derandomized, where CI is set.
some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
many = settings(some, max_examples=70)

# A small vocabulary, so that requests and policies meet.
HEADERS = ["x-user-id", "x-uid", "x-tier", "x-tags", "x-since", "x-flags", "x-api", "x-a"]
HEADERS += ["accept", "x-canary-override"]
COOKIES = ["canary_id", "sid", "a", "canary_override"]
VALUES = ["1", "2", "v1", "beta", "beta, vip", "内测", "free", "2026-02-27T00:00:00Z", "f", "f,g"]
PATTERNS = ["1", "^beta", "测$", "^$", "^/a", ".", "[0-9]+", "(a|b)*"]
ADDRESSES = ["10.0.0.1", "10.1.2.3", "::ffff:10.0.0.1", "2001:db8::1", "192.168.1.7", "nonsense"]
NETWORKS = ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.1", "::/0", "2001:db8::/32", "::ffff:10.1.0.0/112"]
SEGMENTS, FLAGS, PATHS, CONSUMERS = ["s", "t", "u"], ["f", "g", "内"], ["/a", "/b"], ["acme", "c"]
API_PATHS = ["/a/v1", "/a/v2/b"]
TOKENS = [
    token(), token(user="v1"), token(cidr="10.0.0.0/8", variant="stable"), token(jti="o-gone"),
]  # fmt: skip
ACCEPTS = ["text/vnd.a.v1+json", "text/vnd.a;version=v1, */*"]

value = st.sampled_from(VALUES)
shares = st.sampled_from([0, 1, 5_000, 30_000, 50_000, 99_999, BUCKETS]) | st.integers(0, BUCKETS)
times = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))
maybe_time = st.none() | times


@cache
def texts(items: st.SearchStrategy[str], low: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(items, min_size=low, max_size=3).map(tuple)


# Strategies are made once: one that is made in a draw is looked through at each draw.
booleans = st.booleans()
networks, paths, consumers, patterns = (
    st.sampled_from(known) for known in (NETWORKS, PATHS, CONSUMERS, PATTERNS)
)
segment_names = st.lists(st.sampled_from(SEGMENTS), unique=True)
flag_names = st.lists(st.sampled_from(FLAGS), unique=True)
maybe_share = st.none() | shares


@cache
def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    source = draw(st.sampled_from(Source))
    ways = ["exact", "one_of", "pattern", *(["cidrs"] if source is Source.IP else [])]
    key, values = "", value
    match source:
        case Source.HEADER:
            key = draw(st.sampled_from(HEADERS))
        case Source.COOKIE:
            key = draw(st.sampled_from(COOKIES))
        case Source.IP:
            values = networks
        case Source.PATH:
            values = paths
        case Source.CONSUMER:
            values = consumers
    way = draw(one_of(*ways))
    given_by: dict[str, st.SearchStrategy[Any]] = {
        "exact": values,
        "one_of": texts(values, 1),
        "pattern": patterns,
        "cidrs": texts(networks, 1),
    }
    variant = draw(st.sampled_from(Variant))
    return replace(
        Rule(name="", source=source, key=key, variant=variant), **{way: draw(given_by[way])}
    )


rule_lists = st.lists(rules(), max_size=4).map(
    lambda found: tuple(replace(rule, name=f"rule {n}") for n, rule in enumerate(found))
)


def since_or_between(ends: tuple[datetime | None, datetime | None]) -> Registered:
    one, other = ends
    if one and other and one != other:
        return Registered(start=min(one, other), end=max(one, other))
    return Registered(start=one or other)


registered = st.builds(Registered, last_days=st.sampled_from([1, 7, 36_500])) | st.tuples(
    maybe_time, maybe_time
).filter(any).map(since_or_between)

criteria = st.builds(
    Criteria,
    tiers=texts(value),
    registered=st.none() | registered,
    regions=texts(value),
    tags=texts(value),
    custom=st.dictionaries(st.sampled_from(["plan", "部门"]), value, max_size=2),
).map(lambda found: None if found == Criteria() else found)


@st.composite
def segments(draw: st.DrawFn) -> tuple[Segment, ...]:
    found = []
    for name in draw(segment_names):
        is_eligible, meets = draw(booleans), draw(criteria)
        found.append(
            Segment(
                name=name,
                canary_eligible=is_eligible,
                share=draw(maybe_share) if is_eligible else None,
                listed=draw(booleans) or meets is None,
                criteria=meets,
            )
        )
    return tuple(found)


@st.composite
def flags(draw: st.DrawFn, in_segments: tuple[Segment, ...]) -> tuple[Flag, ...]:
    names = [segment.name for segment in in_segments]
    return tuple(
        Flag(
            name=name,
            enabled=draw(booleans),
            share=draw(shares),
            users=draw(texts(value)),
            segments=draw(texts(one_of(*names))) if names else (),
        )
        for name in draw(flag_names)
    )


backends = (
    st.none()
    | st.builds(Backend, upstream=st.sampled_from(["up", "next"]), host_header=st.just("h.example"))
    | st.builds(Backend, host=st.just("10.9.8.7"), port=st.integers(1, 65_535))
)
hash_keys = (
    st.builds(HashKey, source=st.just(Source.HEADER), key=st.sampled_from(HEADERS))
    | st.builds(HashKey, source=st.just(Source.COOKIE), key=st.sampled_from(COOKIES))
    | st.builds(HashKey, source=st.sampled_from([Source.IP, Source.CONSUMER]))
)
headers = st.sampled_from(HEADERS)
hash_key_lists = st.lists(hash_keys, max_size=3)
revisions, digits, epochs = st.integers(0, 2**63 - 1), st.integers(0, 9), st.integers(0, 3)
API_VERSIONS = [
    ApiVersion(
        version="v1",
        deprecated=True,
        deprecated_at=datetime(2026, 1, 1, tzinfo=UTC),
        sunset_date=datetime(2026, 6, 1, tzinfo=UTC),
        breaking_changes=("内",),
        migration_guide="/docs",
    ),
    ApiVersion(version="v1", deprecated=True),
    ApiVersion(version="v1", sunset_date=datetime(2026, 6, 1, tzinfo=UTC)),
]
ATTRIBUTES = ["tier", "region", "tags", "registered_at", "plan"]
attribute_headers = st.dictionaries(st.sampled_from(ATTRIBUTES), headers)
api_versions = st.lists(st.sampled_from(API_VERSIONS), max_size=1)


@st.composite
def policies(draw: st.DrawFn, *, serving: bool = False) -> Policy:
    """A valid policy; ``serving``: with a release that takes traffic."""
    canary = Version(
        version="v2",
        build_number=draw(one_of("", "77")),
        build_date=draw(maybe_time),
        status=VersionStatus.CANARY,
        backend=draw(backends),
    )
    stable = Version(
        version="v1",
        status=VersionStatus.STABLE,
        release_date=draw(maybe_time),
        backend=draw(backends),
    )
    release = Release(
        id=draw(one_of("r1", "发布")),
        version="v2",
        status=ReleaseStatus.IN_PROGRESS if serving else draw(st.sampled_from(ReleaseStatus)),
        share=draw(shares),
        strategy=draw(st.sampled_from(Strategy)),
        salt=draw(one_of("r1", "盐")),
        halted=not serving and draw(booleans),
        started_at=draw(maybe_time),
    )
    of_segments = draw(segments())
    compatibilities = [CompatibilityRule(source="v1", to="v2", compatible=draw(booleans))]
    return Policy(
        service_key="shop",
        revision=draw(revisions),
        versions=draw(st.sampled_from([(stable, canary), (canary, stable), (canary,)])),
        release=release if serving or draw(digits) else None,
        rules=draw(rule_lists),
        compatibility=Compatibility(
            header=draw(one_of("", "x-api")),
            rules=tuple(draw(st.lists(st.sampled_from(compatibilities), max_size=1))),
            path_prefix=draw(one_of("", "/a/")),
            media_type=draw(one_of("", "text/vnd.a")),
            api_versions=tuple(draw(api_versions)),
        ),
        overrides=draw(one_of(Overrides(), BELIEVED)),
        whitelist=Whitelist(
            ips=draw(texts(networks)),
            users=draw(texts(value)),
            consumers=draw(texts(consumers)),
        )
        if draw(booleans)
        else Whitelist(),
        segments=of_segments,
        flags=draw(flags(of_segments)),
        bucketing=Bucketing(
            hash_on=tuple(draw(hash_key_lists)),
            anonymous=draw(st.sampled_from(Anonymous)),
            cookie=draw(st.sampled_from(COOKIES)),
        ),
        identity=Identity(
            user_id_header=draw(one_of("x-user-id", "x-uid")),
            attribute_headers=draw(attribute_headers),
            flags_header=draw(one_of("", "x-flags")),
        ),
        membership_epoch=draw(epochs),
    )


EMPTY = Policy(service_key="shop")
STAGES = ["overrides", "rules", "compatibility", "whitelist", "segments", "flags", "bucketing"]


@st.composite
def sparse_policies(draw: st.DrawFn) -> Policy:
    """A policy with few stages at work, so that what one stage needs no other asks for."""
    policy = draw(policies(serving=True))
    gone = set(STAGES) - draw(st.sets(st.sampled_from(STAGES), max_size=2))
    if "segments" in gone:
        gone.add("flags")
    return replace(policy, **{name: getattr(EMPTY, name) for name in gone})


requests = st.builds(
    Request,
    headers=st.dictionaries(headers, value | st.sampled_from(TOKENS + ACCEPTS)),
    cookies=st.dictionaries(st.sampled_from(COOKIES), value | st.sampled_from(TOKENS)),
    client_ip=st.sampled_from(["", *ADDRESSES]),
    path=st.sampled_from(["", *PATHS, *API_PATHS]),
    consumer=st.sampled_from(["", *CONSUMERS]),
    flags=texts(st.sampled_from(FLAGS)),
    fallback_key=st.sampled_from(["", "drawn", "draw 2"]),
)
known = st.builds(
    Person,
    listed_in=st.frozensets(st.sampled_from(SEGMENTS), max_size=2),
    profile=st.builds(
        Profile,
        tier=st.sampled_from(["", *VALUES]),
        registered_at=maybe_time,
        region=st.sampled_from(["", *VALUES]),
        tags=st.frozensets(value, max_size=2),
        custom=st.dictionaries(st.sampled_from(["plan", "部门"]), value),
    ),
)
people = st.sampled_from([NOBODY, UNKNOWN]) | known


def decided(policy: Policy, request: Request, person: Person) -> Decision:
    answer = decide(CompiledPolicy(policy), request, person, NOW)
    assert isinstance(answer, Decision)
    return answer


def is_canary(policy: Policy, request: Request, person: Person) -> bool:
    return decided(policy, request, person).variant is Variant.CANARY


# Shares and buckets


@given(policies(serving=True), requests, people, shares, shares)
@many
def test_raising_the_percentage_only_adds_and_lowering_it_only_removes(
    policy: Policy, request: Request, person: Person, one: int, other: int
) -> None:
    assert policy.release is not None
    low, high = (
        is_canary(replace(policy, release=replace(policy.release, share=share)), request, person)
        for share in sorted((one, other))
    )
    assert high >= low


@given(policies(serving=True), requests, people, shares, shares)
@many
def test_raising_the_shares_of_segments_or_flags_only_adds(
    policy: Policy, request: Request, person: Person, one: int, other: int
) -> None:
    low, high = sorted((one, other))

    def segments_at(share: int) -> Policy:
        changed = (replace(s, share=share) if s.canary_eligible else s for s in policy.segments)
        return replace(policy, segments=tuple(changed))

    def flags_at(share: int) -> Policy:
        return replace(policy, flags=tuple(replace(f, share=share) for f in policy.flags))

    for at in (segments_at, flags_at):
        assert is_canary(at(high), request, person) >= is_canary(at(low), request, person)


MIXED = ("rules", "segments", "flags")


@given(policies(serving=True), policies(serving=True), requests, people, st.data())
@many
def test_what_is_said_to_narrow_gives_the_canary_to_nobody_who_had_it_not(
    before: Policy, other: Policy, request: Request, person: Person, data: st.DataObject
) -> None:
    changed: dict[str, Any] = {}
    for part in MIXED:  # some of what was there and some that was not, in any order
        things = {thing.name: thing for thing in (*getattr(other, part), *getattr(before, part))}
        changed[part] = tuple(data.draw(st.lists(st.sampled_from([*things.values(), None]))))
    changed = {
        part: tuple({thing.name: thing for thing in found if thing is not None}.values())
        for part, found in changed.items()
    }
    names = {segment.name for segment in before.segments}
    changed["flags"] = tuple(
        replace(flag, segments=tuple(name for name in flag.segments if name in names))
        for flag in changed["flags"]
    )
    whole = data.draw(st.sampled_from(["whitelist", "compatibility", "bucketing", "identity"]))
    changed[whole] = getattr(other, whole)
    for part, value in changed.items():
        after = replace(before, **{part: value})
        if part == "segments":
            after = replace(after, flags=())
        if not widening(before, after):
            event(f"{part} narrows")
            assert is_canary(after, request, person) <= is_canary(before, request, person)


KEYS = 200_000
KINDS: dict[str, Callable[[int], str]] = {
    "counted": "user-{}".format,
    "random": lambda n: sha256(str(n).encode()).hexdigest()[:32],
}


@cache
def buckets(salt: str, kind: str = "counted") -> list[int]:
    before, key = prefix(salt), KINDS[kind]
    return [bucket(before, key(number)) for number in range(KEYS)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [100, 1_000, 5_000, 50_000])
def test_a_share_gets_that_share_of_the_keys_within_five_sigma(share: int, kind: str) -> None:
    p = share / BUCKETS
    got = sum(number < share for number in buckets("spring", kind))
    assert abs(got - KEYS * p) <= 5 * sqrt(KEYS * p * (1 - p))


@pytest.mark.parametrize("kind", KINDS)
def test_buckets_are_spread_evenly(kind: str) -> None:
    groups = [0] * 100
    for number in buckets("spring", kind):
        groups[number // 1_000] += 1
    expected = KEYS / 100
    chi_square = sum((got - expected) ** 2 / expected for got in groups)
    assert chi_square < 99 + 5 * sqrt(2 * 99)


@pytest.mark.parametrize(("one", "other"), [("spring", "autumn"), ("r1", "r2"), ("a", "flag:a")])
@pytest.mark.parametrize("share", [1_000, 5_000, 50_000])
def test_two_salts_choose_independently(share: int, one: str, other: str) -> None:
    table = [[0, 0], [0, 0]]
    for first, second in zip(buckets(one), buckets(other), strict=True):
        table[first < share][second < share] += 1
    chi_square = 0.0
    for row in (0, 1):
        for column in (0, 1):
            expected = sum(table[row]) * (table[0][column] + table[1][column]) / KEYS
            chi_square += (table[row][column] - expected) ** 2 / expected
    assert chi_square < 5**2


def test_buckets_under_two_salts_do_not_correlate() -> None:
    r = statistics.correlation(buckets("spring"), buckets("autumn"))
    assert abs(r) < 5 / sqrt(KEYS)


@given(st.text(st.characters()), st.text(st.characters()))
@example("\ud800", "\udc80\udfff")
@some
def test_every_key_has_a_bucket_even_if_it_is_no_utf_8(salt: str, key: str) -> None:
    assert 0 <= bucket(prefix(salt), key) < BUCKETS


@given(st.text(st.characters()), st.text(st.characters(), min_size=1))
@example("\ud800", "\udc80\udfff")
@some
def test_a_key_of_the_clients_own_and_one_drawn_for_it_fall_into_the_same_bucket(
    salt: str, key: str
) -> None:
    measure = HashKeys(EMPTY).measure_under(salt)
    number = bucket(prefix(salt), key)
    assert measure(Request(consumer=key)) == (number, False)
    assert measure(Request(headers={"x-user-id": key})) == (number, False)
    assert measure(Request(fallback_key=key)) == (number, True)
    assert measure(Request()) == (None, False)


# Deciding


@given(policies(), requests, people)
@some
def test_the_order_of_headers_and_cookies_does_not_matter(
    policy: Policy, request: Request, person: Person
) -> None:
    other = replace(
        request,
        headers=dict(reversed([*request.headers.items()])),
        cookies=dict(reversed([*request.cookies.items()])),
    )
    assert decided(policy, other, person) == decided(policy, request, person)


@given(policies(), requests, people)
@many
def test_explain_agrees_with_decide_and_one_stage_decided(
    policy: Policy, request: Request, person: Person
) -> None:
    decision, findings = explain(CompiledPolicy(policy), request, person, NOW)
    assert decision == decided(policy, request, person)
    assert [finding.reason for finding in findings] == list(Reason)
    assert [f.reason for f in findings if f.decided] == [decision.reason]
    assert all(finding.finding for finding in findings)


@given(policies(), requests, people)
@many
def test_a_decision_fits_its_policy(policy: Policy, request: Request, person: Person) -> None:
    decision = decided(policy, request, person)
    wanted = VersionStatus.CANARY if decision.variant is Variant.CANARY else VersionStatus.STABLE
    version = policy.version_with(wanted)
    assert decision.version == (version.version if version else "")
    assert decision.backend == (version.backend if version else None)
    assert decision.policy_revision == policy.revision
    if decision.issue_cookie:
        assert policy.bucketing.anonymous is Anonymous.STICKY_COOKIE
        assert request.fallback_key
    if decision.reason is Reason.PERCENTAGE:
        assert policy.release is not None
        assert decision.bucket is not None
        assert decision.bucket < policy.release.share


@given(policies(serving=True), requests, people)
@many
def test_a_client_with_its_cookie_keeps_its_variant(
    policy: Policy, request: Request, person: Person
) -> None:
    first = decided(policy, request, person)
    if not first.issue_cookie:
        return
    cookies = {**request.cookies, policy.bucketing.cookie: request.fallback_key}
    for drawn in ("", "another", "third", "fourth", "5", "6"):
        again = decided(policy, replace(request, cookies=cookies, fallback_key=drawn), person)
        assert again.variant is first.variant or _reads_cookie(policy)
        assert not again.issue_cookie


def _reads_cookie(policy: Policy) -> bool:
    """Whether a rule looks at the sticky cookie itself, so that bringing it changes the facts."""
    cookie = policy.bucketing.cookie
    return any(r.source is Source.COOKIE and r.key == cookie for r in policy.rules)


@given(policies(serving=True), requests, people)
@many
def test_a_client_without_its_cookie_is_not_drawn_again_and_again(
    policy: Policy, request: Request, person: Person
) -> None:
    """Where the drawn key makes a difference, some answer issues it, whichever way it goes."""
    if policy.bucketing.anonymous is not Anonymous.STICKY_COOKIE:
        return
    drawn = ("", "one", "two", "three", "four", "five", "six")
    answers = [decided(policy, replace(request, fallback_key=key), person) for key in drawn]
    if len({answer.variant for answer in answers[1:]}) > 1:
        assert all(a.issue_cookie for a in answers[1:] if a.variant is Variant.STABLE)


def _only(reads: Reads, request: Request) -> Request:
    """The request as a gateway sends it."""
    has_override = HEADER in request.headers or COOKIE in request.cookies
    reads_ip = has_override if reads.client_ip_for_overrides else reads.client_ip
    return replace(
        request,
        headers={k: v for k, v in request.headers.items() if k in reads.headers},
        cookies={k: v for k, v in request.cookies.items() if k in reads.cookies},
        client_ip=request.client_ip if reads_ip else "",
        path=request.path if reads.path else "",
        consumer=request.consumer if reads.consumer else "",
    )


def _answer(policy: Policy, request: Request, person: Person | None) -> Answer:
    return decide(CompiledPolicy(policy), request, person, NOW)


@given(policies() | sparse_policies(), requests, st.none() | people)
@settings(many, max_examples=200)
def test_what_the_reads_do_not_name_never_changes_the_decision(
    policy: Policy, request: Request, person: Person | None
) -> None:
    reads = CompiledPolicy(policy).reads
    assert _answer(policy, _only(reads, request), person) == _answer(policy, request, person)


@given(policies(), requests, requests, people)
@many
def test_nor_does_anything_put_in_its_place(
    policy: Policy, request: Request, other: Request, person: Person
) -> None:
    reads = CompiledPolicy(policy).reads
    kept = _only(reads, request)
    mixed = replace(
        kept,
        headers={**{k: v for k, v in other.headers.items() if k not in reads.headers}}
        | dict(kept.headers),
        cookies={**{k: v for k, v in other.cookies.items() if k not in reads.cookies}}
        | dict(kept.cookies),
        client_ip=kept.client_ip if reads.client_ip else other.client_ip,
        path=kept.path if reads.path else other.path,
        consumer=kept.consumer if reads.consumer else other.consumer,
    )
    assert decided(policy, mixed, person) == decided(policy, kept, person)


@given(policies(), requests, known)
@many
def test_a_person_is_asked_for_only_where_one_can_matter(
    policy: Policy, request: Request, person: Person
) -> None:
    answer = _answer(policy, request, None)
    if isinstance(answer, PersonNeeded):
        assert answer.user == request.headers[policy.identity.user_id_header]
        assert answer.user
        assert policy.segments
    elif request.headers.get(policy.identity.user_id_header):
        assert answer == decided(policy, request, person)


@given(policies(serving=True), requests, known)
@many
def test_a_segment_has_the_same_members_when_their_tier_was_looked_up_before(
    policy: Policy, request: Request, person: Person
) -> None:
    header = policy.identity.attribute_headers.get(TIER, "")
    tier = person.profile.tier or (request.headers.get(header, "") if header else "")
    for segment in policy.segments:
        by_tier = membership_by_tier(segment, policy.identity)
        left = by_tier.of_these if tier in by_tier.tiers else by_tier.of_others
        whole = membership(segment, policy.identity)(request, person, NOW)
        assert (left is not None and left(request, person, NOW)) is whole


hostile = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["", "\0", "\ud800", "\udcff", "x" * 100_000, "1" * 5_000, "::" * 4_000, "内" * 40_000, ", ,,"]
)


@given(
    policies(serving=True),
    st.builds(
        Request,
        headers=st.dictionaries(headers | hostile, hostile, max_size=6),
        cookies=st.dictionaries(st.sampled_from(COOKIES) | hostile, hostile, max_size=3),
        client_ip=hostile,
        path=hostile,
        consumer=hostile,
        flags=texts(hostile),
        fallback_key=hostile,
    ),
    people,
)
@many
def test_no_request_however_hostile_makes_deciding_raise(
    policy: Policy, request: Request, person: Person
) -> None:
    decision, findings = explain(CompiledPolicy(policy), request, person, NOW)
    assert isinstance(decision, Decision)
    assert len(findings) == len(Reason)


def test_a_pattern_that_hangs_backtracking_engines_is_answered_here() -> None:
    pattern = Rule(name="r", source=Source.PATH, pattern="(a+)+$", variant=Variant.CANARY)
    index = RuleIndex([pattern])
    assert index.first(Request(path="a" * 50_000)) is pattern
    assert index.first(Request(path="a" * 50_000 + "b")) is None


# Documents


@given(policies())
@many
def test_a_policy_survives_its_document(policy: Policy) -> None:
    document = parse.document(policy)
    assert parse.policy(document) == policy
    assert parse.policy(json.loads(parse.canonical(document))) == policy


@given(policies())
@some
def test_a_policy_survives_its_message(policy: Policy) -> None:
    document = parse.document(policy)
    sent = to_message(document, policy_pb2.Policy).SerializeToString()
    found = parse.policy(to_document(policy_pb2.Policy.FromString(sent)))
    assert found == policy
    assert parse.content_hash(parse.document(found)) == parse.content_hash(document)


def _shuffled(value: Any, random: Any) -> Any:
    if isinstance(value, dict):
        names = list(value)
        random.shuffle(names)
        return {name: _shuffled(value[name], random) for name in names}
    return [_shuffled(item, random) for item in value] if isinstance(value, list) else value


@given(policies(), st.randoms(use_true_random=False))
@some
def test_the_content_hash_does_not_mind_the_order_of_fields(policy: Policy, random: Any) -> None:
    document = parse.document(policy)
    assert parse.content_hash(_shuffled(document, random)) == parse.content_hash(document)


@given(policies(), policies())
@some
def test_the_content_hash_tells_policies_apart(one: Policy, other: Policy) -> None:
    hashes = {parse.content_hash(parse.document(policy)) for policy in (one, other)}
    assert len(hashes) == (1 if one == other else 2)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | hostile
    | st.sampled_from(["in-progress", "canary", "0001-01-01T00:00:00+14:00", "::/80"])
)
anything = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=5), scalars)


def _places(value: Any) -> list[tuple[Any, Any]]:
    items = list(value.items() if isinstance(value, dict) else enumerate(value))
    inner = [place for _, part in items if isinstance(part, dict | list) for place in _places(part)]
    return [(value, name) for name, _ in items] + inner


@given(policies(), st.data())
@many
def test_a_document_is_either_refused_with_complaints_or_can_be_compiled(
    policy: Policy, data: st.DataObject
) -> None:
    document = parse.document(policy)
    for _ in range(data.draw(st.integers(1, 3))):
        holder, name = data.draw(st.sampled_from(_places(document)))
        holder[name] = data.draw(anything)
    try:
        found, complaints = parse.policy(document), None
    except InvalidPolicy as refusal:
        found, complaints = None, refusal.complaints
    if found is None:
        assert complaints
        assert all(": " in complaint for complaint in complaints)
        return
    assert isinstance(decided(found, Request(fallback_key="drawn"), NOBODY), Decision)
    assert parse.policy(parse.document(found)) == found


# Networks and rules against naive ones


def _naive_address(text: str) -> Any:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _naive_network(text: str) -> Any:
    network = ipaddress.ip_network(text)
    if network.version == 6 and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def _naive_labels(networks: list[str], address: str) -> set[str]:
    """The texts of the smallest network that holds the address; {""} if none does."""
    at = _naive_address(address)
    holding = {text: _naive_network(text) for text in networks if at in _naive_network(text)}
    longest = max((network.prefixlen for network in holding.values()), default=0)
    return {text for text, network in holding.items() if network.prefixlen == longest} or {""}


# Few bits vary, so that networks nest and touch.
v4_numbers = st.sampled_from([0, 10 << 24, 10 << 24 | 3, 2**32 - 1, 2**31]) | st.integers(0, 15)
v6_numbers = st.sampled_from([0, 1, 2**128 - 1, 0x20010DB8 << 96, 0xFFFE << 32]) | st.integers(0, 7)


def lengths(bits: int) -> st.SearchStrategy[int]:
    return st.integers(bits - 5, bits) | st.integers(0, bits)


def _network(number: int, bits: int, length: int) -> str:
    kind: Any = ipaddress.IPv4Network if bits == 32 else ipaddress.IPv6Network
    return str(kind((number, length), strict=False))


networks = st.one_of(
    st.builds(_network, v4_numbers, st.just(32), lengths(32)),
    st.builds(_network, v6_numbers, st.just(128), lengths(128)),
    st.builds(
        _network, v4_numbers.map(lambda n: 0xFFFF << 32 | n), st.just(128), st.integers(75, 128)
    ),
)


def _around(network: str) -> list[str]:
    """Both ends of a network and their neighbours, and IPv4 ones mapped as well."""
    found = ipaddress.ip_network(network)
    limit = 2**found.max_prefixlen - 1
    ends = {int(found.network_address), int(found.broadcast_address)}
    numbers = {n + d for n in ends for d in (-1, 0, 1) if 0 <= n + d <= limit}
    kind: Any = ipaddress.IPv4Address if found.version == 4 else ipaddress.IPv6Address
    addresses = [str(kind(number)) for number in sorted(numbers)]
    return addresses + [f"::ffff:{address}" for address in addresses if found.version == 4]


@given(st.lists(networks, min_size=1, max_size=8))
@example(["10.0.0.0/24", "10.0.0.255"])
@example(["::/80"])
@example(["::fffe:0:0/95", "0.0.0.0/0"])
@settings(many, max_examples=200)
def test_a_network_set_finds_what_a_naive_search_finds(texts: list[str]) -> None:
    found = NetworkSet(texts)
    for address in [a for text in texts for a in _around(text)] + ["0.0.0.0", "::", "8.8.8.8"]:
        assert found.find(address) in _naive_labels(texts, address), address


def _naive_match(rule: Rule, request: Request) -> bool:
    read = {
        Source.HEADER: request.headers.get(rule.key, ""),
        Source.COOKIE: request.cookies.get(rule.key, ""),
        Source.IP: request.client_ip,
        Source.PATH: request.path,
        Source.CONSUMER: request.consumer,
    }[rule.source]
    if not read:
        return False
    if rule.pattern is not None:
        return re2.search(rule.pattern, read) is not None
    values = rule.cidrs or rule.one_of or (rule.exact,)
    if rule.source is not Source.IP:
        return read in values
    try:
        return any(_naive_address(read) in _naive_network(str(text)) for text in values)
    except ValueError:
        return False


@given(rule_lists, requests)
@settings(many, max_examples=200)
def test_the_rule_index_finds_what_a_loop_over_the_rules_finds(
    rules: tuple[Rule, ...], request: Request
) -> None:
    naive = next((rule for rule in rules if _naive_match(rule, request)), None)
    assert RuleIndex(rules).first(request) is naive
