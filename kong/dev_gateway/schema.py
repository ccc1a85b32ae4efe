"""Kong's schema language: read a table by a list of fields, fill defaults, name every fault."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dev_gateway import json_schema
from dev_gateway.lua import is_integer, is_number

Field = Mapping[str, Any]
Fields = Sequence[Mapping[str, Field]]
Complain = Callable[[str, str], None]

TYPES = frozenset(
    {"array", "boolean", "integer", "json", "map", "number", "record", "set", "string"}
)
DESCRIPTIVE = frozenset({"type", "description", "required", "default", "err", "referenceable"})
NESTING = frozenset({"elements", "fields", "json_schema", "keys", "values"})

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_EXPECTED = {
    "array": "expected an array",
    "boolean": "expected a boolean",
    "integer": "expected an integer",
    "map": "expected a map",
    "number": "expected a number",
    "record": "expected a record",
    "set": "expected a set",
    "string": "expected a string",
}
_IS_TYPE: Mapping[str, Callable[[Any], bool]] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "integer": is_integer,
    "json": lambda value: True,
    "map": lambda value: isinstance(value, dict),
    "number": is_number,
    "record": lambda value: isinstance(value, dict),
    "set": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
}


def _one_of(value: Any, options: Any) -> str | None:
    return None if value in options else f"expected one of: {', '.join(map(str, options))}"


def _not_one_of(value: Any, options: Any) -> str | None:
    return f"must not be one of: {', '.join(map(str, options))}" if value in options else None


def _between(value: Any, limits: Any) -> str | None:
    low, high = limits
    return None if low <= value <= high else f"value should be between {low} and {high}"


def _is_regex(value: Any, _: Any) -> str | None:
    try:
        re.compile(value)
    except re.error:
        return f"not a valid regex: {value}"
    return None


def _holds(test: Callable[[Any, Any], bool], words: str) -> Callable[[Any, Any], str | None]:
    return lambda value, wanted: None if test(value, wanted) else words.format(wanted)


# In Kong's order; the first that fails speaks.
VALIDATORS: Mapping[str, Callable[[Any, Any], str | None]] = {
    "eq": _holds(lambda value, wanted: bool(value == wanted), "value must be {}"),
    "ne": _holds(lambda value, wanted: bool(value != wanted), "value must not be {}"),
    "not_one_of": _not_one_of,
    "one_of": _one_of,
    "gt": _holds(lambda value, limit: bool(value > limit), "value must be greater than {}"),
    "uuid": _holds(lambda value, _: bool(_UUID.fullmatch(value)), "expected a valid UUID"),
    "is_regex": _is_regex,
    "between": _between,
    "len_eq": _holds(lambda value, n: len(value) == n, "length must be {}"),
    "len_min": _holds(lambda value, n: len(value) >= n, "length must be at least {}"),
    "len_max": _holds(lambda value, n: len(value) <= n, "length must be at most {}"),
    "starts_with": _holds(lambda value, head: value.startswith(head), "should start with: {}"),
    "contains": _holds(lambda value, wanted: wanted in value, "expected to contain: {}"),
    "custom_validator": lambda value, check: check(value),
}


def read_record(fields: Fields, given: Any, path: str, complain: Complain) -> dict[str, Any]:
    """The record with defaults filled in and nulls dropped; faults go to complain."""
    if not isinstance(given, dict):
        complain(path, _EXPECTED["record"])
        return {}
    known = dict(_each(fields))
    for name in given:
        if name not in known:
            complain(f"{path}.{name}" if path else str(name), "unknown field")
    filled: dict[str, Any] = {}
    for name, field in known.items():
        value = read_field(field, name, given, f"{path}.{name}" if path else name, complain)
        if value is not None:
            filled[name] = value
    return filled


def read_field(
    field: Field, name: str, given: Mapping[str, Any], path: str, complain: Complain
) -> Any:
    """One field of a record; an explicit null is not a missing field."""
    value = given.get(name)
    if value is not None:
        return read_value(field, value, path, complain)
    if name not in given:
        if "default" in field:
            return copy.deepcopy(field["default"])
        if field.get("required") and field["type"] == "record":
            return read_record(field["fields"], {}, path, complain)
    if field.get("required"):
        complain(path, "required field missing")
    return None


def read_value(field: Field, value: Any, path: str, complain: Complain) -> Any:
    """A value that is not null, checked and completed."""
    kind = field["type"]
    if not _IS_TYPE[kind](value):
        complain(path, _EXPECTED[kind])
        return None
    fault = _first_fault(field, value)
    if fault is not None:
        complain(path, field.get("err", fault))
    if kind == "record":
        return read_record(field["fields"], value, path, complain)
    if kind in ("array", "set"):
        return _read_elements(field, value, path, complain)
    if kind == "map":
        return _read_map(field, value, path, complain)
    if kind == "json":
        for at, words in json_schema.faults(field["json_schema"]["inline"], value, path):
            complain(at, f"value failed JSON-schema validation: {words}")
    return int(value) if kind == "integer" else value


def _read_elements(field: Field, value: list[Any], path: str, complain: Complain) -> list[Any]:
    read: list[Any] = []
    for index, item in enumerate(value):
        at = f"{path}[{index}]"
        if item is None:
            complain(at, "required field missing")
            continue
        element = read_value(field["elements"], item, at, complain)
        if field["type"] == "array" or element not in read:
            read.append(element)
    return read


def _read_map(field: Field, value: dict[Any, Any], path: str, complain: Complain) -> dict[Any, Any]:
    read: dict[Any, Any] = {}
    for key, item in value.items():
        at = f"{path}.{key}"
        if item is None:
            complain(at, "required field missing")
            continue
        read[read_value(field["keys"], key, at, complain)] = read_value(
            field["values"], item, at, complain
        )
    return read


def _first_fault(field: Field, value: Any) -> str | None:
    if field["type"] == "string" and "len_min" not in field and value == "":
        return "length must be at least 1"
    for name, check in VALIDATORS.items():
        if name in field:
            fault = check(value, field[name])
            if fault is not None:
                return fault
    return None


def check_fields(fields: Any, path: str, complain: Complain) -> None:
    """Refuse, by name, whatever a plugin's schema says that cannot be honoured here."""
    if not isinstance(fields, list):
        complain(path, "expected an array of fields")
        return
    for index, entry in enumerate(fields):
        at = f"{path}[{index}]"
        if not isinstance(entry, dict) or len(entry) != 1:
            complain(at, "expected a record with one field")
            continue
        for name, field in entry.items():
            _check_field(field, f"{at}.{name}", complain)


def _check_field(field: Any, path: str, complain: Complain) -> None:
    if not isinstance(field, dict) or field.get("type") not in TYPES:
        kind = field.get("type") if isinstance(field, dict) else field
        complain(path, f"invalid type: {kind}")
        return
    for name in field.keys() - DESCRIPTIVE - NESTING - VALIDATORS.keys():
        complain(f"{path}.{name}", "not honoured by the development gateway")
    kind = field["type"]
    if kind == "record":
        check_fields(field.get("fields"), f"{path}.fields", complain)
    for part in {"array": ["elements"], "set": ["elements"], "map": ["keys", "values"]}.get(
        kind, []
    ):
        _check_field(field.get(part), f"{path}.{part}", complain)
    if kind == "json":
        inline = (field.get("json_schema") or {}).get("inline")
        json_schema.check(inline, f"{path}.json_schema.inline", complain)


def _each(fields: Fields) -> Iterator[tuple[str, Field]]:
    for entry in fields:
        yield from entry.items()
