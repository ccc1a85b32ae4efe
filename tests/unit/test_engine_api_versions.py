"""Where a client says which API version it speaks, in any writing, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from time import thread_time

import pytest
from canary_engine import api_version, parse, reads
from canary_engine.baseline import in_force
from canary_engine.decide import CompiledPolicy, explain
from canary_engine.errors import InvalidPolicy
from canary_engine.model import (
    NOBODY,
    ApiVersion,
    Compatibility,
    CompatibilityRule,
    Deprecation,
    Policy,
    Reads,
    Reason,
    Release,
    ReleaseStatus,
    Request,
    Version,
    VersionStatus,
)
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TYPE = "application/vnd.shop"
PLACES = Compatibility(header="x-api", path_prefix="/api/", media_type=TYPE)
OLD = ApiVersion(version="v1", deprecated=True)
DEPRECATING = replace(PLACES, api_versions=(OLD,))
EMPTY = Policy(service_key="shop")
RELEASED = Policy(
    service_key="shop",
    versions=(Version(version="v2", status=VersionStatus.CANARY),),
    release=Release(id="r1", version="v2", status=ReleaseStatus.IN_PROGRESS, share=0, salt="r1"),
)

# Pieces that a parser could stumble over.
PIECES = [
    TYPE, TYPE.upper(), ".v1", "+json", ";", ",", "=", '"', "version", "q", "0", "1", "0.5", "nan",
    "-1", "1e999", " ", "\t", "*/*", "内", "\0", "\ud800", "İ", "version=v1", "q=0",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_reading_a_version_never_raises(text: str) -> None:
    read = api_version.version_reader(PLACES)
    for request in (
        Request(headers={"accept": text}),
        Request(headers={"x-api": text}),
        Request(path=text),
        Request(path="/api/" + text),
    ):
        assert isinstance(read(request), str)


@given(
    st.sampled_from(["v1", "1.10", "2026-01", "第一版"]),
    st.sampled_from(
        [TYPE + ".{}", TYPE + ".{}+json", TYPE + ";version={}", TYPE + '; VERSION="{}"']
    ),
    st.lists(st.sampled_from(["text/html", "*/*;q=0.1", TYPE, TYPE + "+json", ""]), max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_every_writing_of_a_version_is_read_among_whatever_else_is_accepted(
    version: str, writing: str, others: list[str]
) -> None:
    accept = ", ".join([*others, writing.format(version)])
    assert api_version.accepted_version(accept, TYPE) == version


@pytest.mark.parametrize(
    "piece",
    [",", ";", f"{TYPE},", f"{TYPE};", f"{TYPE};q=0.1,", f"{TYPE};=;=,", '"', f"{TYPE}.v;q=0.1,"],
)
def test_a_hostile_accept_header_takes_time_in_proportion_to_its_length(piece: str) -> None:
    def cpu_s(length: int, times: int) -> float:
        """What it takes of the processor, which others may have meanwhile without a difference."""
        text = TYPE + piece * (length // len(piece))
        started = thread_time()
        for _ in range(times):
            api_version.accepted_version(text, TYPE)
        return thread_time() - started

    # As much text in one header as in sixteen; with the square of its length it would take
    # sixteen times as long.
    one, sixteen = zip(*[(cpu_s(160_000, 1), cpu_s(10_000, 16)) for _ in range(5)], strict=True)
    assert min(one) < 5 * min(sixteen)


def test_the_same_functions_decide_where_no_version_is_deprecated() -> None:
    """Who has no deprecated API version does not pay for those who do."""
    known = replace(PLACES, api_versions=(replace(OLD, deprecated=False),))
    for compatibility in (Compatibility(), PLACES, known, Compatibility(api_versions=(OLD,))):
        compiled = CompiledPolicy(replace(EMPTY, compatibility=compatibility))
        assert compiled.deciders == tuple(stage.decide for stage in compiled.stages)
    assert len(CompiledPolicy(replace(RELEASED, compatibility=DEPRECATING)).deciders) == 1


def test_what_names_a_version_is_read_for_rules_and_for_deprecations_and_else_not() -> None:
    everything = Reads(headers=frozenset({"x-api", "accept"}), path=True)
    assert reads.of(replace(EMPTY, compatibility=PLACES)) == Reads()
    assert reads.of(replace(EMPTY, compatibility=DEPRECATING)) == everything
    halted = replace(RELEASED, release=replace(RELEASED.release, halted=True))  # type: ignore[type-var]
    assert reads.of(replace(halted, compatibility=DEPRECATING)) == everything
    rules = (CompatibilityRule(source="v1", to="v2", compatible=False),)
    ruled = reads.of(replace(RELEASED, compatibility=replace(PLACES, rules=rules)))
    assert (ruled.headers >= everything.headers, ruled.path) == (True, True)


def test_a_gateways_own_policy_tells_what_the_stored_one_knows() -> None:
    rules = (CompatibilityRule(source="v1", to="v2", compatible=False),)
    stored = replace(EMPTY, compatibility=replace(DEPRECATING, rules=rules))
    ruling = in_force("shop", stored, RELEASED)
    assert ruling.is_baseline
    assert ruling.policy.compatibility == DEPRECATING
    assert in_force("shop", None, RELEASED).policy == RELEASED


def test_explain_says_where_it_looked() -> None:
    rules = (CompatibilityRule(source="v1", to="v2", compatible=False),)
    compiled = CompiledPolicy(replace(RELEASED, compatibility=replace(PLACES, rules=rules)))

    def finding(request: Request) -> str:
        _, found = explain(compiled, request, NOBODY, NOW)
        return next(f.finding for f in found if f.reason is Reason.COMPATIBILITY)

    assert finding(Request()) == (
        "the request names no API version (header x-api, the path after /api/, "
        "application/vnd.shop in header accept)"
    )
    assert finding(Request(path="/api/v1/x")) == "v2 cannot serve API version 'v1'"
    assert finding(Request(path="/api/v3/x")) == "v2 can serve API version 'v3'"


def test_a_version_that_is_deprecated_since_nobody_knows_when_is_so_since_the_epoch() -> None:
    assert api_version.deprecations(DEPRECATING) == {"v1": Deprecation(EPOCH)}


def test_a_version_does_not_end_before_it_is_deprecated() -> None:
    version = {
        "version": "v1",
        "deprecated": True,
        "deprecated_at": "2026-02-01T00:00:00Z",
        "sunset_date": "2026-01-01T00:00:00Z",
    }
    with pytest.raises(InvalidPolicy, match="sunset_date: give no time before deprecated_at"):
        parse.policy({"service_key": "shop", "compatibility": {"api_versions": [version]}})
