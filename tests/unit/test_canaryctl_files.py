"""Files: text stays as written, traps of YAML are gone, every mistake has its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from canary.policy.v1 import policy_pb2
from canaryctl.errors import Misuse
from canaryctl.files import parsed, read_many, read_one, users_of


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(text: str, name: str = "given.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("true", "true"),
        ("True", "true"),
        ("yes", "yes"),
        ("off", "off"),
        ("1.10", "1.10"),
        ("007", "007"),
        ("1e3", "1e3"),
        ("2026-01-31", "2026-01-31"),
        ('"a"', "a"),
    ],
)
def test_text_stays_as_it_was_written(file: Any, written: str, text: str) -> None:
    assert read_one(file(f"exact: {written}"), "rule", policy_pb2.Rule).exact == text


@pytest.mark.parametrize(
    "text",
    [
        "[{name: a}, {name: b}]",
        "rules: [{name: a}, {name: b}]",
        "service_key: shop\nrevision: 7\nrules: [{name: a}, {name: b}]",
        '{"rules": [{"name": "a"},\n\t{"name": "b"}]}'.replace("\t", " "),
    ],
)
def test_a_list_stands_alone_or_under_its_name(file: Any, text: str) -> None:
    rules = read_many(file(text), "rules", policy_pb2.Rule)
    assert [rule.name for rule in rules] == ["a", "b"]


def test_a_single_thing_is_a_list_of_one(file: Any) -> None:
    assert [s.name for s in read_many(file("name: a"), "segments", policy_pb2.Segment)] == ["a"]


def test_an_empty_list_is_no_rules(file: Any) -> None:
    assert read_many(file("rules: []"), "rules", policy_pb2.Rule) == []


def complaints(read: Any, *given: Any) -> list[str]:
    with pytest.raises(Misuse) as refused:
        read(*given)
    assert refused.value.exit_code == 2
    return refused.value.message.splitlines()


def test_unknown_keys_are_refused_with_their_path_and_the_near_name(file: Any) -> None:
    path = file("rules:\n- {name: a}\n- {exat: x, source: heder}\n- 5")
    assert complaints(read_many, path, "rules", policy_pb2.Rule) == [
        "rules[1].exat: unknown field; did you mean exact?",
        "rules[1].source: 'heder' is none of header, cookie, ip, path, consumer",
        "rules[2]: give a mapping, not 5",
    ]


def test_an_unknown_key_beside_the_list_is_not_lost(file: Any) -> None:
    path = file("rules: []\nwhitelist: {}")
    assert "unknown field" in complaints(read_many, path, "rules", policy_pb2.Rule)[0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: a\nname: b", "line 2, column 1: name is given twice"),
        ("{a", "line 1, column 3: expected ',' or '}', but got '<stream end>'"),
        ("? [a]\n: b", "line 1, column 3: a key is text"),
        ("- a\n- !!python/object:os.system {}", "line 2, column 3: could not determine"),
        ("a: \x01", "unacceptable character"),
    ],
)
def test_what_is_no_yaml_is_refused_where_it_stands(text: str, complaint: str) -> None:
    assert complaint in complaints(parsed, text, "given.yaml")[0]


def test_an_empty_file_is_refused(file: Any) -> None:
    assert complaints(read_one, file(""), "flag", policy_pb2.Flag) == [
        "document: give a mapping, not nothing"
    ]


def test_a_very_deep_file_is_refused(file: Any) -> None:
    assert "too deeply" in complaints(parsed, "[" * 20_000, "given.yaml")[0]


def test_a_merged_key_may_be_overridden() -> None:
    assert parsed("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "given.yaml")["b"] == {"x": 1, "y": 3}


def test_files_that_cannot_be_read_are_named(tmp_path: Path, file: Any) -> None:
    missing = str(tmp_path / "none.yaml")
    assert complaints(read_one, missing, "flag", policy_pb2.Flag) == [
        f"{missing}: No such file or directory"
    ]
    latin = file("name: \udce9")
    assert "not UTF-8" in complaints(read_one, latin, "flag", policy_pb2.Flag)[0]


def test_users_are_lines_without_blanks(file: Any) -> None:
    assert users_of(("a",), file("b\n\n  c \n")) == ["a", "b", "c"]
    assert "no users" in complaints(users_of, (), file("\n"))[0]
