"""One line of nginx's access log, as it arrives by syslog. Anything else is garbage, not an error.

nginx escapes what it logs, so a quote inside a value arrives as \\x22 and a value cannot end early.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

DECISION_HEADER = "x-canary-decision"

# Kong's settings nginx_http_log_format and nginx_proxy_access_log; kong/kong.conf has them too.
LOG_NAME = "canary_outcome"
LOG_FORMAT = (
    f'{LOG_NAME} \'$status $request_time "$upstream_response_time" "$http_x_canary_decision"\''
)
TAG = "canary"
_LAST_STATUS = 999


def access_log(socket: str) -> str:
    """The setting that makes Kong send its lines to a socket."""
    return f"syslog:server=unix:{socket},nohostname,tag={TAG} {LOG_NAME}"


class Line(NamedTuple):
    """What a line says. ``upstream_us`` is None if no backend was asked."""

    status: int
    request_us: int
    upstream_us: int | None
    decision: str


_SECONDS = rb"[0-9]{1,9}\.[0-9]{3}"
_LINE = re.compile(
    rb"<[0-9]{1,3}>[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} " + TAG.encode() + rb": "
    rb"([0-9]{3}) (" + _SECONDS + rb') "([-0-9., :]*)" "([^"]*)"\n?'
)
_TIME = re.compile(_SECONDS)


def parse(datagram: bytes) -> Line | None:
    """What a datagram says; None if it is not one of our lines."""
    found = _LINE.fullmatch(datagram)
    if found is None:
        return None
    status, request, upstream, decision = found.groups()
    # A time for each try: "0.001, 0.020", with " : " where nginx was redirected inside.
    tries = _TIME.findall(upstream)
    if not tries and upstream != b"-":
        return None
    return Line(
        int(status),
        _microseconds(request),
        sum(map(_microseconds, tries)) if tries else None,
        "" if decision == b"-" else decision.decode("ascii", "replace"),
    )


def _microseconds(seconds: bytes) -> int:
    return int(seconds.replace(b".", b"")) * 1_000


def from_serialized(said: object) -> Line | None:
    """What Kong's log serializer says of a request; None if it cannot be read."""
    try:
        table = json.loads(said)  # type: ignore[arg-type]
        status, latencies = table["response"]["status"], table["latencies"]
        decision = table["request"]["headers"].get(DECISION_HEADER, "")
        times = (latencies["request"], latencies.get("proxy", -1), latencies.get("receive") or 0)
        request_ms, waiting_ms, receive_ms = map(int, times)
        if type(status) is not int or not 0 <= status <= _LAST_STATUS or request_ms < 0:
            return None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return None
    if isinstance(decision, list):
        decision = ", ".join(map(str, decision))
    upstream_us = (waiting_ms + max(receive_ms, 0)) * 1_000 if waiting_ms >= 0 else None
    return Line(status, request_ms * 1_000, upstream_us, str(decision))
