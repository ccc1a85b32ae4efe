"""Which address gets the request: weighted round robin over targets, names through a resolver."""

import asyncio
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dev_gateway.address import is_ip
from dev_gateway.context import BalancerData
from dev_gateway.entities import Target, Upstream
from dev_gateway.errors import ProxyError

RESOLVE_TTL_S = 30

NO_PEER = "failure to get a peer from the ring-balancer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where to connect, and the name and port that the Host header is made of."""

    ip: str
    port: int
    hostname: str
    nominal_port: int


class Resolver:
    """A hosts file given by flags, then the system's resolver, remembered for a while."""

    def __init__(self, overrides: Mapping[str, tuple[str, int | None]]) -> None:
        self._overrides = overrides
        self._cache: dict[str, tuple[float, str | None]] = {}

    async def resolve(self, host: str, port: int) -> tuple[str, int] | None:
        """The address for a name and port; None where there is none."""
        override = self._overrides.get(host)
        if override is not None:
            ip, other_port = override
            return ip, other_port or port
        if is_ip(host):
            return host, port
        found = await self._lookup(host)
        return (found, port) if found else None

    async def _lookup(self, host: str) -> str | None:
        now = time.monotonic()
        until, known = self._cache.get(host, (0.0, None))
        if now < until:
            return known
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, None, type=socket.SOCK_STREAM
            )
            ip: str | None = str(found[0][4][0])
        except OSError:
            ip = None
        self._cache[host] = (now + RESOLVE_TTL_S, ip)
        return ip


class _Ring:
    """Smooth weighted round robin: the same shares as Kong's ring, evenly spread."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._targets = [target for target in upstream.targets if target.weight > 0]
        self._credit = [0] * len(self._targets)
        self._total = sum(target.weight for target in self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def next(self) -> Target:
        for index, target in enumerate(self._targets):
            self._credit[index] += target.weight
        best = max(range(len(self._targets)), key=self._credit.__getitem__)
        self._credit[best] -= self._total
        return self._targets[best]


class Balancer:
    """Finds a peer for each try of a request."""

    def __init__(self, upstreams: Mapping[str, Upstream], resolver: Resolver) -> None:
        self._rings = {name: _Ring(upstream) for name, upstream in upstreams.items()}
        self._resolver = resolver

    def has_upstream(self, name: str) -> bool:
        return name in self._rings

    async def peer(self, data: BalancerData) -> Peer:
        """The peer for the next try; ProxyError as Kong words it where there is none."""
        if not data.is_name:
            # Kong takes what was an IP literal for one still, and nginx finds no address in it.
            if not is_ip(data.host):
                raise ProxyError(
                    500,
                    f"failed to set the current peer (address: {data.host}): no host allowed",
                    unexpected=True,
                )
            return Peer(ip=data.host, port=data.port, hostname=data.host, nominal_port=data.port)
        ring = self._rings.get(data.host)
        if ring is not None:
            return await self._ring_peer(ring)
        found = await self._resolver.resolve(data.host, data.port)
        if found is None:
            raise ProxyError(503, "name resolution failed")
        return Peer(ip=found[0], port=found[1], hostname=data.host, nominal_port=data.port)

    async def _ring_peer(self, ring: _Ring) -> Peer:
        for _ in range(len(ring)):
            target = ring.next()
            found = await self._resolver.resolve(target.host, target.port)
            if found is not None:
                return Peer(
                    ip=found[0],
                    port=found[1],
                    hostname=ring.upstream.host_header or target.host,
                    nominal_port=target.port,
                )
        raise ProxyError(503, NO_PEER)
