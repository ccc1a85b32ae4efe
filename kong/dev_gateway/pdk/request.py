"""kong.request: what the client sent, or in the log phase what went upstream."""

from collections.abc import Mapping
from typing import Any

from dev_gateway.headers import DEFAULT_LIMIT, as_table
from dev_gateway.pdk.table import ACCESS, BOTH, Call, Function, want_limit, want_text
from dev_gateway.uri import MAX_QUERY_ARGS, parse_query


def _get_headers(call: Call) -> Any:
    limit = DEFAULT_LIMIT
    if call.phase in ACCESS:
        limit = want_limit(call.arg(0), "max_headers", DEFAULT_LIMIT)
    return as_table(call.ctx.headers.items(), limit)


def _get_header(call: Call) -> Any:
    return call.ctx.headers.get(want_text(call.arg(0), "header name"))


def _get_query(call: Call) -> Any:
    return parse_query(call.ctx.query, want_limit(call.arg(0), "max_args", MAX_QUERY_ARGS))


def _get_query_arg(call: Call) -> Any:
    value = call.ctx.query_args().get(want_text(call.arg(0), "query argument name"))
    return value[0] if isinstance(value, list) else value


def _forwarded(name: str, otherwise: Any) -> Any:
    def get(call: Call) -> Any:
        trusted = call.ctx.headers.get(name) if call.ctx.is_peer_trusted else None
        return otherwise(call) if trusted is None else trusted.lower()

    return get


def _forwarded_port(call: Call) -> Any:
    given = call.ctx.headers.get("X-Forwarded-Port") if call.ctx.is_peer_trusted else None
    return int(given) if given is not None and given.isdecimal() else call.ctx.port


FUNCTIONS: Mapping[str, Function] = {
    "kong.request.get_forwarded_host": Function(
        _forwarded("X-Forwarded-Host", lambda call: call.ctx.host), ACCESS
    ),
    "kong.request.get_forwarded_port": Function(_forwarded_port, ACCESS),
    "kong.request.get_forwarded_scheme": Function(
        _forwarded("X-Forwarded-Proto", lambda call: call.ctx.scheme), ACCESS
    ),
    "kong.request.get_header": Function(_get_header, BOTH),
    "kong.request.get_headers": Function(_get_headers, BOTH),
    "kong.request.get_host": Function(lambda call: call.ctx.host, ACCESS),
    "kong.request.get_http_version": Function(lambda call: float(call.ctx.http_version), ACCESS),
    "kong.request.get_method": Function(lambda call: call.ctx.method, ACCESS),
    "kong.request.get_path": Function(lambda call: call.ctx.path, ACCESS),
    "kong.request.get_path_with_query": Function(lambda call: call.ctx.target, ACCESS),
    "kong.request.get_port": Function(lambda call: call.ctx.port, ACCESS),
    "kong.request.get_query": Function(_get_query, ACCESS),
    "kong.request.get_query_arg": Function(_get_query_arg, ACCESS),
    "kong.request.get_raw_path": Function(lambda call: call.ctx.raw_path, ACCESS),
    "kong.request.get_raw_query": Function(lambda call: call.ctx.query, ACCESS),
    "kong.request.get_scheme": Function(lambda call: call.ctx.scheme, ACCESS),
    "kong.request.get_uri_captures": Function(lambda call: call.ctx.uri_captures, BOTH),
}
