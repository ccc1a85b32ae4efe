"""Differences of documents: things are the same where their names are."""

from __future__ import annotations

from typing import Any

import pytest
from canary_engine.diff import differences
from hypothesis import given
from hypothesis import strategies as st


def told(before: Any, after: Any) -> list[tuple[str, str, str]]:
    return [(path, old, new) for path, old, new in differences(before, after)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("a", "1", "2")]),
        ({}, {"a": {"b": "x"}}, [("a.b", "", '"x"')]),
        ({"a": {"b": False}}, {}, [("a.b", "false", "")]),
        (
            {"segments": [{"name": "beta", "percentage": 1}]},
            {"segments": [{"name": "beta", "percentage": 2}]},
            [("segments[beta].percentage", "1", "2")],
        ),
        (
            {"rules": [{"name": "a"}, {"name": "b"}]},
            {"rules": [{"name": "b"}, {"name": "a"}]},
            [("rules (order)", '["a", "b"]', '["b", "a"]')],
        ),
        ({}, {"flags": [{"name": "f"}]}, [("flags[f]", "", '{"name": "f"}')]),
        ({"users": ["u", "v"]}, {"users": ["v"]}, [("users[u]", '"u"', "")]),
        (
            {"rules": [{"from": "v1", "to": "v2"}]},
            {"rules": [{"from": "v1", "to": "v3"}]},
            [
                ("rules[v1 to v2]", '{"from": "v1", "to": "v2"}', ""),
                ("rules[v1 to v3]", "", '{"from": "v1", "to": "v3"}'),
            ],
        ),
        (
            {"steps": [{"weight": 1}]},
            {"steps": [{"weight": 1}, {"weight": 2}]},
            [("steps[1].weight", "", "2")],
        ),
        ({"revision": 1, "membership_epoch": 2}, {"revision": 2, "membership_epoch": 3}, []),
    ],
)
def test_differences_have_paths_that_people_read(
    before: Any, after: Any, expected: list[tuple[str, str, str]]
) -> None:
    assert told(before, after) == expected


NAMES = st.sampled_from(["a", "b", "name", "version"])
VALUES = st.recursive(
    st.booleans() | st.integers(1, 3) | st.sampled_from(["x", "y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=4)


@given(DOCUMENTS)
def test_a_document_does_not_differ_from_itself(document: dict[str, Any]) -> None:
    assert told(document, document) == []


@given(DOCUMENTS, DOCUMENTS)
def test_what_is_added_one_way_is_removed_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    there = {(path, a, b) for path, a, b in told(before, after) if "(order)" not in path}
    back = {(path, b, a) for path, a, b in told(after, before) if "(order)" not in path}
    assert there == back
