"""``shadow``: another policy, decided by and counted on real requests without acting."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2

from canaryctl import answer_tables, render
from canaryctl.errors import Misuse
from canaryctl.files import read_policies
from canaryctl.options import Noun, file_option, reads, writes
from canaryctl.session import Session
from canaryctl.values import DURATION


@click.group(cls=Noun)
def shadow() -> None:
    """Shadows: see what a policy would do before it does it."""


@shadow.command("set")
@writes
@file_option("The policy to decide by, whole")
@click.option(
    "--for",
    "valid_s",
    type=DURATION,
    default="1d",
    show_default=True,
    metavar="DURATION",
    help="For how long, at most 30d.",
)
def set_shadow(session: Session, change: admin_pb2.Change, path: str | None, valid_s: int) -> None:
    """Decide every request by the policy in FILE, too, and count how the answers differ."""
    if path is None:
        raise click.UsageError("name the policy's file with --file")
    found = read_policies([path])
    if len(found) != 1 or found[0].policy.service_key != change.service_key:
        raise Misuse(f"{path}: give one policy, of service_key {change.service_key}")
    request = admin_pb2.SetShadowRequest(change=change, policy=found[0].policy, valid_s=valid_s)
    answer = session.call(session.admin.SetShadow, request)
    until = render.moment(answer.expires_at)
    session.tell_written(answer, change, f"shadow set until {until}")


@shadow.command("show")
@reads
def show(session: Session, service: str) -> None:
    """Show how the shadow's decisions differ from those in force."""
    request = admin_pb2.GetShadowRequest(service_key=service)
    answer = session.call(session.admin.GetShadow, request)
    session.show(render.document(answer), lambda: [answer_tables.shadow(answer)])


@shadow.command("remove")
@writes
def remove(session: Session, change: admin_pb2.Change) -> None:
    """End the shadow."""
    answer = session.call(session.admin.RemoveShadow, admin_pb2.RemoveShadowRequest(change=change))
    session.tell_written(answer, change, "shadow removed")
