"""The parameters that commands share, as decorators; ``writes`` turns them into a Change."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import click
from canary.admin.v1 import admin_pb2

from canaryctl.errors import Trouble
from canaryctl.session import DEFAULT_ADDRESS, Session
from canaryctl.values import EXPECTED_REVISION, SECONDS

P = ParamSpec("P")
Command = Callable[..., None]

COMPLETION_TIMEOUT_S = 1.0


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.ensure_object(Session), name, value)

    return keep


def global_options(*, is_root: bool) -> list[click.Parameter]:
    """The options of every command; the root's are in its help and read the environment."""

    def option(flag: str, attribute: str, explained: str, **more: Any) -> click.Option:
        variable = more.pop("envvar", None)
        return click.Option(
            [flag, f"_{attribute}"],
            callback=_keep(attribute),
            expose_value=False,
            hidden=not is_root,
            envvar=variable if is_root else None,
            show_envvar=True,
            help=explained,
            **more,
        )

    return [
        option(
            "--address",
            "address",
            f"Admin API of the decision service, host:port or unix:PATH. [{DEFAULT_ADDRESS}]",
            envvar="CANARYCTL_ADDRESS",
            metavar="ADDRESS",
        ),
        option(
            "--output",
            "output",
            "Tables for people or one JSON document for scripts. [table]",
            type=click.Choice(["table", "json"]),
        ),
        option(
            "--actor",
            "given_actor",
            "Who changes things, for the history. [who the credentials say, or the login name]",
            envvar="CANARYCTL_ACTOR",
            metavar="NAME",
        ),
        option(
            "--idempotency-key",
            "idempotency_key",
            "Names a write, so that repeating it changes nothing more. [none]",
            metavar="KEY",
        ),
        option(
            "--token-file",
            "token_file",
            "File with the token to show.",
            envvar="CANARYCTL_TOKEN_FILE",
            metavar="FILE",
        ),
        option(
            "--token",
            "token",
            "The token itself; others on this machine may see it, so prefer --token-file.",
            envvar="CANARYCTL_TOKEN",
            metavar="TOKEN",
        ),
        option(
            "--tls-ca",
            "tls_ca",
            "TLS: authority (PEM) that signed the service's certificate, or 'system'.",
            envvar="CANARYCTL_TLS_CA",
            metavar="FILE",
        ),
        option(
            "--tls-cert",
            "tls_cert",
            "TLS: our certificate (PEM).",
            envvar="CANARYCTL_TLS_CERT",
            metavar="FILE",
        ),
        option(
            "--tls-key",
            "tls_key",
            "TLS: its private key (PEM).",
            envvar="CANARYCTL_TLS_KEY",
            metavar="FILE",
        ),
        option("--timeout", "timeout_s", "Seconds to wait for an answer. [5]", type=SECONDS),
    ]


class Verb(click.Command):
    """A command that takes the global options too, so that they may stand after it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *global_options(is_root=False)]


class Noun(click.Group):
    """A group of verbs."""

    command_class = Verb


def service_keys(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The service keys that the shell may complete; none when the service does not answer."""
    session = ctx.ensure_object(Session)
    session.timeout_s = COMPLETION_TIMEOUT_S
    try:
        answer = session.call(session.admin.ListServices, admin_pb2.ListServicesRequest())
    except Trouble:
        return []
    return [s.service_key for s in answer.services if s.service_key.startswith(incomplete)]


service_argument = click.argument("service", shell_complete=service_keys)


def _reason(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    if not (value or "").strip() and not ctx.resilient_parsing:
        raise click.UsageError('say why with --reason "..."; the history keeps it', ctx)
    return value or ""


reason_option = click.option(
    "--reason", callback=_reason, metavar="WHY", help="Why; the history keeps it. [required]"
)

expected_revision_option = click.option(
    "--expected-revision",
    type=EXPECTED_REVISION,
    metavar="N",
    help="Refuse unless the policy is at this revision (0: there is none yet).",
)


def file_option(explained: str) -> Callable[[Command], Command]:
    """``--file``: what is too much for options, as YAML or JSON."""
    return click.option("-f", "--file", "path", metavar="FILE", help=f"{explained} (- is stdin).")


def reads(command: Callable[Concatenate[Session, str, P], None]) -> Command:
    """A command about one service key. Put it above the command's own parameters."""

    def run(session: Session, service: str, *args: P.args, **kwargs: P.kwargs) -> None:
        command(session, service, *args, **kwargs)

    return service_argument(_passed(command, run))


def writes(command: Callable[Concatenate[Session, admin_pb2.Change, P], None]) -> Command:
    """A command that changes the policy of one service key, for a reason."""

    def run(
        session: Session,
        service: str,
        reason: str,
        expected_revision: int | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        change = admin_pb2.Change(
            service_key=service,
            expected_revision=expected_revision,
            actor=session.actor,
            reason=reason,
        )
        command(session, change, *args, **kwargs)

    return service_argument(reason_option(expected_revision_option(_passed(command, run))))


def _passed(command: Command, run: Command) -> Command:
    """``run`` in place of ``command``: its name, its help, its parameters, given the session."""
    return click.pass_obj(functools.wraps(command)(run))
