"""What is an IP address, what is a name, and where the port stands."""

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
HTTP_PORT = 80
MAX_PORT = 65535


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def split_host_port(value: str) -> tuple[str, int | None]:
    """'name:80', '[::1]:80' or a bare host; a port that is no number stays with the host."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.endswith("]")):
        return value.strip("[]"), None
    return host.strip("[]"), int(port)


def join_host_port(host: str, port: int) -> str:
    """The Host header for an address: the default port is left out."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port == HTTP_PORT else f"{shown}:{port}"


def is_trusted(ip: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    return any(address in network for network in networks)


def forwarded_ip(
    peer: str, header_values: Sequence[str], networks: Sequence[Network], *, is_recursive: bool
) -> str:
    """nginx's realip: the last address in the header that a trusted peer vouches for."""
    current = peer
    given = [part.strip() for value in header_values for part in value.split(",")]
    while given and is_trusted(current, networks):
        candidate, _ = split_host_port(given.pop())
        if not is_ip(candidate):
            break
        current = candidate
        if not is_recursive:
            break
    return current
