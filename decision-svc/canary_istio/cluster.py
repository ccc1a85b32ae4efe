"""A cluster's objects, as far as routes need them: read one, apply one."""

from __future__ import annotations

from typing import Any, Protocol

Object = dict[str, Any]

MANAGER = "canary-release"
"""Who we are to server-side apply. Fields that somebody else adds stay theirs."""


class Cluster(Protocol):
    """Raises Unreachable and Denied wherever it is asked."""

    async def read(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object as it is; None if there is none of that name."""
        ...

    async def apply(self, wanted: Object, *, force: bool) -> None:
        """Make what ``wanted`` says so, and leave the rest: server-side apply.

        With a resourceVersion in its metadata only if the object is still that one; else raises
        Raced. Where somebody else has set one of its fields otherwise: takes the field over with
        ``force``, else raises Conflict and changes nothing.
        """
        ...
