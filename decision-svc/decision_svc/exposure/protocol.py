"""Where it is kept whom a release has served: one interface, a memory and a Redis adapter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from canary_engine.model import Variant

KEPT_S = 90 * 86_400
"""How long after the last of them the users of a release are known."""
MAX_LISTED = 100_000
"""How many users of one variant of a release are listed; all of them are counted."""


class Served(NamedTuple):
    """One variant of one release."""

    service_key: str
    release_id: str
    variant: Variant


class ExposureStore(Protocol):
    """Users by the marks that stand for them (see ``canary_engine.exposure``)."""

    async def expose(self, served: Served, marks: Collection[int], listed: bool) -> None:
        """Add users; those there already count once. ``listed``: keep who, up to MAX_LISTED."""
        ...

    async def exposed(self, served: Served) -> int:
        """About how many distinct users, within 1 % for most numbers; 0 if nobody is known."""
        ...

    async def exposed_users(self, served: Served) -> Sequence[str]:
        """The marks that are listed, 16 hexadecimal digits each, in order."""
        ...
