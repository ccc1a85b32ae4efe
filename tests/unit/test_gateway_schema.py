"""Kong's schema language: types, defaults, validators and their words."""

from typing import Any

import pytest
from dev_gateway.errors import ConfigError, PluginQueryError
from dev_gateway.plugin_info import query_plugin, read_info
from dev_gateway.schema import Field, read_record

STRINGS = {"type": "array", "elements": {"type": "string"}}
NESTED = {"type": "record", "fields": [{"on": {"type": "boolean", "default": True}}]}
STRING_OR_BOOLEAN = {"type": "json", "json_schema": {"inline": {"type": ["string", "boolean"]}}}


def read(field: Field, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    faults: list[str] = []

    def complain(path: str, words: str) -> None:
        faults.append(f"{path}: {words}")

    return read_record([{"a": field}], given, "config", complain), faults


@pytest.mark.parametrize(
    ("field", "given", "filled"),
    [
        ({"type": "string", "default": "x"}, {}, {"a": "x"}),
        ({"type": "string", "default": "x"}, {"a": None}, {}),
        ({"type": "string"}, {}, {}),
        ({"type": "integer"}, {"a": 5.0}, {"a": 5}),
        ({"type": "number"}, {"a": 0.5}, {"a": 0.5}),
        ({"type": "set", "elements": {"type": "string"}}, {"a": ["x", "x"]}, {"a": ["x"]}),
        (NESTED, {}, {}),
        ({**NESTED, "required": True}, {}, {"a": {"on": True}}),
        (NESTED, {"a": {}}, {"a": {"on": True}}),
        (STRING_OR_BOOLEAN, {"a": True}, {"a": True}),
        (
            {"type": "map", "keys": {"type": "string"}, "values": {"type": "integer"}},
            {"a": {"x": 1}},
            {"a": {"x": 1}},
        ),
    ],
)
def test_a_record_is_completed(field: Field, given: dict[str, Any], filled: dict[str, Any]) -> None:
    assert read(field, given) == (filled, [])


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ({"type": "string"}, True, "config.a: expected a string"),
        ({"type": "string"}, "", "config.a: length must be at least 1"),
        ({"type": "integer"}, 5.5, "config.a: expected an integer"),
        ({"type": "integer"}, True, "config.a: expected an integer"),
        ({"type": "number"}, "5", "config.a: expected a number"),
        ({"type": "boolean"}, "true", "config.a: expected a boolean"),
        ({"type": "string", "one_of": ["x", "y"]}, "z", "config.a: expected one of: x, y"),
        ({"type": "number", "between": [0, 1]}, 2, "config.a: value should be between 0 and 1"),
        ({"type": "number", "gt": 0}, 0, "config.a: value must be greater than 0"),
        ({**STRINGS, "len_min": 1}, [], "config.a: length must be at least 1"),
        (STRINGS, {"x": 1}, "config.a: expected an array"),
        (STRINGS, ["x", 5], "config.a[1]: expected a string"),
        (STRINGS, [None], "config.a[0]: required field missing"),
        (NESTED, {"off": 1}, "config.a.off: unknown field"),
        (NESTED, 5, "config.a: expected a record"),
        ({"type": "string", "required": True}, None, "config.a: required field missing"),
        (
            STRING_OR_BOOLEAN,
            5,
            "config.a: value failed JSON-schema validation: "
            "wrong type: expected one of string, boolean",
        ),
    ],
)
def test_a_fault_is_named_in_kongs_words(field: Field, value: Any, fault: str) -> None:
    assert read(field, {"a": value})[1] == [fault]


def test_a_default_is_never_shared() -> None:
    field = {"type": "array", "default": [], "elements": {"type": "string"}}
    first, _ = read(field, {})
    first["a"].append("x")
    assert read(field, {})[0] == {"a": []}


def description(**field: Any) -> dict[str, Any]:
    config = {"type": "record", "fields": [{"a": field}]}
    return {
        "Name": "canary-release",
        "Phases": ["access"],
        "Priority": 850,
        "Schema": {"name": "canary-release", "fields": [{"config": config}]},
    }


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"type": "any"}, "invalid type: any"),
        ({"type": "string", "match": "^x"}, "config.fields[0].a.match: not honoured"),
        ({"type": "array", "elements": {"type": "function"}}, "a.elements: invalid type"),
        ({"type": "json", "json_schema": {"namespace": "x"}}, "expected a JSON schema"),
        ({"type": "json", "json_schema": {"inline": {"not": {}}}}, "inline.not: not honoured"),
    ],
)
def test_a_schema_that_cannot_be_honoured_is_refused(field: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
        read_info(description(**field))


def test_a_phase_that_cannot_be_honoured_is_refused() -> None:
    with pytest.raises(ConfigError, match="'response' is not honoured"):
        read_info({**description(type="string"), "Phases": ["access", "response"]})


@pytest.mark.parametrize("command", ["true", "echo '{}'", "echo '[]'", "echo '[5]'", "echo x"])
def test_a_query_command_must_describe_a_plugin(command: str) -> None:
    with pytest.raises(PluginQueryError):
        query_plugin(command)
