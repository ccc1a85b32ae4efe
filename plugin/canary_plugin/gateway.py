"""Kong as the plugin uses it: few, typed PDK calls, each with arguments that cannot hurt.

An error on Kong's side of a call (wrong type, wrong phase) answers the client 500 and is
never heard of here, so every argument is checked before it leaves. This is the only file
that knows the PDK.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MAX_HEADERS = 100


class Pdk(Protocol):
    """kong-pdk's ``kong`` object: every attribute path is a call to Kong."""

    def __getattr__(self, name: str) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The Kong service of a request. A service without a name goes by its id."""

    name: str
    host: str
    port: int

    @property
    def has_ip_host(self) -> bool:
        """Whether the host is an address; Kong cannot set an upstream on such a service."""
        try:
            ipaddress.ip_address(self.host.strip("[]"))
        except ValueError:
            return False
        return True


class Headers:
    """Request headers by the lower-case names that Kong gives; most of them nobody looks at."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def get(self, name: str) -> str | None:
        """The value, repeated ones joined as HTTP allows; None if there is none."""
        value = self._raw.get(name)
        if isinstance(value, list):
            if len(value) == 1:
                return text(value[0])
            return ("; " if name == "cookie" else ", ").join(map(text, value))
        return None if value is None else text(value)

    def without_cookie(self, name: str) -> list[str] | None:
        """The lines of cookies without those of that name, byte for byte; None: there is none."""
        raw = self._raw.get("cookie")
        if raw is None or (name not in raw and not isinstance(raw, list)):
            return None  # so it is nearly always
        lines = [
            line for line in (raw if isinstance(raw, list) else [raw]) if isinstance(line, str)
        ]
        kept = [_without_cookie(line, name) for line in lines]
        return None if kept == lines else [line for line in kept if line]

    def possibly(self, names: Sequence[str]) -> Sequence[str]:
        """Those of ``names`` that may be there: all of them, if Kong has left headers out."""
        return names if self._is_cut() else [name for name in names if name in self._raw]

    def _is_cut(self) -> bool:
        values = self._raw.values()
        if sum(map(len, values)) < MAX_HEADERS:  # texts count more here than they are
            return False
        return sum(1 if isinstance(v, str) else len(v) for v in values) >= MAX_HEADERS


class Gateway:
    """One request at Kong."""

    __slots__ = ("_cookies", "_kong")

    def __init__(self, kong: Pdk) -> None:
        self._kong = kong
        self._cookies: list[str] | None = None

    def headers(self) -> Headers:
        """The request's headers."""
        raw = self._kong.request.get_headers()
        return Headers(raw if isinstance(raw, dict) else {})

    def client_ip(self) -> str:
        """The client's address, with trusted proxies believed."""
        return text(self._kong.client.get_forwarded_ip())

    def path(self) -> str:
        """Path without the query."""
        return text(self._kong.request.get_path())

    def consumer(self) -> str:
        """Username of the consumer, or its id where it has none; "" if nobody is known."""
        consumer = self._kong.client.get_consumer()
        if not isinstance(consumer, Mapping):
            return ""
        return text(consumer.get("username")) or text(consumer.get("id"))

    def service(self) -> Service | None:
        """The Kong service; None for a route without one."""
        found = self._kong.router.get_service()
        if not isinstance(found, Mapping):
            return None
        port = found.get("port")
        return Service(
            name=text(found.get("name")) or text(found.get("id")),
            host=text(found.get("host")),
            port=port if isinstance(port, int) else 80,
        )

    def set_upstream(self, name: str) -> bool:
        """Send the request to a Kong upstream; False if there is none of that name.

        Not for a service with ``has_ip_host``.
        """
        return self._kong.service.set_upstream(name) is True

    def set_target(self, host: str, port: int) -> bool:
        """Send the request to a host and port, past Kong's balancer and its retries.

        False if they are none.
        """
        if not host or not 0 < port < 65_536:
            return False
        self._kong.service.set_target(host, port)
        return True

    def keep_cookies(self, lines: list[str]) -> None:
        """Send the upstream these lines of cookies, which came from Kong, and no others: along
        with the headers that are set next, else with ``finish``.
        """
        self._cookies = lines

    def set_request_headers(self, headers: Mapping[str, str]) -> None:
        """Set headers of the request to the upstream; one call for all."""
        cleaned: dict[str, Any] = {k: clean(v) for k, v in headers.items()}
        if self._cookies:
            lines, self._cookies = self._cookies, None
            cleaned["cookie"] = lines[0] if len(lines) == 1 else lines
        self._kong.service.request.set_headers(cleaned)

    def finish(self) -> None:
        """Send what waits for a call that was not made."""
        if self._cookies:
            self.set_request_headers({})
        elif self._cookies is not None:
            self._cookies = None
            self.clear_request_header("cookie")

    def clear_request_header(self, name: str) -> None:
        """Remove a header from the request to the upstream."""
        self._kong.service.request.clear_header(name)

    def set_response_header(self, name: str, value: str) -> None:
        """Set a header of the response to the client."""
        self._kong.response.set_header(name, clean(value))

    def set_response_headers(self, headers: Mapping[str, str]) -> None:
        """Set headers of the response to the client; one call for all. Those that the upstream
        sends stay beside them.
        """
        self._kong.response.set_headers({k: clean(v) for k, v in headers.items()})

    def add_cookie(self, cookie: str) -> None:
        """Add a Set-Cookie header to the response."""
        self._kong.response.add_header("Set-Cookie", clean(cookie))

    def serialized(self) -> Any:
        """Kong's log table of the request as JSON; only in the log phase."""
        return self._kong.log.serialize()

    def log(self, value: Mapping[str, Any]) -> None:
        """Put the decision where Kong's logging plugins find it, under "canary"."""
        self._kong.log.set_serialize_value("canary", dict(value))


def text(value: Any) -> str:
    """What Kong sent as text; bytes that are no UTF-8 are read as Latin-1, byte for byte.

    The server decodes them to lone surrogates first; protobuf and most else would refuse those.
    """
    if not isinstance(value, str):
        return "" if value is None else str(value)
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


def _without_cookie(line: str, name: str) -> str:
    pairs = line.split(";")
    kept = [pair for pair in pairs if pair.partition("=")[0].strip() != name]
    if len(kept) == len(pairs):
        return line
    # The blank after a semicolon is none at the start of a line.
    return ";".join(kept).lstrip(" ")


def clean(value: str) -> str:
    """A header value that cannot break out of its line."""
    return "".join(c if c.isprintable() else "?" for c in value) if value else ""
