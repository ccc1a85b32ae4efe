"""Addresses and networks, IPv4 and IPv6: read once, then found by bisection."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

from netaddr import AddrFormatError, IPAddress, IPNetwork

# One number line for both families: IPv6 stands above every IPv4 address.
_V6_BASE = 1 << 32
_MAPPED = 0xFFFF << 32


def network_range(text: str) -> tuple[int, int]:
    """First and last number of a CIDR or an address. Raises ValueError, saying what is wrong.

    Host bits are refused rather than cleared: "10.0.0.1/8" is more often a typing error
    than a wish for 16 million addresses.
    """
    try:
        network = IPNetwork(text)
    except (AddrFormatError, ValueError, TypeError) as error:
        raise ValueError(f"{text!r} is neither an address nor a network (CIDR)") from error
    if network.ip != network.network:
        raise ValueError(f"{text!r} has host bits set; write {network.cidr}")
    if network.version == 4:
        return network.first, network.last
    if _is_mapped(network.first):
        return network.first - _MAPPED, network.last - _MAPPED
    # An IPv6 network around all mapped addresses still holds none of them: they are IPv4.
    return _V6_BASE + network.first, _V6_BASE + network.last


_OCTETS = {str(number): number for number in range(256)}


# Clients come back, and looking a number up costs a tenth of reading it.
@lru_cache(maxsize=65_536)
def address_number(text: str) -> int:
    """The address as a number on the common line; -1 if it is none. IPv4-mapped IPv6 is IPv4."""
    try:
        a, b, c, d = map(_OCTETS.__getitem__, text.split("."))
    except (KeyError, ValueError):
        return _any_address_number(text)
    return a << 24 | b << 16 | c << 8 | d


def _any_address_number(text: str) -> int:
    """The same however the address is written, thirty times slower."""
    try:
        address = IPAddress(text)
    except (AddrFormatError, ValueError, TypeError):
        return -1
    number = int(address)
    if address.version == 4:
        return number
    return number - _MAPPED if _is_mapped(number) else _V6_BASE + number


def _is_mapped(v6: int) -> bool:
    return v6 >> 32 == _MAPPED >> 32


class NetworkSet:
    """Networks, each with a label; finds the label of the smallest one an address is in."""

    __slots__ = ("_labels", "_starts")

    def __init__(self, networks: Iterable[str]) -> None:
        # Sweep over the ends of all ranges. CIDRs nest or are apart, so a stack of the open
        # ones gives flat pieces, each with the innermost label.
        ranges = sorted((network_range(text), text) for text in set(networks))
        ranges.sort(key=lambda item: (item[0][0], -item[0][1]))
        starts: list[int] = [-2]
        labels: list[str] = [""]
        open_: list[tuple[int, str]] = []

        def mark(start: int, label: str) -> None:
            if starts[-1] == start:
                labels[-1] = label
            else:
                starts.append(start)
                labels.append(label)

        def close_until(position: int) -> None:
            while open_ and open_[-1][0] < position:
                last, _ = open_.pop()
                mark(last + 1, open_[-1][1] if open_ else "")

        for (first, last), label in ranges:
            close_until(first)
            mark(first, label)
            open_.append((last, label))
        close_until(_V6_BASE + (1 << 128) + 1)
        self._starts, self._labels = starts, labels

    def find(self, address: str) -> str:
        """The label of the smallest network that holds ``address``; "" if none does."""
        return self._labels[bisect_right(self._starts, address_number(address)) - 1]

    def __bool__(self) -> bool:
        return len(self._starts) > 1
