"""The part of JSON Schema that a plugin's json fields may use; the rest is refused by name."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dev_gateway.lua import is_integer, is_number

KEYWORDS = frozenset(
    {
        "$schema", "additionalProperties", "anyOf", "const", "description", "enum", "items",
        "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum", "pattern",
        "properties", "required", "title", "type",
    }
)  # fmt: skip

_IS_TYPE: Mapping[str, Callable[[Any], bool]] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "integer": is_integer,
    "null": lambda value: value is None,
    "number": is_number,
    "object": lambda value: isinstance(value, dict),
    "string": lambda value: isinstance(value, str),
}


def check(schema: Any, path: str, complain: Callable[[str, str], None]) -> None:
    """Complain about what this module cannot honour."""
    if not isinstance(schema, dict):
        complain(path, "expected a JSON schema")
        return
    for name in schema.keys() - KEYWORDS:
        complain(f"{path}.{name}", "not honoured by the development gateway")
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _IS_TYPE:
            complain(f"{path}.type", f"invalid type: {kind}")
    for name, nested in schema.get("properties", {}).items():
        check(nested, f"{path}.properties.{name}", complain)
    for index, nested in enumerate(schema.get("anyOf", [])):
        check(nested, f"{path}.anyOf[{index}]", complain)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            check(schema[name], f"{path}.{name}", complain)


def faults(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Each place where the value breaks the schema, with words."""
    kinds = schema.get("type")
    wanted = [kinds] if isinstance(kinds, str) else kinds
    if wanted and not any(_IS_TYPE[kind](value) for kind in wanted):
        yield path, f"wrong type: expected one of {', '.join(wanted)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield path, "matches none of the enum values"
    if "const" in schema and value != schema["const"]:
        yield path, "is not the constant"
    if "anyOf" in schema and all(any(faults(one, value, path)) for one in schema["anyOf"]):
        yield path, "matches none of the alternatives"
    if isinstance(value, str):
        yield from _text_faults(schema, value, path)
    elif isinstance(value, list):
        yield from _list_faults(schema, value, path)
    elif isinstance(value, dict):
        yield from _object_faults(schema, value, path)
    elif is_number(value):
        yield from _range_faults(schema, value, path, "minimum", "maximum", "value")


def _range_faults(
    schema: Mapping[str, Any], size: float, path: str, low: str, high: str, what: str
) -> Iterator[tuple[str, str]]:
    if low in schema and size < schema[low]:
        yield path, f"{what} is less than {schema[low]}"
    if high in schema and size > schema[high]:
        yield path, f"{what} is more than {schema[high]}"


def _text_faults(schema: Mapping[str, Any], value: str, path: str) -> Iterator[tuple[str, str]]:
    yield from _range_faults(schema, len(value), path, "minLength", "maxLength", "length")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield path, f"does not match the pattern {schema['pattern']}"


def _list_faults(
    schema: Mapping[str, Any], value: list[Any], path: str
) -> Iterator[tuple[str, str]]:
    yield from _range_faults(schema, len(value), path, "minItems", "maxItems", "length")
    if isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            yield from faults(schema["items"], item, f"{path}[{index}]")


def _object_faults(
    schema: Mapping[str, Any], value: dict[str, Any], path: str
) -> Iterator[tuple[str, str]]:
    for name in schema.get("required", []):
        if name not in value:
            yield f"{path}.{name}", "is required"
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in known:
            yield from faults(known[name], item, f"{path}.{name}")
        elif others is False:
            yield f"{path}.{name}", "additional properties are forbidden"
        elif isinstance(others, dict):
            yield from faults(others, item, f"{path}.{name}")
