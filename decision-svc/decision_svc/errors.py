"""What the service refuses, beside the engine's and the store's errors.

::

    CanaryError
    ├── NotFound           what was named does not exist
    ├── AlreadyExists      the name is taken
    ├── BadRequest         the call itself lacks something; carries every complaint
    ├── OverrideRefused    no override can be made or revoked as things are
    ├── NotReady           no policy was read from the store yet
    ├── Unauthenticated    nobody knows who calls
    ├── Forbidden          the caller lacks the role that the call needs
    ├── BadAccess          a file of credentials is wrong; carries every complaint
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


class OverrideRefused(CanaryError):  # noqa: N818 - it says what was refused
    """No override can be made or revoked as things are."""


class NotReady(CanaryError):  # noqa: N818 - it says what is the matter
    """No policy was read from the store yet, so no decision can be made."""


class Unauthenticated(CanaryError):  # noqa: N818 - it says what is the matter
    """Nobody knows who calls; the message never repeats what was shown."""


class Forbidden(CanaryError):  # noqa: N818 - it says what is the matter
    """The caller lacks a role; the message names it and the service key."""


class BadAccess(CanaryError):  # noqa: N818 - it says what is the matter
    """A file of credentials is wrong; ``complaints`` never repeat what might be a secret."""

    def __init__(self, *complaints: str) -> None:
        self.complaints = complaints
        super().__init__("; ".join(complaints))


class BadSettings(CanaryError):  # noqa: N818 - it says what is the matter
    """The service cannot start with these settings; the message names the option."""
