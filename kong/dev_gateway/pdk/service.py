"""kong.service: where the request goes, and with which headers."""

from collections.abc import Mapping
from typing import Any

from dev_gateway.address import MAX_PORT
from dev_gateway.context import BalancerData
from dev_gateway.errors import LuaError
from dev_gateway.headers import set_header
from dev_gateway.lua import to_string
from dev_gateway.pdk.table import (
    ACCESS,
    Call,
    Function,
    want_header,
    want_headers,
    want_integer,
    want_text,
)
from dev_gateway.uri import escape

MAX_TIMEOUT_MS = 2147483646


def _data(call: Call) -> BalancerData:
    if call.ctx.balancer is None:
        raise LuaError("attempt to index field 'balancer_data' (a nil value)")
    return call.ctx.balancer


def _set_upstream(call: Call) -> Any:
    name = want_text(call.arg(0), "host")
    if not call.balancer.has_upstream(name):
        # Kong's second return value, the error text, never reaches the plugin.
        return None
    data = _data(call)
    data.host, data.is_direct = name, False
    return True


def _set_target(call: Call) -> None:
    host = want_text(call.arg(0), "host")
    port = want_integer(call.arg(1), "port", 0, MAX_PORT)
    data = _data(call)
    data.upstream_host, data.host, data.port, data.is_direct = host, host, port, True


def _set_retries(call: Call) -> None:
    _data(call).retries = want_integer(call.arg(0), "retries", 0, 32767)


def _set_timeouts(call: Call) -> None:
    data = _data(call)
    data.connect_timeout_ms, data.write_timeout_ms, data.read_timeout_ms = (
        want_integer(call.arg(index), what, 1, MAX_TIMEOUT_MS)
        for index, what in enumerate(("connect_timeout", "write_timeout", "read_timeout"))
    )


def _put(call: Call, name: str, value: Any) -> None:
    if name.lower() == "host":
        _data(call).upstream_host = to_string(value)
    set_header(call.ctx.headers, name, value)


def _set_header(call: Call) -> None:
    _put(call, *want_header(call.arg(0), call.arg(1)))


def _set_headers(call: Call) -> None:
    for name, value in want_headers(call.arg(0)):
        _put(call, name, value)


def _add_header(call: Call) -> None:
    name, value = want_header(call.arg(0), call.arg(1))
    more = value if isinstance(value, list) else [to_string(value)]
    _put(call, name, call.ctx.headers.getall(name, []) + more)


def _clear_header(call: Call) -> None:
    name = call.arg(0)
    if not isinstance(name, str):
        raise LuaError("header must be a string")
    call.ctx.headers.popall(name, None)


def _set_path(call: Call) -> None:
    path = want_text(call.arg(0), "path")
    if not path.startswith("/"):
        raise LuaError("path must start with /")
    call.ctx.upstream_path = escape(path)


def _set_raw_query(call: Call) -> None:
    call.ctx.query = want_text(call.arg(0), "query")
    call.ctx.has_query = bool(call.ctx.query)


FUNCTIONS: Mapping[str, Function] = {
    "kong.service.request.add_header": Function(_add_header, ACCESS),
    "kong.service.request.clear_header": Function(_clear_header, ACCESS),
    "kong.service.request.set_header": Function(_set_header, ACCESS),
    "kong.service.request.set_headers": Function(_set_headers, ACCESS),
    "kong.service.request.set_path": Function(_set_path, ACCESS),
    "kong.service.request.set_raw_query": Function(_set_raw_query, ACCESS),
    "kong.service.set_retries": Function(_set_retries, ACCESS),
    "kong.service.set_target": Function(_set_target, ACCESS),
    "kong.service.set_timeouts": Function(_set_timeouts, ACCESS),
    "kong.service.set_upstream": Function(_set_upstream, ACCESS),
}
