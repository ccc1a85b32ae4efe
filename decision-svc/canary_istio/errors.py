"""What keeps a cluster's objects from being what they should be.

::

    CanaryError
    └── ClusterError     base: the object is not what was wanted
        ├── Unreachable  the API server did not answer in time, or not sensibly
        ├── Conflict     somebody else set a field that is ours; carries who and which
        ├── Raced        the object changed between reading and writing it
        └── Denied       the API server said no, and will again: permissions, or no Istio there
"""

from __future__ import annotations

from canary_engine.errors import CanaryError


class ClusterError(CanaryError):
    """Base; the message says why, for people."""


class Unreachable(ClusterError):  # noqa: N818 - it says what is the matter
    """No answer in time, or one that makes no sense."""


class Conflict(ClusterError):  # noqa: N818 - it says what is the matter
    """``causes`` name each field that somebody else has set, and who."""

    def __init__(self, *causes: str) -> None:
        self.causes = causes
        super().__init__("; ".join(causes))


class Raced(ClusterError):  # noqa: N818 - it says what is the matter
    """Read it again, and decide anew."""


class Denied(ClusterError):  # noqa: N818 - it says what is the matter
    """Asking again changes nothing."""
