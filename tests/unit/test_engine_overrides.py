"""Which tokens force a variant, and what is said of those that do not."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import thread_time
from typing import Any

import pytest
from canary_engine import override, reads
from canary_engine.decide import CompiledPolicy, decide, explain
from canary_engine.model import (
    NOBODY,
    Decision,
    Overrides,
    Policy,
    Reads,
    Reason,
    Release,
    ReleaseStatus,
    Request,
    Variant,
    Version,
    VersionStatus,
    Whitelist,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.overrides import (
    BELIEVED,
    COOKIE,
    HEADER,
    LATER,
    OTHER_KEY,
    PUBLIC_KEY,
    signed,
    token,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RELEASE = Release(id="r1", version="v2", status=ReleaseStatus.IN_PROGRESS, share=0, salt="r1")
POLICY = Policy(
    service_key="shop",
    versions=(Version(version="v2", status=VersionStatus.CANARY),),
    release=RELEASE,
    overrides=BELIEVED,
)
COMPILED = CompiledPolicy(POLICY)
TOKEN = token()


def decided(request: Request, now: datetime = NOW) -> Decision:
    found = decide(COMPILED, request, NOBODY, now)
    assert isinstance(found, Decision)
    return found


def is_forced(text: str, **facts: Any) -> bool:
    headers = {HEADER: text, **facts.pop("headers", {})}
    return decided(Request(headers=headers, **facts)).reason is Reason.OVERRIDE


def finding(request: Request, now: datetime = NOW) -> str:
    _, findings = explain(COMPILED, request, NOBODY, now)
    return next(f.finding for f in findings if f.reason is Reason.OVERRIDE)


def found_of(text: str, **facts: Any) -> str:
    return finding(Request(headers={HEADER: text, **facts.pop("headers", {})}, **facts))


# Forging


@given(st.integers(0, len(TOKEN) - 1), st.characters(max_codepoint=0x2FFF))
@example(len(TOKEN) - 1, "A")
@settings(max_examples=150, deadline=None)
def test_a_token_with_any_other_character_never_forces(position: int, character: str) -> None:
    altered = TOKEN[:position] + character + TOKEN[position + 1 :]
    assert is_forced(altered) is (altered == TOKEN)


@given(st.integers(0, len(TOKEN)), st.text(min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_token_with_anything_put_in_never_forces(position: int, more: str) -> None:
    assert not is_forced(TOKEN[:position] + more + TOKEN[position:])


@given(st.integers(0, len(TOKEN) - 1))
@settings(max_examples=50, deadline=None)
def test_a_part_of_a_token_never_forces(length: int) -> None:
    assert not is_forced(TOKEN[:length])


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk"]), json_values),
    st.dictionaries(st.sampled_from(["aud", "exp", "jti", "variant", "user"]), json_values),
    st.binary(max_size=70),
)
@settings(max_examples=100, deadline=None)
def test_nothing_that_is_put_together_without_the_key_forces_or_raises(
    header: dict[str, Any], claims: dict[str, Any], signature: bytes
) -> None:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    assert not is_forced(".".join(urlsafe_b64encode(p).decode().rstrip("=") for p in parts))


@given(
    st.dictionaries(st.sampled_from(["aud", "exp", "jti", "variant", "user", "cidr"]), json_values)
)
@settings(max_examples=150, deadline=None)
def test_signed_claims_that_make_no_sense_neither_force_nor_raise(claims: dict[str, Any]) -> None:
    said = {"aud": "shop", "exp": LATER, "jti": "o-1", "variant": "canary", **claims}
    try:
        text = signed(said)
    except TypeError:  # nor can they be signed
        return
    judged = override.judged(text, PUBLIC_KEY, "shop")
    if isinstance(judged, override.Override):
        assert (judged.id, judged.variant) == (said["jti"], said["variant"])
        assert judged.expires_s == said["exp"]


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 1_400,
        b'{"alg": "EdDSA", "crit": ["exp"]}',
        b'{"alg": "EdDSA", "b64": false, "crit": ["b64"]}',
        b'{"alg": ["EdDSA"]}',
        b"\xff\xfe",
        b"",
    ],
)
def test_a_hostile_head_is_passed_over(header: bytes) -> None:
    _, claims, signature = TOKEN.split(".")
    head = urlsafe_b64encode(header).decode().rstrip("=")
    assert not is_forced(f"{head}.{claims}.{signature}")


def test_a_token_is_what_this_page_says() -> None:
    head, claims, signature = TOKEN.split(".")
    assert json.loads(urlsafe_b64decode(head + "==")) == {"alg": "EdDSA", "typ": "JWT"}
    assert json.loads(urlsafe_b64decode(claims + "==")) == {
        "aud": "shop", "exp": LATER, "jti": "o-1", "variant": "canary",
    }  # fmt: skip
    assert len(urlsafe_b64decode(signature + "==")) == 64


# Time


def test_a_token_counts_until_the_second_it_expires_whatever_was_asked_before() -> None:
    ends = NOW + timedelta(hours=1)
    request = Request(headers={HEADER: token(exp=int(ends.timestamp()))})
    for now, reason in (
        (NOW, Reason.OVERRIDE),
        (ends, Reason.DEFAULT),
        (ends - timedelta(microseconds=1), Reason.OVERRIDE),
        (ends + timedelta(days=400), Reason.DEFAULT),
    ):
        assert decided(request, now).reason is reason
    late = finding(request, ends)
    assert late == (
        "the override in header x-canary-override does not count: "
        "override o-1 expired at 2026-03-01T13:00:00Z"
    )


# What is said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "it has not the shape of a token"),
        ("a" * 3_000, "it has not the shape of a token"),
        (token(OTHER_KEY), "it was not signed with the key that this policy believes"),
        (token(aud="orders"), "it is for another service key"),
        (token(variant="both"), "it is not a token for an override"),
        (token(jti="o-gone"), "override o-gone was revoked"),
        (token(user="ann"), "override o-1 is for another user"),
        (token(cidr="10.0.0.0/8"), "override o-1 is for addresses in 10.0.0.0/8"),
    ],
)
def test_explain_says_why_a_token_does_not_count(text: str, why: str) -> None:
    assert found_of(text) == f"the override in header x-canary-override does not count: {why}"
    assert text not in found_of(text)


def test_explain_says_what_an_override_forces_and_when_there_is_none() -> None:
    assert finding(Request()) == "the request carries no override"
    assert found_of(TOKEN) == "override o-1 in header x-canary-override says canary"
    both = Request(headers={HEADER: "nonsense"}, cookies={COOKIE: token(jti="o-2")})
    assert finding(both) == (
        "the override in header x-canary-override does not count: it has not the shape of a "
        "token; override o-2 in cookie canary_override says canary"
    )


# What is read, and what it costs


def test_what_a_token_may_be_bound_to_is_read_where_tokens_are_believed() -> None:
    believing = replace(POLICY, release=replace(RELEASE, share=0), bucketing=POLICY.bucketing)
    read = reads.of(believing)
    assert read.headers >= {HEADER, "x-user-id"}
    assert (COOKIE in read.cookies, read.client_ip) == (True, True)
    without = reads.of(replace(POLICY, overrides=Overrides()))
    assert (HEADER in without.headers, COOKIE in without.cookies, without.client_ip) == (
        False, False, False,
    )  # fmt: skip


def test_the_address_matters_to_testers_alone_unless_something_else_reads_it() -> None:
    assert reads.of(POLICY).client_ip_for_overrides
    whitelisting = reads.of(replace(POLICY, whitelist=Whitelist(ips=("10.0.0.0/8",))))
    assert (whitelisting.client_ip, whitelisting.client_ip_for_overrides) == (True, False)
    # Both read the same facts otherwise: a gateway that goes by one must not pass for the other.
    assert reads.digest(whitelisting) != reads.digest(reads.of(POLICY))
    assert not reads.of(replace(POLICY, overrides=Overrides())).client_ip_for_overrides


def test_a_halted_release_reads_no_token() -> None:
    halted = replace(POLICY, release=replace(RELEASE, halted=True))
    assert reads.of(halted) == Reads()


def test_junk_costs_a_fraction_of_what_verifying_costs() -> None:
    def cpu_s(texts: list[str]) -> float:
        """What they take of the processor, which others may have meanwhile."""
        started = thread_time()
        assert not any(map(is_forced, texts))
        return thread_time() - started

    # What came lately is remembered, so none comes twice.
    rounds = [range(start, start + 60) for start in range(0, 300, 60)]
    junk = min(cpu_s([f"junk {n}" * 200 for n in some]) for some in rounds)
    forged = min(cpu_s([token(OTHER_KEY, jti=f"o-{n}") for n in some]) for some in rounds)
    assert junk < forged / 3


def test_claims_are_refused_that_nobody_could_believe() -> None:
    with pytest.raises(ValueError, match="host bits"):
        override.claims("shop", "o-1", Variant.CANARY, LATER, cidr="10.0.0.1/8")
