"""``guards``, ``freeze``, ``approve``, ``approvals``: what stands between a person and a move."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2

from canaryctl import policy_tables, render
from canaryctl.errors import Refusal
from canaryctl.files import read_one
from canaryctl.options import Noun, Verb, file_option, reads, writes
from canaryctl.session import Session
from canaryctl.values import DURATION, PERCENTAGE, choice, value_of

_MOVES = policy_pb2.ApprovedMove.DESCRIPTOR


@click.group(cls=Noun)
def guards() -> None:
    """Guards: which moves need a second person, and when there are none."""


@click.group(cls=Noun)
def freeze() -> None:
    """Freezes: times in which nobody is given a new version who does not have it."""


@click.group(cls=Noun)
def approvals() -> None:
    """Approvals: consents to somebody else's move that nobody has used yet."""


@guards.command("show")
@reads
def show(session: Session, service: str) -> None:
    """Show what needs a second person, and the freezes."""
    policy = session.policy(service)
    document = {
        "service_key": service,
        "revision": policy.revision,
        "guards": render.document(policy.guards),
    }
    session.show(document, lambda: [policy_tables.guards(policy), policy_tables.freezes(policy)])


@guards.command("set")
@writes
@click.option(
    "--approve",
    "moves",
    multiple=True,
    type=click.Choice(["start", "promote", "widen", "none"]),
    help="A move that needs a second person; repeat for more.",
)
@click.option("--above", type=PERCENTAGE, help="Raising above this needs a second person.")
@file_option("The guards whole, freezes too, instead of the options")
def set_guards(
    session: Session,
    change: admin_pb2.Change,
    moves: tuple[str, ...],
    above: float | None,
    path: str | None,
) -> None:
    """Say what needs a second person. Options leave the freezes as they are; FILE does not."""
    is_described = bool(moves) or above is not None
    if is_described == (path is not None):
        raise click.UsageError("say what needs a second person, by options or with --file")
    if "none" in moves and (len(moves) > 1 or above is not None):
        raise click.UsageError("--approve none goes with nothing else")
    if path is not None:
        chosen = read_one(path, "guards", policy_pb2.Guards)
    else:
        chosen = _current(session, change)
        needs = policy_pb2.ApprovalRules(
            start="start" in moves,
            promote="promote" in moves,
            widen="widen" in moves,
            above=above,
        )
        chosen.approvals.CopyFrom(needs)
    _set(session, change, chosen, "set the guards")


@freeze.command("list")
@reads
def list_freezes(session: Session, service: str) -> None:
    """List the freezes."""
    policy = session.policy(service)
    document = {
        "service_key": service,
        "revision": policy.revision,
        "freezes": render.documents(policy.guards.freezes),
    }
    session.show(document, lambda: [policy_tables.freezes(policy)])


@freeze.command("add")
@writes
@click.argument("name")
@click.option("--start", required=True, metavar="TIME", help="Local time, as 2026-12-20T00:00.")
@click.option("--end", required=True, metavar="TIME", help="First moment after it, likewise.")
@click.option("--time-zone", required=True, metavar="ZONE", help="Of both, as Europe/Berlin.")
def add_freeze(
    session: Session, change: admin_pb2.Change, name: str, start: str, end: str, time_zone: str
) -> None:
    """Refuse starts, raises, promotions, and rules and lists that may widen the canary, for a time.

    The reason is told to whoever asks.
    """
    found = _current(session, change)
    if name in {freeze.name for freeze in found.freezes}:
        raise Refusal(
            "already-exists", f"there is a freeze {name!r}", "remove it first, or name another"
        )
    found.freezes.add(name=name, start=start, end=end, time_zone=time_zone, reason=change.reason)
    _set(session, change, found, f"added freeze {name}")


