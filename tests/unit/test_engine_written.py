"""Reading or writing what has changed of a policy gives what doing all of it gives."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from canary_engine import parse
from canary_engine.errors import InvalidPolicy
from canary_engine.model import Policy, Version
from canary_engine.written import Written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BACKENDS: list[Any] = [None, {"upstream": "a"}, {"host": "b", "port": 80}, {"host": "b"}, 5]
STATUSES: list[Any] = ["stable", "canary", "deprecated", "registered", "none", None, 7]
items = st.fixed_dictionaries(
    {"version": st.sampled_from(["v1", "v2", "v3", "v4", "", "支付", 5])},
    optional={
        "status": st.sampled_from(STATUSES),
        "backend": st.sampled_from(BACKENDS),
        "build_number": st.sampled_from(["1", "2", 3]),
        "unknown": st.just("field"),
    },
)
versions: st.SearchStrategy[list[Any]] = st.lists(
    st.one_of(items, st.sampled_from([None, "text", []])), max_size=6
)
some = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def document(*items: Any, **parts: Any) -> dict[str, Any]:
    return {"service_key": "shop", "revision": 7, "versions": list(items), **parts}


def written(document: dict[str, Any]) -> Written:
    return Written(parse.policy(document), document)


def many(number: int) -> dict[str, Any]:
    stable = {"version": "v0", "status": "stable"}
    return document(stable, *({"version": f"v{n}"} for n in range(1, number)))


def outcome(read: Any, document: Any) -> Policy | list[str]:
    try:
        found: Policy = read(deepcopy(document))
    except InvalidPolicy as error:
        return list(error.complaints)
    return found


KNOWN = document(
    {"version": "v1", "status": "stable", "backend": {"host": "b", "port": 80}},
    {"version": "v2", "build_number": "2"},
    {"version": "v3", "status": "deprecated"},
    {"version": "支付", "backend": {"upstream": "a"}},
)


@some
@given(versions, st.permutations(KNOWN["versions"]), st.integers(0, 4), st.booleans())
def test_what_is_read_is_what_reading_the_whole_gives(
    new: list[Any], old: list[Any], kept: int, is_first: bool
) -> None:
    known = list(old)[:kept]
    changed = document(*(known + new if is_first else new + known))
    assert outcome(written(KNOWN).read, changed) == outcome(parse.policy, changed)


@some
@given(st.permutations(KNOWN["versions"]), st.integers(0, 4), st.booleans())
def test_what_is_written_is_what_writing_the_whole_gives(
    order: list[Any], kept: int, is_renewed: bool
) -> None:
    before = written(KNOWN)
    by_name = {version.version: version for version in before.policy.versions}
    versions = [by_name[item["version"]] for item in order[:kept]]
    versions.append(Version(version="new"))
    if is_renewed:
        versions[0] = replace(versions[0], git_commit="c0ffee")
    after = replace(before.policy, versions=tuple(versions), membership_epoch=3)
    found = before.write(after)
    assert found == parse.document(after)
    assert list(found) == list(parse.document(after))
    assert json.dumps(before.write(before.policy)) == json.dumps(parse.document(before.policy))


@pytest.mark.parametrize("versions", [None, "text", {}, 5])
def test_versions_that_are_no_list_are_complained_about_as_ever(versions: Any) -> None:
    changed = {**KNOWN, "versions": versions}
    assert outcome(written(KNOWN).read, changed) == outcome(parse.policy, changed)


def test_a_complaint_names_the_place_in_the_whole() -> None:
    known = many(10)
    changed = {**known, "versions": [*known["versions"], {"version": "new", "status": "no"}]}
    with pytest.raises(InvalidPolicy, match=r"versions\[10\].status"):
        written(known).read(changed)


def test_what_is_unchanged_stays_the_same_object() -> None:
    before = written(many(1_000))
    changed = before.write(before.policy)
    changed["versions"][500]["git_commit"] = "c0ffee"
    after = before.read(changed)
    differing = [
        new.version
        for old, new in zip(before.policy.versions, after.versions, strict=True)
        if old is not new
    ]
    assert differing == ["v500"]


def test_changing_what_is_written_does_not_change_what_is_known() -> None:
    before = written(many(3))
    copy = before.write(before.policy)
    copy["versions"][1]["status"] = "canary"
    copy["versions"].pop()
    assert before.document == many(3)
    assert before.read(many(3)) == before.policy
