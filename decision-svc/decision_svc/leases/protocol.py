"""Leases: of all who ask for a name one holds it, for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who holds a lease, its fencing token, and how long it lasts still."""

    holder: str
    token: int
    left_ms: int


class LeaseStore(Protocol):
    """Leases by name.

    Tokens begin at 1 and grow by one with every holder anew, also after the lease has ended:
    what bears a smaller one than was seen comes from somebody who has lost it.
    """

    async def hold(self, name: str, holder: str, valid_s: float) -> Lease:
        """The lease, held for ``valid_s`` from now on by ``holder`` if nobody else holds it.

        Whoever holds it keeps the token. StoreUnavailable leaves open whether it is held;
        asking again is safe.
        """
        ...

    async def drop(self, name: str, holder: str) -> None:
        """End the lease if ``holder`` holds it; of anybody else nothing is ended."""
        ...
