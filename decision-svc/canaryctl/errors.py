"""Every way to fail: a code, what happened, what to do next, and the exit code.

::

    Trouble
    ├── Misuse     the command line or a file is wrong; nothing was sent
    └── Refusal    the service said no, or could not be asked
"""

from __future__ import annotations

import json
import re
from typing import Any

import click
import grpc

OK, REFUSED, MISUSED, LOST_RACE, UNAVAILABLE, OTHER, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
BROKEN_PIPE = 141
"""What a shell reports for a program that nobody reads from any longer."""

EXIT_CODES = {
    "failed-precondition": REFUSED,
    "not-found": REFUSED,
    "already-exists": REFUSED,
    "tampered": REFUSED,
    "usage": MISUSED,
    "invalid-argument": MISUSED,
    "aborted": LOST_RACE,
    "unavailable": UNAVAILABLE,
    "deadline-exceeded": UNAVAILABLE,
    "interrupted": INTERRUPTED,
}

NEXT_STEPS = {
    "aborted": "read the policy again (canaryctl policy show {service}) and repeat with "
    "--expected-revision N",
    "unavailable": "is the decision service running at {address}, and its store? "
    "set --address or CANARYCTL_ADDRESS",
    "deadline-exceeded": "allow more with --timeout; a write may have been made all the same: "
    "see canaryctl history {service}",
    "not-found": "check the name: canaryctl policy show {service} lists what there is, "
    "canaryctl status the services",
    "already-exists": "choose another name, or remove the old one first: "
    "canaryctl policy show {service} lists what there is",
    "failed-precondition": "deal with what stands in the way and repeat: "
    "canaryctl status {service} shows what is in force",
    "invalid-argument": "correct what is named and repeat; nothing was changed",
    "permission-denied": "ask somebody whose role allows it; canaryctl whoami shows yours",
    "unauthenticated": "show a token with --token-file or CANARYCTL_TOKEN, or a certificate with "
    "--tls-cert and --tls-key, that the access file of {address} knows",
    "unimplemented": "check that {address} is the admin port (9091 by default) of a decision "
    "service as new as this canaryctl",
    "resource-exhausted": "ask for less at a time, or repeat later",
}
NEXT_FOR_USERS = {
    "not-found": "check the user id, or store a profile: canaryctl profile put {user}",
    "deadline-exceeded": "allow more with --timeout; a write may have been made all the same: "
    "see canaryctl profile get {user}",
}
NEXT_FOR_AN_UNKNOWN_SERVICE = "check the service key: canaryctl status lists those there are"
NEXT_OTHERWISE = "look at the decision service's log at {address}, and repeat"


# What the service calls a field is an option here.
OPTIONS = {
    "actor": "--actor",
    "cidr": "--cidr",
    "delay_s": "--delay",
    "despite_incompatible": "--despite-incompatible",
    "despite_rollback": "--despite-rollback",
    "idempotency_key": "--idempotency-key",
    "limit": "--limit",
    "position": "--position",
    "reason": "--reason",
    "release_id": "--release",
    "salt": "--salt",
    "valid_s": "--valid",
    "window_s": "--window",
}
OPTIONS_BY_REQUEST = {"SetShadowRequest": {"valid_s": "--for"}}
_FIELD = re.compile(rf"(?<![\w.])({'|'.join(OPTIONS)})(?=: |\))")
_UNKNOWN_SERVICE = ("there is no policy of", "has no policy", "nobody declares")
_NEGATIVE = re.compile(r"-\d")


class Trouble(Exception):  # noqa: N818 - it is what happened
    """Base of what canaryctl tells instead of a result."""

    def __init__(self, code: str, message: str, next_step: str) -> None:
        self.code, self.message, self.next_step = code, message, next_step
        super().__init__(message)

    @property
    def exit_code(self) -> int:
        """The process's exit code for it."""
        return EXIT_CODES.get(self.code, OTHER)


class Misuse(Trouble):
    """What was given makes no sense; ``complaints`` name each place and what to do."""

    def __init__(self, *complaints: str, next_step: str = "") -> None:
        super().__init__(
            "invalid-argument",
            "\n".join(complaints),
            next_step or NEXT_STEPS["invalid-argument"],
        )


class Refusal(Trouble):
    """The service's own answer to a call; ``code`` is the status in lower-case words."""


def refusal(error: grpc.RpcError, request: Any, address: str) -> Refusal:
    """What a failed call says, with the step that its status and request suggest."""
    code = error.code().name.lower().replace("_", "-")
    message = error.details() or f"the call ended as {code}"
    if code == "not-found" and _is_about_the_service(message):
        return Refusal(code, message, NEXT_FOR_AN_UNKNOWN_SERVICE)
    return Refusal(code, _with_options(message, request), _next_step(code, request, address))


def _is_about_the_service(message: str) -> bool:
    return any(words in message for words in _UNKNOWN_SERVICE)


def _with_options(message: str, request: Any) -> str:
    """The message with the options of the command line in place of the fields."""
    kind = getattr(getattr(request, "DESCRIPTOR", None), "name", "")
    options = OPTIONS | OPTIONS_BY_REQUEST.get(kind, {})
    return _FIELD.sub(lambda found: options[found[1]], message)


def _next_step(code: str, request: Any, address: str) -> str:
    user = getattr(request, "user", "") or getattr(getattr(request, "profile", None), "user", "")
    steps = NEXT_STEPS | NEXT_FOR_USERS if user else NEXT_STEPS
    template = steps.get(code, NEXT_OTHERWISE)
    return template.format(service=_service_of(request), address=address, user=user)


def _service_of(request: Any) -> str:
    for holder in (request, getattr(request, "change", None), getattr(request, "request", None)):
        if name := getattr(holder, "service_key", ""):
            return str(name)
    return "SERVICE"


def usage(error: click.ClickException) -> Trouble:
    """A mistake on the command line, as click found it."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "canaryctl"
    message = error.format_message()
    if isinstance(error, click.NoSuchOption) and _NEGATIVE.match(error.option_name):
        message = "a number below 0 is no value here: give 0 or more, a percentage from 0 to 100"
    return Trouble("usage", message, f"see {path} --help")


def as_text(trouble: Trouble) -> str:
    """For people."""
    return f"error: {trouble.message}\nnext: {trouble.next_step}"


def as_json(trouble: Trouble) -> str:
    """For scripts."""
    error = {"code": trouble.code, "message": trouble.message, "next": trouble.next_step}
    return json.dumps({"error": error}, ensure_ascii=False)