@freeze.command("remove")
@writes
@click.argument("name")
def remove_freeze(session: Session, change: admin_pb2.Change, name: str) -> None:
    """End a freeze, or call it off."""
    found = _current(session, change)
    kept = [freeze for freeze in found.freezes if freeze.name != name]
    if len(kept) == len(found.freezes):
        names = render.listed(freeze.name for freeze in found.freezes) or "none"
        raise Refusal(
            "not-found",
            f"there is no freeze {name!r}; there is: {names}",
            f"canaryctl freeze list {change.service_key}",
        )
    chosen = policy_pb2.Guards(approvals=found.approvals, freezes=kept)
    _set(session, change, chosen, f"removed freeze {name}")


@click.command(cls=Verb)
@writes
@click.argument("move", type=choice(_MOVES))
@click.argument("version")
@click.option("--percentage", type=PERCENTAGE, help="Up to which share; for start and raise.")
@click.option("--valid", type=DURATION, help="For how long: 90m, 12h, 7d. [a day]")
def approve(
    session: Session,
    change: admin_pb2.Change,
    move: str,
    version: str,
    percentage: float | None,
    valid: int | None,
) -> None:
    """Consent to somebody else's MOVE of VERSION; one consent serves one move, none of your own."""
    if (move in ("promote", "widen")) != (percentage is None):
        raise click.UsageError("--percentage goes with start and raise, and must be given there")
    request = admin_pb2.ApproveRequest(
        change=change,
        move=value_of(_MOVES, move),
        version=version,
        percentage=percentage or 0.0,
        valid_s=valid or 0,
    )
    answer = session.call(session.admin.Approve, request)
    limit = "" if percentage is None else f" up to {render.percent(percentage)}"
    # Who asks for the move is not known before it is made.
    said = f"approved {move} of {version}{limit} by anybody but you: {answer.id}"
    session.tell_written(answer, change, said, id=answer.id)


@approvals.command("list")
@reads
def list_approvals(session: Session, service: str) -> None:
    """List the consents that nobody has used yet."""
    policy = session.policy(service)
    document = {
        "service_key": service,
        "revision": policy.revision,
        "approvals": render.documents(policy.approvals),
    }
    session.show(document, lambda: [policy_tables.approvals(policy)])


@approvals.command("withdraw")
@writes
@click.argument("id_", metavar="ID", required=False)
@click.option("--all", "everything", is_flag=True, help="Each one there is.")
def withdraw(session: Session, change: admin_pb2.Change, id_: str | None, everything: bool) -> None:
    """Take a consent back."""
    if (id_ is not None) == everything:
        raise click.UsageError("give the ID of an approval, or --all")
    ids = [id_] if id_ is not None else _ids(session, change)
    for each in ids:
        request = admin_pb2.WithdrawApprovalRequest(change=change, id=each)
        answer = session.call(session.admin.WithdrawApproval, request)
        change.expected_revision = answer.revision
    session.tell_written(answer, change, f"withdrew approval {render.listed(ids)}")


def _ids(session: Session, change: admin_pb2.Change) -> list[str]:
    """Those of all approvals, at least one; ``change`` is for the revision that has them."""
    policy = session.policy(change.service_key)
    if not change.HasField("expected_revision"):
        change.expected_revision = policy.revision
    if not policy.approvals:
        raise Refusal(
            "not-found",
            f"{change.service_key} has no approvals",
            f"canaryctl approvals list {change.service_key}",
        )
    return [approval.id for approval in policy.approvals]


def _current(session: Session, change: admin_pb2.Change) -> policy_pb2.Guards:
    """The guards as they are, and ``change`` made for the revision that they were read from."""
    policy = session.policy(change.service_key)
    if not change.HasField("expected_revision"):
        change.expected_revision = policy.revision
    return policy.guards


def _set(session: Session, change: admin_pb2.Change, chosen: policy_pb2.Guards, said: str) -> None:
    request = admin_pb2.SetGuardsRequest(change=change, guards=chosen)
    answer = session.call(session.admin.SetGuards, request)
    session.tell_written(answer, change, said)
