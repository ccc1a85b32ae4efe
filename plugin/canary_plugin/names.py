"""Whether a host name leads anywhere, asked once in a while: Kong answers 503 if it does not."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

FOUND_FOR_S, MISSING_FOR_S = 60.0, 5.0
MAX_NAMES = 1_000


class Names:
    """Host names that were looked up. The clock gives seconds and only grows.

    Looked up here, not by Kong: a name that only Kong's own resolver knows counts as missing, and
    its canary is not reached, which is the side on which nobody is hurt.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, tuple[bool, float]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    async def resolves(self, host: str, within_s: float) -> bool:
        """Whether ``host`` is an address or a name that has one; False if that takes too long."""
        if _is_address(host):
            return True
        known = self._known.get(host)
        if known is None or known[1] < self._clock():
            if host not in self._looking and len(self._known) < MAX_NAMES:
                task = self._looking[host] = asyncio.create_task(self._look_up(host))
                task.add_done_callback(lambda _: self._looking.pop(host, None))
            # An old answer goes on counting while a new one is sought.
            if known is None and host in self._looking:
                await asyncio.wait((self._looking[host],), timeout=within_s)
        return self._known.get(host, (False, 0.0))[0]

    async def _look_up(self, host: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            self._known[host] = (False, self._clock() + MISSING_FOR_S)
        else:
            self._known[host] = (True, self._clock() + FOUND_FOR_S)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
