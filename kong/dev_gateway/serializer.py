"""kong.log.serialize: one table that says everything about a finished request."""

import copy
import json
from typing import Any

from dev_gateway.context import RequestContext, Source
from dev_gateway.entities import DEFAULT_WORKSPACE_ID
from dev_gateway.errors import LuaError
from dev_gateway.headers import as_table
from dev_gateway.lua import json_ready

_SOURCES = {Source.SERVICE: "upstream", Source.EXIT: "kong", Source.ERROR: "kong"}
_REDACTED = ("authorization", "proxy-authorization")


def serialize_json(ctx: RequestContext) -> str:
    return json.dumps(json_ready(serialize(ctx)), separators=(",", ":"))


def serialize(ctx: RequestContext) -> dict[str, Any]:
    """The table, with the values that plugins put into it."""
    root: dict[str, Any] = {
        "request": _request(ctx),
        "response": {
            "status": ctx.status,
            "headers": as_table(ctx.response_headers),
            "size": ctx.bytes_sent,
        },
        "latencies": {
            "kong": ctx.kong_ms,
            "proxy": ctx.waiting_ms,
            "request": ctx.request_ms,
            "receive": ctx.receive_ms,
        },
        "tries": ctx.balancer.tries if ctx.balancer else None,
        "upstream_uri": _upstream_uri(ctx),
        "upstream_status": ", ".join(ctx.balancer.try_statuses) if ctx.balancer else "",
        "authenticated_entity": {"id": ctx.credential["id"]} if ctx.credential else None,
        "route": ctx.route.table if ctx.route else None,
        "service": ctx.service.table if ctx.service else None,
        "consumer": ctx.consumer,
        "client_ip": ctx.client_ip,
        "started_at": int(ctx.started_at * 1000),
        "source": _SOURCES[ctx.source],
        "workspace": DEFAULT_WORKSPACE_ID,
        "workspace_name": "default",
    }
    root = {name: value for name, value in root.items() if value is not None}
    if any("." in item["key"] for item in ctx.serialize_values):
        # A dotted key reaches into tables that later requests share.
        root = copy.deepcopy(root)
    for item in ctx.serialize_values:
        _edit(root, item["key"], item["value"], item["mode"])
    return root


def _request(ctx: RequestContext) -> dict[str, Any]:
    headers = as_table(ctx.headers.items())
    headers.update({name: "REDACTED" for name in _REDACTED if name in headers})
    return {
        "id": ctx.request_id,
        "uri": ctx.target,
        "url": f"{ctx.scheme}://{ctx.host}:{ctx.port}{ctx.target}",
        "querystring": ctx.query_args(),
        "method": ctx.method,
        "headers": headers,
        "size": ctx.request_size,
    }


def _upstream_uri(ctx: RequestContext) -> str:
    return f"{ctx.upstream_path}?{ctx.query}" if ctx.has_query else ctx.upstream_path


def _edit(root: dict[str, Any], key: str, value: Any, mode: str) -> None:
    """Set a value at a dotted key, making tables on the way."""
    *parents, last = key.split(".")
    node = root
    for name in parents:
        if name not in node:
            if mode == "replace":
                return
            node[name] = {}
        if not isinstance(node[name], dict):
            raise LuaError(f"The key '{key}' could not be used as a serialize value.")
        node = node[name]
    if mode == "set" or (mode == "add") == (last not in node):
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
