"""nginx's access log by syslog: the same settings, the same lines, lost where nginx loses them."""

import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator

from dev_gateway.context import RequestContext

INFORMATIONAL = 190  # facility local7, severity info: what nginx sends

_SERVER = re.compile(r"syslog:server=unix:([^,\s]+),nohostname,tag=(\w{1,32})")
_VARIABLE = re.compile(r"\$(\w+)")
_UNSAFE = re.compile(rb'[^\x20-\x7e]|["\\]')

Value = Callable[[RequestContext], str | None]


class AccessLog:
    """A log hook: one datagram for each request. What the socket does not take is gone."""

    def __init__(self, destination: str, log_format: str) -> None:
        """The values of Kong's nginx_proxy_access_log and nginx_http_log_format; ValueError."""
        where, _, name = destination.partition(" ")
        found = _SERVER.fullmatch(where)
        if found is None:
            raise ValueError("expected 'syslog:server=unix:PATH,nohostname,tag=TAG NAME'")
        words = shlex.split(log_format)
        if len(words) != 2 or words[0] != name:
            raise ValueError(f"no log format '{name}': expected \"NAME 'FORMAT'\"")
        self._path, self._tag = found.groups()
        self._pieces = list(_pieces(words[1]))
        self._socket: socket.socket | None = None

    def __call__(self, ctx: RequestContext) -> None:
        at = time.strftime("%b %e %H:%M:%S")
        head = f"<{INFORMATIONAL}>{at} {self._tag}: ".encode()
        self._send(head + b"".join(_rendered(piece, ctx) for piece in self._pieces))

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, line: bytes) -> None:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
                self._socket.connect(self._path)
            self._socket.send(line)
        except BlockingIOError:
            pass
        except OSError:  # whoever listened is gone; the next line looks for them again
            self.close()


def _pieces(text: str) -> Iterator[bytes | Value]:
    for index, part in enumerate(_VARIABLE.split(text)):
        yield _variable(part) if index % 2 else part.encode()


def _variable(name: str) -> Value:
    if name.startswith("http_"):
        header = name.removeprefix("http_").replace("_", "-")
        return lambda ctx: ", ".join(ctx.headers.getall(header, [])) or None
    if name not in _VARIABLES:
        raise ValueError(f"unknown variable ${name}; known: {', '.join(sorted(_VARIABLES))}")
    return _VARIABLES[name]


def _upstream_ms(ctx: RequestContext) -> str | None:
    if ctx.waiting_ms < 0:
        return None
    return _seconds(ctx.waiting_ms + ctx.receive_ms)


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1_000:.3f}"


_VARIABLES: dict[str, Value] = {
    "status": lambda ctx: f"{ctx.status:03}",
    "request_time": lambda ctx: _seconds(ctx.request_ms),
    "upstream_response_time": _upstream_ms,
    "upstream_status": lambda ctx: ", ".join(ctx.balancer.try_statuses) if ctx.balancer else None,
    "kong_request_id": lambda ctx: ctx.request_id,
}


def _rendered(piece: bytes | Value, ctx: RequestContext) -> bytes:
    if isinstance(piece, bytes):
        return piece
    value = piece(ctx)
    if value is None:
        return b"-"
    return _UNSAFE.sub(lambda m: b"\\x%02X" % m[0][0], value.encode("utf-8", "surrogateescape"))
