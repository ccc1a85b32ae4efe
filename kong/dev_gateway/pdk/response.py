"""kong.response: headers that outlive the upstream's, leaving early, and what was sent."""

import logging
from collections.abc import Mapping
from typing import Any

from dev_gateway.context import ExitResponse
from dev_gateway.errors import LuaError
from dev_gateway.headers import as_table, set_header
from dev_gateway.lua import is_number
from dev_gateway.pdk.table import (
    ACCESS,
    LOG,
    Call,
    Function,
    want_header,
    want_headers,
    want_text,
)

log = logging.getLogger(__name__)


class Exited(Exception):  # noqa: N818  not an error: it unwinds the phase, as Kong's yield does
    """kong.response.exit or error was called; the plugin gets no answer."""

    def __init__(self, response: ExitResponse) -> None:
        super().__init__(response.status)
        self.response = response


def _put(call: Call, name: str, value: Any) -> None:
    if name.lower() in ("transfer-encoding", "transfer_encoding"):
        log.warning("manually setting Transfer-Encoding. Ignored.")
    else:
        set_header(call.ctx.preset_headers, name, value)


def _set_header(call: Call) -> None:
    _put(call, *want_header(call.arg(0), call.arg(1)))


def _set_headers(call: Call) -> None:
    for name, value in want_headers(call.arg(0)):
        _put(call, name, value)


def _add_header(call: Call) -> None:
    name, value = want_header(call.arg(0), call.arg(1))
    headers = call.ctx.preset_headers
    known = headers.getall(name, [])
    set_header(headers, name, known + (value if isinstance(value, list) else [_text(value)]))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _clear_header(call: Call) -> None:
    call.ctx.preset_headers.popall(want_text(call.arg(0), "header name"), None)


def _status(value: Any, low: int) -> int:
    if not is_number(value):
        raise LuaError("code must be a number")
    if not low <= value <= 599:
        raise LuaError(f"code must be a number between {low} and 599")
    return int(value)


def _exit(call: Call) -> None:
    status, body = _status(call.arg(0), 100), call.arg(1)
    if body is not None and not isinstance(body, str | list | dict):
        raise LuaError("body must be a nil, string or table")
    headers = dict(want_headers(call.arg(2) if call.arg(2) is not None else []))
    raise Exited(ExitResponse(status=status, body=body, headers=headers))


def _get_header(call: Call) -> Any:
    value = as_table(call.ctx.response_headers).get(want_text(call.arg(0), "header name").lower())
    return value[0] if isinstance(value, list) else value


FUNCTIONS: Mapping[str, Function] = {
    "kong.response.add_header": Function(_add_header, ACCESS),
    "kong.response.clear_header": Function(_clear_header, ACCESS),
    "kong.response.exit": Function(_exit, ACCESS),
    "kong.response.get_header": Function(_get_header, LOG),
    "kong.response.get_headers": Function(lambda call: as_table(call.ctx.response_headers), LOG),
    "kong.response.get_source": Function(lambda call: call.ctx.source.value, LOG),
    "kong.response.get_status": Function(lambda call: call.ctx.status, LOG),
    "kong.response.set_header": Function(_set_header, ACCESS),
    "kong.response.set_headers": Function(_set_headers, ACCESS),
}
