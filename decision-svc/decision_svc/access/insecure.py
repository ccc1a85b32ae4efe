"""When the service may run without asking anybody for credentials: never but on this machine."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import ip_address

from decision_svc.errors import BadSettings


def check(addresses: Mapping[str, str]) -> None:
    """Raise BadSettings unless every address, by its option, is loopback or a unix socket."""
    for option, address in addresses.items():
        if address and not is_local(address):
            raise BadSettings(
                f"--insecure: {option} {address} can be reached from elsewhere; listen on "
                "127.0.0.1, [::1] or unix:PATH, or say who may call with --access-file"
            )


def is_local(address: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(host) and all(ip_address(str(info[4][0])).is_loopback for info in found)
