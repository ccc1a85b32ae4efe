"""What the service refuses, beside the engine's and the store's errors.

::

    CanaryError
    ├── NotFound           what was named does not exist
    ├── AlreadyExists      the name is taken
    ├── BadRequest         the call itself lacks something; carries every complaint
    ├── NotReady           no policy was read from the store yet
    └── BadSettings        the service cannot start with these settings
"""

from __future__ import annotations

from canary_engine.errors import CanaryError


class NotFound(CanaryError):  # noqa: N818 - it says what is the matter
    """What was named does not exist."""


class AlreadyExists(CanaryError):  # noqa: N818 - it says what is the matter
    """The name is taken."""


class BadRequest(CanaryError):  # noqa: N818 - it says what is the matter
    """The call lacks something; ``complaints`` holds "field: what to do" lines."""

    def __init__(self, *complaints: str) -> None:
        self.complaints = complaints
        super().__init__("; ".join(complaints))


class NotReady(CanaryError):  # noqa: N818 - it says what is the matter
    """No policy was read from the store yet, so no decision can be made."""


class BadSettings(CanaryError):  # noqa: N818 - it says what is the matter
    """The service cannot start with these settings; the message names the option."""
