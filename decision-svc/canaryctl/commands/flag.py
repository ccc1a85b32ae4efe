"""``flag``: the feature flags that requests and routes ask for."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2

from canaryctl import policy_tables, render
from canaryctl.files import read_one
from canaryctl.options import Noun, file_option, reads, writes
from canaryctl.session import Session
from canaryctl.values import PERCENTAGE


@click.group(cls=Noun)
def flag() -> None:
    """Feature flags: on for users, segments and a share of the rest."""


@flag.command("list")
@reads
def show(session: Session, service: str) -> None:
    """List the flags."""
    policy = session.policy(service)
    document = {
        "service_key": service,
        "revision": policy.revision,
        "flags": render.documents(policy.flags),
    }
    session.show(document, lambda: [policy_tables.flags(policy)])


@flag.command("put")
@writes
@click.argument("name", required=False)
@click.option("--on/--off", "enabled", default=None, help="Off is off for everybody.")
@click.option("--percentage", type=PERCENTAGE, default=None, help="Share it is on for. [0]")
@click.option("--user", multiple=True, help="User id it is on for; repeat for more.")
@click.option("--segment", multiple=True, help="Segment it is on for; repeat for more.")
@file_option("The flag, instead of the options")
def put(
    session: Session,
    change: admin_pb2.Change,
    name: str | None,
    enabled: bool | None,
    percentage: float | None,
    user: tuple[str, ...],
    segment: tuple[str, ...],
    path: str | None,
) -> None:
    """Create a flag or replace it whole."""
    given = policy_pb2.Flag(
        name=name or "",
        enabled=bool(enabled),
        percentage=percentage or 0.0,
        users=user,
        segments=segment,
    )
    is_described = bool(given.ListFields()) or enabled is not None or percentage is not None
    chosen = _chosen(path, given, is_described, enabled)
    request = admin_pb2.PutFlagRequest(change=change, flag=chosen)
    answer = session.call(session.admin.PutFlag, request)
    session.tell_written(answer, change, f"put flag {chosen.name}")


def _chosen(
    path: str | None, given: policy_pb2.Flag, is_described: bool, enabled: bool | None
) -> policy_pb2.Flag:
    if path is not None:
        if is_described:
            raise click.UsageError("describe the flag by options or with --file, not both")
        return read_one(path, "flag", policy_pb2.Flag)
    if not given.name or enabled is None:
        raise click.UsageError("give NAME and --on or --off, or --file")
    return given


@flag.command("remove")
@writes
@click.argument("name")
def remove(session: Session, change: admin_pb2.Change, name: str) -> None:
    """Remove a flag."""
    request = admin_pb2.RemoveFlagRequest(change=change, name=name)
    answer = session.call(session.admin.RemoveFlag, request)
    session.tell_written(answer, change, f"removed flag {name}")
