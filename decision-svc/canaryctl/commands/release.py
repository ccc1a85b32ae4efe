"""``release`` and ``percentage``: bring a version from canary to stable, or take it back."""

from __future__ import annotations

from typing import Any

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2

from canaryctl import answer_tables, baselines, policy_tables, render
from canaryctl.options import Command, Noun, Verb, reads, writes
from canaryctl.session import Session
from canaryctl.values import DURATION, PERCENTAGE, choice, value_of


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
    session.show(document, lambda: [policy_tables.release(policy)])


@release.command("exposure")
@reads
@click.option("--release", "release_id", default="", metavar="ID", help="Which. [the latest]")
@click.option("--users", "with_users", is_flag=True, help="List who, hashed, if that is kept.")
def exposure(session: Session, service: str, release_id: str, with_users: bool) -> None:
    """Show how many distinct users each variant of a release has served."""
    request = admin_pb2.GetExposureRequest(
        service_key=service, release_id=release_id, with_users=with_users
    )
    answer = session.call(session.admin.GetExposure, request)
    session.show(
        {
            "service_key": service,
            "release_id": answer.release_id,
            "exposures": [_exposure(found) for found in answer.exposures],
        },
        lambda: answer_tables.exposure(answer, with_users=with_users),
    )


def _exposure(found: admin_pb2.Exposure) -> dict[str, Any]:
    # Nobody is a number, too.
    return {**render.document(found), "users": found.users}


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
@click.option(
    "--despite-incompatible",
    default="",
    metavar="WHY",
    help="Why it starts although it breaks a compatibility rule.",
)
@click.option(
    "--despite-rollback",
    default="",
    metavar="WHY",
    help="Why it starts although the version was rolled back.",
)
def start(
    session: Session,
    change: admin_pb2.Change,
    version: str,
    percentage: float,
    strategy: str | None,
    salt: str,
    despite_incompatible: str,
    despite_rollback: str,
) -> None:
    """Start a release of VERSION."""
    request = admin_pb2.StartReleaseRequest(
        change=change,
        version=version,
        percentage=percentage,
        strategy=value_of(policy_pb2.Strategy.DESCRIPTOR, strategy),
        salt=salt,
        despite_incompatible=despite_incompatible,
        despite_rollback=despite_rollback,
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


def _move(
    name: str,
    move: admin_pb2.Move.ValueType,
    said: str,
    explained: str,
    *,
    is_end: bool = False,
) -> None:
    """Add a command that moves the release and needs nothing else to be said.

    After an end, gateways go by their own files again: whom those give a canary is told.
    """

    def run(session: Session, change: admin_pb2.Change) -> None:
        request = admin_pb2.MoveReleaseRequest(change=change, move=move)
        answer = session.call(session.admin.MoveRelease, request)
        service = change.service_key
        warning = baselines.warning(session, service, is_over=True) if is_end else ""
        session.tell_written(answer, change, said, warning)

    release.command(name, help=explained)(writes(run))


_move(
    "pause",
    admin_pb2.MOVE_PAUSE,
    "paused the release",
    "Pause the release: it keeps its traffic, and nobody raises it.",
)
_move(
    "resume",
    admin_pb2.MOVE_RESUME,
    "resumed the release",
    "Let the release go on after a pause or a halt, with the percentage it had.",
)
_move(
    "halt",
    admin_pb2.MOVE_HALT,
    "halted the release",
    "Halt the release: everybody gets stable until it is resumed.",
)
_move(
    "promote",
    admin_pb2.MOVE_PROMOTE,
    "promoted the release",
    "End the release: its version becomes stable, the old one deprecated.",
    is_end=True,
)
_move(
    "keep",
    admin_pb2.MOVE_KEEP,
    "kept the release: no rollback is due any more",
    "Call off the rollback that is due; the release is judged by what is heard from now on.",
)


@release.command("rollback")
@writes
@click.option(
    "--delay",
    "delay_s",
    type=DURATION,
    metavar="LENGTH",
    help="Leave it to the controller to do it in so long, unless somebody keeps the release.",
)
def rollback(session: Session, change: admin_pb2.Change, delay_s: int | None) -> None:
    """End the release: its version is withdrawn, and what gateways' own files say rules again.

    Everybody gets stable where those give nobody a canary; the answer names those that do.
    """
    request = admin_pb2.MoveReleaseRequest(
        change=change, move=admin_pb2.MOVE_ROLL_BACK, delay_s=delay_s or 0
    )
    answer = session.call(session.admin.MoveRelease, request)
    later = f"the release is rolled back in {delay_s} s, unless it is kept"
    warning = baselines.warning(session, change.service_key, is_over=not delay_s)
    session.tell_written(answer, change, later if delay_s else "rolled the release back", warning)


_move(
    "abandon",
    admin_pb2.MOVE_ABANDON,
    "abandoned the release",
    "End the release without holding anything against its version.",
    is_end=True,
)
