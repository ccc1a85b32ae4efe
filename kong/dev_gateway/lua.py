"""How Lua sees the values that a plugin sends: type names, bytes as text, no nil in tables."""

from typing import Any

INTEGRAL_LIMIT = 2**53


def text(value: bytes) -> str:
    """Bytes that are not UTF-8 survive the round trip as surrogates."""
    return value.decode("utf-8", "surrogateescape")


def raw(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def from_wire(value: Any) -> Any:
    """A decoded MessagePack value as a Lua table would hold it: a nil entry is no entry."""
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, dict):
        return {from_wire(key): from_wire(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [from_wire(item) for item in value]
    return value


def to_wire(value: Any) -> Any:
    """A value as lua-MessagePack packs it: a whole number is an integer, {} is an array."""
    if isinstance(value, float) and value.is_integer() and abs(value) < INTEGRAL_LIMIT:
        return int(value)
    if isinstance(value, dict):
        return {key: to_wire(item) for key, item in value.items()} if value else []
    if isinstance(value, list | tuple):
        return [to_wire(item) for item in value]
    return value


def json_ready(value: Any) -> Any:
    """A value as cjson writes it: a whole number without a fraction."""
    if isinstance(value, float) and value.is_integer() and abs(value) < INTEGRAL_LIMIT:
        return int(value)
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    return [json_ready(item) for item in value] if isinstance(value, list) else value


def type_name(value: Any) -> str:
    """What type() says in Lua."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "table"


def is_number(value: Any) -> bool:
    return type_name(value) == "number"


def is_integer(value: Any) -> bool:
    return is_number(value) and value == value // 1


def to_string(value: Any) -> str:
    """What tostring() says in Lua, for what may stand in a header or a log line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.14g}"
    return "nil" if value is None else str(value)
