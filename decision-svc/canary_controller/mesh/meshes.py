"""What the controller asks of whoever keeps meshes in step with releases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from canary_engine.mesh import NO_MESH, MeshSight
from canary_engine.model import Policy


class Meshes(Protocol):
    """Keeps meshes in step, in the background."""

    def see(self, revisions: Mapping[str, int], now: datetime, may_act: Callable[[], bool]) -> None:
        """Have what is due looked at, given the newest revisions."""
        ...

    def sight(self, policy: Policy, now: datetime) -> MeshSight:
        """How the mesh of a release stands beside this policy of it."""
        ...

    def hold(self, policy: Policy, now: datetime) -> str:
        """Why a release that is about to rise has to wait a tick for its mesh; "" if it has not."""
        ...

    def forget(self) -> None:
        """Another may act: look at nothing any more."""
        ...


class NoMeshes:
    """No release has a mesh."""

    def see(self, revisions: Mapping[str, int], now: datetime, may_act: Callable[[], bool]) -> None:
        """See Meshes."""

    def sight(self, policy: Policy, now: datetime) -> MeshSight:
        """See Meshes."""
        return NO_MESH

    def hold(self, policy: Policy, now: datetime) -> str:
        """See Meshes."""
        return ""

    def forget(self) -> None:
        """See Meshes."""
