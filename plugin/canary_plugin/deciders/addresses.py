"""Addresses of a decision service as gRPC writes them, and the sockets that they stand for."""

from __future__ import annotations

import asyncio
import random
import socket
from dataclasses import dataclass
from urllib.parse import unquote

_NAMED = ("dns:", "ipv4:", "ipv6:")
_PATHS = {"unix:": "", "unix-abstract:": "\0"}

Endpoint = str | tuple[str, int]
"""A path of a unix socket, or an IP address and a port."""


@dataclass(frozen=True, slots=True)
class Address:
    """What was given as an address: a path, or a host that may have several IP addresses."""

    text: str
    path: str = ""
    host: str = ""
    port: int = 0

    async def endpoints(self, last: Endpoint | None = None) -> list[Endpoint]:
        """What to connect to, in the order to try; ``last`` is the one to try last.

        Raises OSError for a name that cannot be looked up.
        """
        if self.path:
            return [self.path]
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        endpoints: list[Endpoint] = list({(str(info[4][0]), self.port) for info in found})
        # All gateways together should reach all replicas, not all of them the first.
        random.shuffle(endpoints)
        endpoints.sort(key=lambda endpoint: endpoint == last)
        return endpoints

    @property
    def authority(self) -> str:
        """What the service is told that it was called."""
        if self.path:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """HOST:PORT, [IPV6]:PORT, unix:PATH, or with gRPC's dns:///, ipv4: or ipv6: before it.

    Raises ValueError.
    """
    for scheme, start in _PATHS.items():
        if text.startswith(scheme) and len(text) > len(scheme):
            path = text.removeprefix(scheme)
            path = "/" + path.lstrip("/") if path.startswith("//") else path
            return Address(text, path=start + unquote(path))
    rest = text
    for scheme in _NAMED:
        rest = rest.removeprefix(scheme)
    host, _, port = rest.removeprefix("///").rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_host = bool(host) and "/" not in host and (":" not in host or is_bracketed)
    if not (is_host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError(
            f"{text!r} is no address of a decision service; "
            "write HOST:PORT, [IPV6]:PORT or unix:PATH"
        )
    return Address(text, host=host.strip("[]"), port=int(port))
