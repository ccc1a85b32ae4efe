"""Leases in Redis, ended by its clock.

Keys, of which ``<name>`` is written as a service key is (see ``store.connection``)::

    canary:{<name>}:lease         string  who holds it, for as long as they do
    canary:{<name>}:lease-token   string  the fencing token of the latest holder, for ever
"""

from __future__ import annotations

from decision_svc.leases.protocol import Lease
from decision_svc.store.connection import Connection, as_bytes, slot_key
from decision_svc.store.encoding import read_text
from decision_svc.store.servers import Script


class RedisLeases:
    """See LeaseStore."""

    def __init__(self, connection: Connection) -> None:
        self._ask = connection.ask
        self._hold, self._drop = Script("hold_lease.lua"), Script("drop_lease.lua")

    async def hold(self, name: str, holder: str, valid_s: float) -> Lease:
        """See LeaseStore."""
        key = slot_key(name, "lease")
        keys = [key, slot_key(name, "lease-token")]
        asked = self._hold.on(keys, [holder, round(valid_s * 1_000)])
        found, token, left_ms = await self._ask(key, asked)
        return Lease(holder=read_text(as_bytes(found), key), token=int(token), left_ms=int(left_ms))

    async def drop(self, name: str, holder: str) -> None:
        """See LeaseStore."""
        key = slot_key(name, "lease")
        await self._ask(key, self._drop.on([key], [holder]))
