"""kong.client, router, ctx, nginx and log: who asks, which route, and what is kept for the log."""

import logging
from collections.abc import Mapping
from typing import Any

from dev_gateway.errors import LuaError
from dev_gateway.lua import to_string
from dev_gateway.pdk.table import ACCESS, BOTH, LOG, Call, Function, want_text
from dev_gateway.serializer import serialize_json

NOTICE = 25
ALERT = 60
EMERG = 70

plugin_log = logging.getLogger("dev_gateway.plugin")

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": NOTICE,
    "warn": logging.WARNING,
    "err": logging.ERROR,
    "crit": logging.CRITICAL,
    "alert": ALERT,
    "emerg": EMERG,
}


def _service(call: Call) -> Any:
    return call.ctx.service.table if call.ctx.service else None


def _route(call: Call) -> Any:
    return call.ctx.route.table if call.ctx.route else None


def _shared_set(call: Call) -> None:
    _assign(call.ctx.shared, call.arg(0), call.arg(1))


def _nginx_set(call: Call) -> None:
    _assign(call.ctx.nginx, call.arg(0), call.arg(1))


def _assign(table: dict[Any, Any], key: Any, value: Any) -> None:
    if key is None:
        raise LuaError("table index is nil")
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _set_serialize_value(call: Call) -> None:
    key, options = want_text(call.arg(0), "key"), call.arg(2)
    mode = options.get("mode", "set") if isinstance(options, dict) else "set"
    if mode not in ("set", "add", "replace"):
        raise LuaError("mode must be 'set', 'add' or 'replace'")
    call.ctx.serialize_values.append({"key": key, "value": call.arg(1), "mode": mode})


def _logger(level: int) -> Function:
    def write(call: Call) -> None:
        plugin_log.log(level, "%s", "".join(to_string(part) for part in call.args))

    return Function(write, BOTH)


FUNCTIONS: Mapping[str, Function] = {
    "kong.client.get_consumer": Function(lambda call: call.ctx.consumer, BOTH),
    "kong.client.get_credential": Function(lambda call: call.ctx.credential, ACCESS),
    "kong.client.get_forwarded_ip": Function(lambda call: call.ctx.client_ip, ACCESS),
    "kong.client.get_ip": Function(lambda call: call.ctx.peer_ip, ACCESS),
    "kong.ctx.shared.get": Function(lambda call: call.ctx.shared.get(call.arg(0)), BOTH),
    "kong.ctx.shared.set": Function(_shared_set, BOTH),
    "kong.log.serialize": Function(lambda call: serialize_json(call.ctx), LOG),
    "kong.log.set_serialize_value": Function(_set_serialize_value, ACCESS),
    "kong.nginx.get_ctx": Function(lambda call: call.ctx.nginx.get(call.arg(0)), BOTH),
    "kong.nginx.set_ctx": Function(_nginx_set, BOTH),
    "kong.nginx.req_start_time": Function(lambda call: round(call.ctx.started_at, 3), BOTH),
    "kong.router.get_route": Function(_route, BOTH),
    "kong.router.get_service": Function(_service, BOTH),
    "kong.log": _logger(NOTICE),
    **{f"kong.log.{name}": _logger(level) for name, level in _LEVELS.items()},
}
