"""How the mesh of a release stands beside it, in the words that a step and alerts go by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSight:
    """What is known of a mesh now; a release without one has all of it empty.

    ``held`` is why the release must not rise; ``trouble`` why the mesh is not in step with it, and
    ``exceeds`` whether that may give the canary more than the release does. ``drift`` is what
    somebody else changed.
    """

    held: str = ""
    trouble: str = ""
    exceeds: bool = False
    drift: str = ""


NO_MESH = MeshSight()
