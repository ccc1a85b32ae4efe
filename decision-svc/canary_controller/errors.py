"""What can go wrong between the controller and the decision service.

::

    CanaryError
    ├── BadSettings    the controller cannot start with these settings
    └── AdminError     the admin API did not do what was asked
        ├── Unreachable    nobody answered: whether it was done is not known
        ├── LostRace       somebody else has changed the policy since it was read
        ├── Refused        the service said no, and why; e.g. a guard, or a token that is too old
        │   └── Unreadable     what is asked for is there, and is spoilt
        └── Unknown        there is no such thing
"""

from __future__ import annotations

from canary_engine.errors import CanaryError


class BadSettings(CanaryError):  # noqa: N818 - it says what is the matter
    """The controller cannot start with these settings; the message names the option."""


class AdminError(CanaryError):
    """The admin API did not do what was asked; the message says why."""


class Unreachable(AdminError):  # noqa: N818 - it says what is the matter
    """Nobody answered in time; whether it was done is not known."""


class LostRace(AdminError):  # noqa: N818 - it says what happened
    """Somebody else has changed the policy since it was read."""


class Refused(AdminError):  # noqa: N818 - it says what happened
    """The service said no."""


class Unknown(AdminError):  # noqa: N818 - it says what is the matter
    """There is no such thing."""


class Unreadable(Refused):
    """What is asked for is there, and is spoilt: asking again helps nobody."""
