"""``policy`` and ``history``: everything about one service key, now, before, and in force."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2

from canaryctl import answer_tables, policy_tables, render
from canaryctl.options import Noun, Verb, reads, writes
from canaryctl.session import Session
from canaryctl.values import REVISION


@click.group(cls=Noun)
def policy() -> None:
    """Policies: what is stored, and what is in force."""


@policy.command("show")
@reads
@click.option("--revision", type=REVISION, help="An earlier one. [the current one]")
def show(session: Session, service: str, revision: int | None) -> None:
    """Show the stored policy whole."""
    found = session.policy(service, revision or 0)
    session.show({"policy": render.document(found)}, lambda: policy_tables.policy_page(found))


@policy.command("revert")
@writes
@click.argument("revision", type=REVISION)
def revert(session: Session, change: admin_pb2.Change, revision: int) -> None:
    """Go back to REVISION, as a new revision.

    Guards, approvals, revoked overrides and the listed members of segments stay as they are now.
    """
    request = admin_pb2.RevertRequest(change=change, revision=revision)
    answer = session.call(session.admin.Revert, request)
    session.tell_written(answer, change, f"went back to revision {revision}")


@policy.command("effective")
@reads
def effective(session: Session, service: str) -> None:
    """Show which policy is in force at which gateways, and why."""
    request = admin_pb2.GetEffectivePolicyRequest(service_key=service)
    answer = session.call(session.admin.GetEffectivePolicy, request)
    session.show(
        {"policies": render.documents(answer.policies)},
        lambda: [answer_tables.effective([(service, answer)])],
    )


@click.command(cls=Verb)
@reads
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--before", type=REVISION, metavar="N", help="Only what is before revision N.")
def history(session: Session, service: str, limit: int, before: int | None) -> None:
    """Show who changed what, when and why, newest first."""
    request = admin_pb2.ListChangesRequest(
        service_key=service, before_revision=before or 0, limit=limit
    )
    changes = session.call(session.admin.ListChanges, request).changes
    session.show({"changes": render.documents(changes)}, lambda: [answer_tables.history(changes)])
