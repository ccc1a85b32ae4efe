"""What a PDK function is: its phases and its code; and the checks that Kong's Lua makes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dev_gateway.balancer import Balancer
from dev_gateway.context import Phase, RequestContext
from dev_gateway.errors import LuaError
from dev_gateway.lua import is_integer, is_number, type_name

ACCESS = frozenset({Phase.ACCESS})
LOG = frozenset({Phase.LOG})
BOTH = ACCESS | LOG


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call by a plugin."""

    ctx: RequestContext
    phase: Phase
    args: list[Any]
    balancer: Balancer

    def arg(self, index: int) -> Any:
        return self.args[index] if index < len(self.args) else None


@dataclass(frozen=True, slots=True)
class Function:
    run: Callable[[Call], Any]
    phases: frozenset[Phase]


def want_text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise LuaError(f"{what} must be a string")
    return value


def want_integer(value: Any, what: str, low: int, high: int) -> int:
    if not is_integer(value):
        raise LuaError(f"{what} must be an integer")
    if not low <= value <= high:
        raise LuaError(f"{what} must be an integer between {low} and {high}: given {value}")
    return int(value)


def want_limit(value: Any, what: str, default: int) -> int:
    """max_headers and max_args."""
    if value is None:
        return default
    if not is_number(value):
        raise LuaError(f"{what} must be a number")
    if not 1 <= value <= 1000:
        raise LuaError(f"{what} must be {'>= 1' if value < 1 else '<= 1000'}")
    return int(value)


def want_header(name: Any, value: Any) -> tuple[str, Any]:
    """A header's name and value as Kong's checks let them through."""
    if not isinstance(name, str):
        raise LuaError(f'invalid header name "{name}": got {type_name(name)}, expected string')
    if isinstance(value, list):
        for item in value:
            if not isinstance(item, str):
                raise LuaError(
                    f'invalid header value in array "{name}": got {type_name(item)}, '
                    "expected string"
                )
    elif type_name(value) not in ("string", "number", "boolean"):
        raise LuaError(
            f'invalid header value for "{name}": got {type_name(value)}, expected '
            "array of string, string, number or boolean"
        )
    return name, value


def want_headers(headers: Any) -> list[tuple[str, Any]]:
    # An empty table is an empty list on the wire.
    if headers == []:
        return []
    if not isinstance(headers, dict):
        raise LuaError("headers must be a table")
    return [want_header(name, value) for name, value in headers.items()]
