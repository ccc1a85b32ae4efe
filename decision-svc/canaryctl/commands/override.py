"""``override``: signed tokens that force a variant for a tester."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2

from canaryctl import policy_tables, render
from canaryctl.options import Noun, reads, writes
from canaryctl.session import Session
from canaryctl.signing_key import write_key
from canaryctl.values import DURATION, choice, value_of

EVERY = "*"


@click.group(cls=Noun)
def override() -> None:
    """Overrides: signed tokens that force a variant for a tester."""


@override.command("create")
@writes
@click.option(
    "--variant",
    type=choice(policy_pb2.Variant.DESCRIPTOR),
    default="canary",
    show_default=True,
    help="What the token forces.",
)
@click.option(
    "--valid", "valid_s", type=DURATION, default="8h", show_default=True, help="At most 30d."
)
@click.option("--user", default="", help="Only for this user. [whoever has the token]")
@click.option("--cidr", default="", help="Only from this address or network. [anywhere]")
def create(
    session: Session, change: admin_pb2.Change, variant: str, valid_s: int, user: str, cidr: str
) -> None:
    """Sign a token. It is shown once and kept nowhere: whoever has it is the tester."""
    request = admin_pb2.CreateOverrideRequest(
        change=change,
        variant=value_of(policy_pb2.Variant.DESCRIPTOR, variant),
        valid_s=valid_s,
        user=user,
        cidr=cidr,
    )
    answer = session.call(session.admin.CreateOverride, request)
    document = {"service_key": change.service_key, **render.document(answer)}
    session.show(document, lambda: _created(session, change.service_key, answer))


def _created(session: Session, service: str, answer: admin_pb2.CreateOverrideResponse) -> list[str]:
    found = session.policy(service).overrides
    rows = (
        ("override", answer.id),
        ("expires", render.moment(answer.expires_at)),
        ("in header", found.header or "x-canary-override"),
        ("or cookie", found.cookie or "canary_override"),
        ("token", answer.token),
    )
    return [render.pairs(rows)]


@override.command("revoke")
@writes
@click.argument("override", required=False)
@click.option("--all", "every", is_flag=True, help="Believe no token at all.")
def revoke(session: Session, change: admin_pb2.Change, override: str | None, every: bool) -> None:
    """Make OVERRIDE, an id or a token, worthless before it expires.

    --all takes the key out of the policy, until the next override is created. Change the services'
    key before that, or tokens that were signed with the old one count again.
    """
    if bool(override) == every:
        raise click.UsageError("name an override, or give --all")
    id_ = EVERY if every else override or ""
    request = admin_pb2.RevokeOverrideRequest(change=change, id=id_)
    answer = session.call(session.admin.RevokeOverride, request)
    # Not what was given: it may be the token.
    session.tell_written(answer, change, f"revoked {'all overrides' if every else 'the override'}")


@override.command("set")
@writes
@click.option("--header", default="", metavar="NAME", help="[x-canary-override]")
@click.option("--cookie", default="", metavar="NAME", help="[canary_override]")
def set_names(session: Session, change: admin_pb2.Change, header: str, cookie: str) -> None:
    """Say in which header and cookie gateways look for tokens.

    A name that is not given is the default again. Tokens that are out stay good; only where
    testers put them changes.
    """
    request = admin_pb2.SetOverridesRequest(change=change, header=header, cookie=cookie)
    answer = session.call(session.admin.SetOverrides, request)
    session.tell_written(answer, change, "set where overrides are looked for")


@override.command("list")
@reads
def show(session: Session, service: str) -> None:
    """Show how testers are believed, and the overrides that were revoked."""
    policy = session.policy(service)
    document = {
        "service_key": service,
        "revision": policy.revision,
        "overrides": render.document(policy.overrides),
    }
    session.show(document, lambda: [policy_tables.overrides(policy), policy_tables.revoked(policy)])


@override.command("keygen")
@click.argument("file")
@click.pass_obj
def keygen(session: Session, file: str) -> None:
    """Make the private key that the services sign with, in a new FILE.

    Give the same file to every decision service, as --override-key FILE. Policies hold the public
    key only.
    """
    public_key = write_key(file)
    session.show(
        {"file": file, "public_key": public_key},
        lambda: [render.pairs((("private key in", file), ("public key", public_key)))],
    )
