"""``release`` and ``percentage``: bring a version from canary to stable, or take it back."""

from __future__ import annotations

from typing import Any

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2

from canaryctl import render, tables
from canaryctl.options import Command, Noun, Verb, reads, writes
from canaryctl.session import Session
from canaryctl.values import PERCENTAGE, choice, value_of


@click.group(cls=Noun)
def release() -> None:
    """Releases: bring a version from canary to stable, or take it back."""


@release.command("show")
@reads
def show(session: Session, service: str) -> None:
    """Show the latest release."""
    policy = session.policy(service)
    found = render.document(policy.release) if policy.HasField("release") else None
    document: dict[str, Any] = {
        "service_key": service,
        "revision": policy.revision,
        "release": found,
    }
    session.show(document, lambda: [tables.release(policy)])


@release.command("start")
@writes
@click.argument("version")
@click.option(
    "--percentage", type=PERCENTAGE, default=0.0, help="First share, 0 to 100 by 0.001. [0]"
)
@click.option(
    "--strategy",
    type=choice(policy_pb2.Strategy.DESCRIPTOR),
    help="Which stages take part. [combined]",
)
@click.option("--salt", default="", help="Another release's salt, to pick the same people again.")
def start(
    session: Session,
    change: admin_pb2.Change,
    version: str,
    percentage: float,
    strategy: str | None,
    salt: str,
) -> None:
    """Start a release of VERSION."""
    request = admin_pb2.StartReleaseRequest(
        change=change,
        version=version,
        percentage=percentage,
        strategy=value_of(policy_pb2.Strategy.DESCRIPTOR, strategy),
        salt=salt,
    )
    answer = session.call(session.admin.StartRelease, request)
    said = f"started the release of {version} at {render.percent(percentage)}"
    session.tell_written(answer, change, said)


def _percentage(session: Session, change: admin_pb2.Change, percentage: float) -> None:
    """Set the share of the release in progress, 0 to 100."""
    request = admin_pb2.SetPercentageRequest(change=change, percentage=percentage)
    answer = session.call(session.admin.SetPercentage, request)
    session.tell_written(answer, change, f"set the percentage to {render.percent(percentage)}")


def _as_verb(name: str) -> click.Command:
    command: Command = writes(click.argument("percentage", type=PERCENTAGE)(_percentage))
    return click.command(name, cls=Verb)(command)


percentage = _as_verb("percentage")
release.add_command(percentage, "percentage")


@release.command("complete")
@writes
def complete(session: Session, change: admin_pb2.Change) -> None:
    """End the release: its version becomes stable, the old one deprecated."""
    answer = _end(session, change, policy_pb2.RELEASE_STATUS_COMPLETED)
    session.tell_written(answer, change, "completed the release")


@release.command("rollback")
@writes
def rollback(session: Session, change: admin_pb2.Change) -> None:
    """End the release: its version is withdrawn, everybody gets stable."""
    answer = _end(session, change, policy_pb2.RELEASE_STATUS_ROLLED_BACK)
    session.tell_written(answer, change, "rolled the release back")


def _end(
    session: Session, change: admin_pb2.Change, status: policy_pb2.ReleaseStatus.ValueType
) -> admin_pb2.EndReleaseResponse:
    request = admin_pb2.EndReleaseRequest(change=change, status=status)
    return session.call(session.admin.EndRelease, request)
