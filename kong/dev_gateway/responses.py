"""Responses that Kong makes itself, and one that is written to the client byte for byte."""

import json
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from aiohttp.abc import AbstractStreamWriter
from aiohttp.web import BaseRequest, StreamResponse
from multidict import CIMultiDict

from dev_gateway.context import ExitResponse
from dev_gateway.headers import as_table, set_header
from dev_gateway.lua import json_ready, raw

SERVER = "kong/3.9.1"
VIA = f"1.1 {SERVER}"
CONTENT_TYPE_JSON = "application/json; charset=utf-8"
UNEXPECTED = "An unexpected error occurred"
NO_ROUTE = "no Route matched with those values"

_WORDS = {
    500: UNEXPECTED,
    502: "An invalid response was received from the upstream server",
    503: "The upstream server is currently unavailable",
    504: "The upstream server is timing out",
}

Pairs = Sequence[tuple[str, str]]


def error(
    status: int, message: str | None, request_id: str, headers: Iterable[tuple[str, Any]] = ()
) -> ExitResponse:
    """kong.response.error with Kong's JSON template."""
    words = message or _WORDS.get(status, f"The upstream server responded with {status}")
    body = f'{{\n  "message":"{words}",\n  "request_id":"{request_id}"\n}}'
    return ExitResponse(
        status=status, body=body, headers={"Content-Type": CONTENT_TYPE_JSON, **dict(headers)}
    )


def plugin_failure() -> ExitResponse:
    """What a Lua error in a phase gives the client."""
    return ExitResponse(status=500, body={"message": UNEXPECTED})


def rendered(response: ExitResponse, preset: Pairs) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body; what the phases set before stays unless the response sets it anew."""
    headers: CIMultiDict[str] = CIMultiDict(preset)
    body = b""
    if isinstance(response.body, str):
        body = raw(response.body)
    elif response.body is not None:
        body = json.dumps(json_ready(response.body), separators=(",", ":")).encode()
        headers["Content-Type"] = CONTENT_TYPE_JSON
    for name, value in response.headers.items():
        if name.lower() != "transfer-encoding":
            set_header(headers, name, value)
    if response.status not in (204, 304):
        headers["Content-Length"] = str(len(body))
    return list(headers.items()), body


def logged_headers(pairs: Pairs, *, is_chunked: bool) -> list[tuple[str, str]]:
    """The headers as the log phase sees them: by then nginx has taken keep-alive back."""
    extra = [("transfer-encoding", "chunked")] if is_chunked else []
    return [*((name.lower(), value) for name, value in pairs), ("connection", "close"), *extra]


def now_text() -> str:
    return formatdate(usegmt=True)


class ClientResponse(StreamResponse):
    """Writes its own head: exact header bytes, nothing added but what HTTP needs."""

    def __init__(
        self, status: int, reason: str | None, pairs: Pairs, *, first_body: bytes = b""
    ) -> None:
        super().__init__(status=status, reason=reason)
        self._pairs = pairs
        self._first_body = first_body
        self.is_chunked = False
        self.bytes_sent = 0

    async def _start(self, request: BaseRequest) -> AbstractStreamWriter:
        writer = self._payload_writer = request.writer
        self._req = request
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        lines = list(self._pairs)
        length = _content_length(lines)
        has_body = self._has_body(request)
        if has_body and length is None:
            if request.version >= (1, 1):
                self.is_chunked = True
                lines.append(("Transfer-Encoding", "chunked"))
            else:
                self._keep_alive = False
        lines.append(("Connection", "keep-alive" if self._keep_alive else "close"))
        head = _head(self.status, self.reason, lines)
        data = head + self._first_body if has_body and not self.is_chunked else head
        await writer.write(data)
        self.bytes_sent += len(data)
        if self.is_chunked:
            writer.enable_chunking()
            if self._first_body:
                await self.send(self._first_body)
        return writer

    def _has_body(self, request: BaseRequest) -> bool:
        return request.method != "HEAD" and self.status not in (204, 304) and self.status >= 200

    async def send(self, data: bytes) -> None:
        await self.write(data)
        self.bytes_sent += len(data)


def _content_length(pairs: Pairs) -> int | None:
    value = as_table(pairs, limit=len(pairs)).get("content-length")
    return int(value) if isinstance(value, str) and value.isdecimal() else None


def _head(status: int, reason: str | None, pairs: Pairs) -> bytes:
    words = reason if reason is not None else _phrase(status)
    lines = [f"HTTP/1.1 {status} {words}", *(f"{name}: {value}" for name, value in pairs)]
    return raw("\r\n".join(lines).replace("\0", "")) + b"\r\n\r\n"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
