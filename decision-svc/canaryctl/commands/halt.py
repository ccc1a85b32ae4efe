"""``halt``: everybody gets stable, of one service or of all, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click
from canary.admin.v1 import admin_pb2

from canaryctl import answer_tables, render
from canaryctl.errors import Refusal
from canaryctl.options import Verb, expected_revision_option, reason_option, service_keys
from canaryctl.session import Session


@click.command(cls=Verb)
@click.argument("service", required=False, shell_complete=service_keys)
@click.option("--all", "everything", is_flag=True, help="Every release in progress.")
@reason_option
@expected_revision_option
@click.pass_obj
def halt(
    session: Session,
    service: str | None,
    everything: bool,
    reason: str,
    expected_revision: int | None,
) -> None:
    """Halt the release of SERVICE, or all of them: everybody gets stable.

    The releases stay, each with its percentage; canaryctl release resume lets one go on.
    """
    if (service is not None) == everything:
        raise click.UsageError("name the SERVICE to halt, or give --all")
    if service is None:
        if expected_revision is not None:
            raise click.UsageError("--expected-revision goes with a SERVICE, not with --all")
        _halt_all(session, reason)
        return
    change = admin_pb2.Change(
        service_key=service,
        expected_revision=expected_revision,
        actor=session.actor,
        reason=reason,
    )
    request = admin_pb2.MoveReleaseRequest(change=change, move=admin_pb2.MOVE_HALT)
    answer = session.call(session.admin.MoveRelease, request)
    session.tell_written(answer, change, "halted the release")


def _halt_all(session: Session, reason: str) -> None:
    request = admin_pb2.HaltAllRequest(actor=session.actor, reason=reason)
    found = session.call(session.admin.HaltAll, request).services
    session.show({"services": render.documents(found)}, lambda: _page(session.address, found))
    troubled = [halted.service_key for halted in found if halted.trouble]
    if troubled:
        raise _not_all(troubled, len(found))


def _page(address: str, found: Sequence[admin_pb2.Halted]) -> Iterator[str]:
    yield answer_tables.halted(found)
    if not found:
        where = render.cell(address)
        yield (
            f"the service at {where} knows of no release in force; if users still get a canary, "
            "ask one that has its policy: canaryctl status"
        )


def _not_all(troubled: Sequence[str], count: int) -> Refusal:
    return Refusal(
        "failed-precondition",
        f"{len(troubled)} of {count} could not be halted: {render.listed(troubled)}",
        "see what is said of each, and repeat: what is halted stays so",
    )
