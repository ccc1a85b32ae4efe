"""What can be set of one plugin server, with units in the names."""

from __future__ import annotations

from dataclasses import dataclass

from canary_plugin.credentials import NO_CREDENTIALS, CredentialFiles
from canary_plugin.outcomes.ledger import GRACE_S
from canary_plugin.outcomes.sender import EVERY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one plugin server."""

    socket: str
    decision_service: tuple[str, ...] = ("127.0.0.1:50051",)
    decider: str = "remote"
    gateway: str = ""
    socket_mode: int = 0o660
    event_limit_s: float = 5.0
    idle_instance_s: float = 900.0
    drain_s: float = 5.0
    outcomes: str = "off"
    """How outcomes are heard of: syslog (nginx's access log), log (Kong's log phase) or off."""
    outcomes_socket: str = ""
    outcomes_grace_s: float = GRACE_S
    outcomes_every_s: float = EVERY_S
    warm_up_s: float = 2.0
    """How long listening waits for the policies; a service that is down must not delay Kong."""
    socket_fd: int = -1
    """The listening socket, if a supervisor holds it; it neither binds nor removes ``socket``."""
    metrics_listen: str = ""
    """Where Prometheus asks; "" is nowhere."""
    restarts: int = 0
    credentials: CredentialFiles = NO_CREDENTIALS
