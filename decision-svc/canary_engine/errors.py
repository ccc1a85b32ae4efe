"""The engine's exceptions, one tree.

::

    CanaryError
    ├── InvalidPolicy      a policy document is wrong; carries every complaint
    ├── RefusedMove        a release cannot do that now; names the state and what it can do
    └── InvalidEvidence    what was kept of a release's evidence cannot be gone on with
"""

from __future__ import annotations

from collections.abc import Sequence


class CanaryError(Exception):
    """Base of everything this project raises on purpose."""


class InvalidPolicy(CanaryError):  # noqa: N818 - it says what is invalid
    """A document is not a policy. ``complaints`` holds one line per field, "where: what to do"."""

    def __init__(self, complaints: Sequence[str]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("; ".join(self.complaints))


class RefusedMove(CanaryError):  # noqa: N818 - it says what was refused
    """A release in this state does not take this signal."""


class InvalidEvidence(CanaryError):  # noqa: N818 - it says what is invalid
    """A document is no evidence that the judge can go on with; the text says why."""
