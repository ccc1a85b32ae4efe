"""Deciding beyond the golden cases: who is asked for, what is said when nobody knows, why."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from canary_engine import reads
from canary_engine.decide import CompiledPolicy, decide, explain
from canary_engine.model import (
    NOBODY,
    UNKNOWN,
    ApiVersion,
    Bucketing,
    Compatibility,
    CompatibilityRule,
    Criteria,
    Decision,
    Flag,
    HashKey,
    Identity,
    Person,
    PersonNeeded,
    Policy,
    Profile,
    Reads,
    Reason,
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
from support.overrides import BELIEVED, COOKIE, HEADER, token

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BETA = Segment(name="beta", canary_eligible=True, listed=True)
FROZEN = Segment(name="frozen", canary_eligible=False, listed=True)
RELEASE = Release(id="r1", version="v2", status=ReleaseStatus.IN_PROGRESS, share=100_000, salt="r1")
PLAIN = Policy(
    service_key="shop",
    versions=(Version(version="v2", status=VersionStatus.CANARY),),
    release=RELEASE,
)
SEGMENTED = replace(PLAIN, segments=(BETA,))
ANN = Request(headers={"x-user-id": "ann"})


def answer(policy: Policy, request: Request, person: Person | None = None) -> object:
    return decide(CompiledPolicy(policy), request, person, NOW)


def findings(policy: Policy, request: Request, person: Person = NOBODY) -> dict[Reason, str]:
    _, found = explain(CompiledPolicy(policy), request, person, NOW)
    return {finding.reason: finding.finding for finding in found}


def under(policy: Policy, strategy: Strategy) -> Policy:
    assert policy.release is not None
    return replace(policy, release=replace(policy.release, strategy=strategy))


# Who is asked for


def test_a_policy_with_segments_asks_for_the_person() -> None:
    assert answer(SEGMENTED, ANN) == PersonNeeded("ann")


def test_an_anonymous_client_is_nobody_to_ask_for() -> None:
    assert isinstance(answer(SEGMENTED, Request(client_ip="10.0.0.1")), Decision)


def test_a_policy_without_segments_asks_for_nobody() -> None:
    assert isinstance(answer(PLAIN, ANN), Decision)


@pytest.mark.parametrize(
    "stage",
    [
        {"rules": (Rule(name="r", source=Source.PATH, exact="/", variant=Variant.CANARY),)},
        {"whitelist": Whitelist(users=("ann",))},
        {
            "compatibility": Compatibility(
                header="x-api",
                rules=(CompatibilityRule(source="1", to="v2", compatible=False),),
            )
        },
        {"release": replace(RELEASE, halted=True)},
        {"release": replace(RELEASE, strategy=Strategy.PERCENTAGE)},
    ],
)
def test_nobody_is_asked_for_where_a_stage_before_decides_or_segments_take_no_part(
    stage: dict[str, object],
) -> None:
    request = Request(headers={"x-user-id": "ann", "x-api": "1"}, path="/")
    assert isinstance(answer(replace(SEGMENTED, **stage), request), Decision)  # type: ignore[arg-type]


def test_a_flag_by_segment_asks_for_the_person_only_when_it_is_named() -> None:
    flag = Flag(name="f", enabled=True, users=("bob",), segments=("beta",))
    policy = under(replace(SEGMENTED, flags=(flag,)), Strategy.FEATURE_FLAG)
    assert isinstance(answer(policy, ANN), Decision)
    assert answer(policy, replace(ANN, flags=("f",))) == PersonNeeded("ann")
    bob = Request(headers={"x-user-id": "bob"}, flags=("f",))
    assert isinstance(answer(policy, bob), Decision)


def test_a_flag_without_segments_asks_for_nobody() -> None:
    flag = Flag(name="f", enabled=True, users=("bob",))
    policy = replace(SEGMENTED, flags=(flag,))
    found = answer(under(policy, Strategy.FEATURE_FLAG), replace(ANN, flags=("f",)))
    assert isinstance(found, Decision)


# When the store cannot be asked


def test_where_the_store_cannot_be_asked_a_policy_that_protects_gives_stable() -> None:
    policy = replace(PLAIN, segments=(FROZEN,))
    assert answer(policy, ANN, UNKNOWN) == Decision(
        Variant.STABLE, "", None, Reason.DEFAULT, release_id="r1", degraded=True
    )


def test_where_the_store_cannot_be_asked_any_other_policy_goes_on() -> None:
    found = answer(SEGMENTED, ANN, UNKNOWN)
    assert isinstance(found, Decision)
    assert (found.variant, found.reason, found.degraded) == (
        Variant.CANARY,
        Reason.PERCENTAGE,
        True,
    )


def test_what_the_store_knows_is_not_marked_degraded() -> None:
    found = answer(SEGMENTED, ANN, NOBODY)
    assert isinstance(found, Decision)
    assert not found.degraded


# How many tiers there are


@pytest.mark.parametrize("number", [1, 100, 10_001])
def test_a_segment_has_its_members_however_many_tiers_are_named(number: int) -> None:
    tiers = tuple(f"tier-{n}" for n in range(number))
    named = Segment(name="named", canary_eligible=True, criteria=Criteria(tiers=tiers))
    policy = replace(PLAIN, release=replace(RELEASE, share=0), segments=(named, BETA))
    for tier, reason in ((tiers[-1], Reason.SEGMENT), ("other", Reason.DEFAULT)):
        found = answer(policy, ANN, Person(profile=Profile(tier=tier)))
        assert isinstance(found, Decision)
        assert found.reason is reason


# What explain says


def test_without_a_release_no_stage_is_asked() -> None:
    found = findings(replace(PLAIN, release=None), ANN)
    assert found.pop(Reason.NO_RELEASE) == "there is no release"
    assert set(found.values()) == {"not asked: no release takes traffic"}


@pytest.mark.parametrize(
    ("release", "finding"),
    [
        (replace(RELEASE, halted=True), "release r1 is halted"),
        (replace(RELEASE, status=ReleaseStatus.COMPLETED), "release r1 is completed"),
        (replace(RELEASE, status=ReleaseStatus.ROLLED_BACK), "release r1 is rolled-back"),
        (RELEASE, "release r1 is in-progress"),
        (replace(RELEASE, status=ReleaseStatus.PAUSED), "release r1 is paused"),
    ],
)
def test_the_first_finding_says_what_the_release_does(release: Release, finding: str) -> None:
    assert findings(replace(PLAIN, release=release), ANN)[Reason.NO_RELEASE] == finding


def test_a_stage_that_the_strategy_leaves_out_says_so() -> None:
    found = findings(under(SEGMENTED, Strategy.FEATURE_FLAG), ANN)
    left_out = "takes no part in strategy feature-flag"
    assert found[Reason.SEGMENT] == found[Reason.PERCENTAGE] == left_out


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (Strategy.USER_SEGMENT, Reason.SEGMENT),
        (Strategy.FEATURE_FLAG, Reason.FLAG),
        (Strategy.COMBINED, Reason.FLAG),
        (Strategy.PERCENTAGE, Reason.RULE),
    ],
)
def test_a_stage_that_takes_part_but_has_nothing_to_do_says_so(
    strategy: Strategy, reason: Reason
) -> None:
    assert findings(under(PLAIN, strategy), ANN)[reason] == "the policy has none"


def test_each_stage_at_work_says_what_it_found() -> None:
    policy = replace(
        PLAIN,
        rules=(Rule(name="r", source=Source.HEADER, key="x-a", exact="1", variant=Variant.STABLE),),
        compatibility=Compatibility(
            header="x-api", rules=(CompatibilityRule(source="1", to="v2", compatible=False),)
        ),
        whitelist=Whitelist(ips=("10.0.0.0/8",)),
        segments=(BETA, FROZEN, replace(BETA, name="half", share=50_000)),
        flags=(Flag(name="f", enabled=True, users=("ann",)),),
        release=replace(RELEASE, share=0),
    )
    found = findings(policy, ANN)
    assert found[Reason.RULE] == "none of 1 rules matches"
    assert found[Reason.COMPATIBILITY] == "the request names no API version (header x-api)"
    assert found[Reason.WHITELIST] == "neither IP, user nor consumer is listed"
    assert found[Reason.SEGMENT] == "the user is in no segment"
    assert found[Reason.FLAG] == "neither request nor route names a flag"
    assert found[Reason.PERCENTAGE].endswith("is not below 0 % (0 of 100000)")

    request = Request(
        headers={"x-user-id": "ann", "x-a": "1", "x-api": "1"}, client_ip="10.0.0.1", flags=("f",)
    )
    member = Person(listed_in=frozenset({"beta", "frozen", "half"}))
    found = findings(policy, request, member)
    assert found[Reason.RULE] == "rule 'r' on header x-a says stable"
    assert found[Reason.COMPATIBILITY] == "v2 cannot serve API version '1'"
    assert found[Reason.WHITELIST] == "10.0.0.0/8 is listed"
    assert found[Reason.SEGMENT] == (
        "the user is in frozen (protected), beta (eligible), half (eligible, 50 %)"
    )
    assert found[Reason.FLAG] == "flag 'f' is on for this user"
    assert findings(policy, replace(request, flags=("g",)))[Reason.FLAG] == ("off for this user: g")
    newer = replace(request, headers={"x-api": "2"})
    assert findings(policy, newer)[Reason.COMPATIBILITY] == "v2 can serve API version '2'"


def test_the_percentage_says_when_there_is_no_key_to_compare() -> None:
    assert findings(PLAIN, Request())[Reason.PERCENTAGE] == (
        "the request has no hash key to compare with 100 %"
    )


def test_explain_says_when_the_store_could_not_be_asked() -> None:
    premium = replace(FROZEN, name="premium", criteria=Criteria(tiers=("premium",)))
    identity = Identity(attribute_headers={"tier": "x-tier"})
    policy = replace(PLAIN, segments=(premium,), identity=identity)
    request = Request(headers={"x-user-id": "ann", "x-tier": "premium"})
    assert findings(policy, request, UNKNOWN)[Reason.SEGMENT] == (
        "the user is in premium (protected), but the store did not say in time who they are"
    )
    assert findings(policy, ANN, UNKNOWN)[Reason.SEGMENT] == (
        "the user is in no segment, but the store did not say in time who they are"
    )


def test_the_default_does_not_say_that_nothing_matched_where_something_did() -> None:
    assert findings(PLAIN, ANN)[Reason.DEFAULT] == "not asked: percentage decided"


def test_a_registration_at_the_ends_of_time_is_compared_all_the_same() -> None:
    for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        person = Person(profile=Profile(registered_at=datetime.fromisoformat(moment)))
        assert isinstance(answer(SEGMENTED, ANN, person), Decision)


# What is read


def test_a_halted_release_reads_nothing() -> None:
    policy = replace(SEGMENTED, release=replace(RELEASE, halted=True))
    assert reads.of(policy) == Reads()


def test_a_percentage_alone_reads_where_the_hash_key_may_be() -> None:
    assert reads.of(PLAIN) == Reads(
        headers=frozenset({"x-user-id"}), cookies=frozenset({"canary_id"}), consumer=True
    )


def test_reads_name_what_rules_and_identity_name_and_no_more() -> None:
    policy = replace(
        under(SEGMENTED, Strategy.USER_SEGMENT),
        rules=(
            Rule(name="a", source=Source.HEADER, key="x-a", exact="1", variant=Variant.CANARY),
            Rule(name="b", source=Source.COOKIE, key="b", exact="1", variant=Variant.CANARY),
            Rule(name="c", source=Source.PATH, exact="/", variant=Variant.CANARY),
        ),
        bucketing=Bucketing(hash_on=(HashKey(source=Source.IP),)),
        identity=Identity(
            user_id_header="x-uid",
            attribute_headers={"tier": "x-tier"},
            flags_header="x-flags",
        ),
    )
    assert reads.of(policy) == Reads(
        headers=frozenset({"x-a", "x-uid", "x-tier"}), cookies=frozenset({"b"}), path=True
    )


def rule(source: Source, key: str = "", exact: str = "1") -> dict[str, object]:
    found = Rule(name="r", source=source, key=key, exact=exact, variant=Variant.CANARY)
    return {"rules": (found,)}


def hashed_on(source: Source, key: str = "") -> dict[str, object]:
    found = Bucketing(hash_on=(HashKey(source=source, key=key),))
    return {"bucketing": found, "release": RELEASE}


PREMIUM = Segment(name="premium", canary_eligible=True, criteria=Criteria(tiers=("premium",)))
TIERED = Identity(attribute_headers={"tier": "x-tier"})
ON_SID = Bucketing(hash_on=(HashKey(source=Source.COOKIE, key="sid"),))
FLAG = Flag(name="f", enabled=True)
REFUSING_1 = (CompatibilityRule(source="1", to="v2", compatible=False),)
OLD = ApiVersion(version="1", deprecated=True)


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize(
    ("feature", "request_"),
    [
        (rule(Source.HEADER, "x-a"), Request(headers={"x-a": "1"})),
        (rule(Source.COOKIE, "a"), Request(cookies={"a": "1"})),
        (rule(Source.IP, exact="10.0.0.1"), Request(client_ip="10.0.0.1")),
        (rule(Source.PATH), Request(path="1")),
        (rule(Source.CONSUMER), Request(consumer="1")),
        (
            {
                "compatibility": Compatibility(
                    header="x-api",
                    rules=(CompatibilityRule(source="1", to="v2", compatible=False),),
                )
            },
            Request(headers={"x-api": "1"}),
        ),
        (
            {"compatibility": Compatibility(path_prefix="/api/", rules=REFUSING_1)},
            Request(path="/api/1/a"),
        ),
        (
            {"compatibility": Compatibility(media_type="a/b", rules=REFUSING_1)},
            Request(headers={"accept": "a/b.1"}),
        ),
        (
            {"compatibility": Compatibility(path_prefix="/api/", api_versions=(OLD,))},
            Request(path="/api/1/a"),
        ),
        ({"overrides": BELIEVED}, Request(headers={HEADER: token()})),
        ({"overrides": BELIEVED}, Request(cookies={COOKIE: token()})),
        ({"overrides": BELIEVED}, replace(ANN, cookies={COOKIE: token(user="ann")})),
        (
            {"overrides": BELIEVED},
            Request(headers={HEADER: token(cidr="10.0.0.0/8")}, client_ip="10.0.0.1"),
        ),
        ({"whitelist": Whitelist(ips=("10.0.0.0/8",))}, Request(client_ip="10.0.0.1")),
        ({"whitelist": Whitelist(users=("ann",))}, ANN),
        ({"whitelist": Whitelist(consumers=("acme",))}, Request(consumer="acme")),
        ({"segments": (BETA,)}, ANN),
        ({"segments": (PREMIUM,), "identity": TIERED}, Request(headers={"x-tier": "premium"})),
        (
            {
                "segments": (replace(PREMIUM, share=100_000),),
                "identity": TIERED,
                "bucketing": ON_SID,
            },
            Request(headers={"x-tier": "premium"}, cookies={"sid": "1"}),
        ),
        ({"flags": (replace(FLAG, users=("ann",)),)}, replace(ANN, flags=("f",))),
        (
            {
                "flags": (replace(FLAG, share=100_000),),
                "identity": Identity(flags_header="x-flags"),
                "bucketing": ON_SID,
            },
            Request(headers={"x-flags": "f"}, cookies={"sid": "1"}),
        ),
        ({"flags": (replace(FLAG, segments=("beta",)),), "segments": (BETA,)}, ANN),
        (
            {
                "flags": (replace(FLAG, segments=("premium",)),),
                "segments": (PREMIUM,),
                "identity": TIERED,
            },
            Request(headers={"x-tier": "premium"}, flags=("f",)),
        ),
        (hashed_on(Source.HEADER, "x-a"), Request(headers={"x-a": "1"})),
        (hashed_on(Source.COOKIE, "a"), Request(cookies={"a": "1"})),
        (hashed_on(Source.IP), Request(client_ip="10.0.0.1")),
        (hashed_on(Source.CONSUMER), Request(consumer="acme")),
        ({"bucketing": Bucketing(), "release": RELEASE}, Request(cookies={"canary_id": "1"})),
        ({"bucketing": Bucketing(), "release": RELEASE}, Request(consumer="acme")),
        ({"bucketing": Bucketing(), "release": RELEASE}, ANN),
    ],
)
def test_each_fact_that_alone_can_matter_is_read(
    feature: dict[str, object], request_: Request, strategy: Strategy
) -> None:
    unread = Bucketing(hash_on=(HashKey(source=Source.HEADER, key="x-none"),))
    bare = replace(PLAIN, release=replace(RELEASE, share=0), bucketing=unread)
    policy = replace(bare, **feature)  # type: ignore[arg-type]
    matters = [
        answer(under(policy, strategy), request_)
        != answer(under(policy, strategy), Request(flags=request_.flags))
        for strategy in Strategy
    ]
    assert any(matters)

    read = reads.of(under(policy, strategy))
    sent = replace(
        request_,
        headers={k: v for k, v in request_.headers.items() if k in read.headers},
        cookies={k: v for k, v in request_.cookies.items() if k in read.cookies},
        client_ip=request_.client_ip if read.client_ip else "",
        path=request_.path if read.path else "",
        consumer=request_.consumer if read.consumer else "",
    )
    assert answer(under(policy, strategy), sent) == answer(under(policy, strategy), request_)


def test_the_digest_names_exactly_the_reads() -> None:
    different = [
        Reads(),
        Reads(headers=frozenset({"a"})),
        Reads(cookies=frozenset({"a"})),
        Reads(headers=frozenset({"a", "b"})),
        Reads(client_ip=True),
        Reads(path=True),
        Reads(consumer=True),
        Reads(client_ip=True, client_ip_for_overrides=True),
    ]
    assert len({reads.digest(found) for found in different}) == len(different)
    one, other = (Reads(headers=frozenset(names)) for names in (("a", "b"), ("b", "a")))
    assert reads.digest(one) == reads.digest(other)
