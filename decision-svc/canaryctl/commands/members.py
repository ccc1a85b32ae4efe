"""The listed members of segments: millions of user ids, in chunks, with progress on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import click
from canary.admin.v1 import admin_pb2

from canaryctl.commands.segment import segment
from canaryctl.errors import Refusal
from canaryctl.files import users_of
from canaryctl.options import file_option, reads, writes
from canaryctl.render import cell, counted
from canaryctl.session import Revised, Session

__all__ = ["segment"]

CHUNK = 10_000
"""How many users the service takes in one call."""

Send = Callable[[Sequence[str]], Revised]


@segment.command("members")
@reads
@click.argument("name", metavar="SEGMENT")
def members(session: Session, service: str, name: str) -> None:
    """List the users that were added one by one, one a line."""
    if session.is_json:
        pages = list(_pages(session, service, name))
        users = [user for page in pages for user in page.users]
        session.show(
            {"service_key": service, "segment": name, "users": users, "total": pages[-1].total},
            list,
        )
        return
    for page in _pages(session, service, name):
        for user in page.users:
            click.echo(cell(user))


def _pages(session: Session, service: str, name: str) -> Iterator[admin_pb2.ListMembersResponse]:
    request = admin_pb2.ListMembersRequest(service_key=service, segment=name)
    while True:
        page = session.call(session.admin.ListMembers, request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


@segment.command("add-members")
@writes
@click.argument("name", metavar="SEGMENT")
@click.argument("users", nargs=-1, metavar="[USER|-]...")
@file_option("User ids, one a line")
def add(
    session: Session,
    change: admin_pb2.Change,
    name: str,
    users: tuple[str, ...],
    path: str | None,
) -> None:
    """Add users to a listed segment; those there already stay."""

    def send(chunk: Sequence[str]) -> Revised:
        request = admin_pb2.AddMembersRequest(change=change, segment=name, users=chunk)
        return session.call(session.admin.AddMembers, request)

    found = users_of(users, path)
    answer = _in_chunks(session, change, found, send)
    session.tell_written(answer, change, f"added {counted(len(found), 'user')} to {name}")


@segment.command("remove-members")
@writes
@click.argument("name", metavar="SEGMENT")
@click.argument("users", nargs=-1, metavar="[USER|-]...")
@file_option("User ids, one a line")
def remove(
    session: Session,
    change: admin_pb2.Change,
    name: str,
    users: tuple[str, ...],
    path: str | None,
) -> None:
    """Remove users from a listed segment."""

    def send(chunk: Sequence[str]) -> Revised:
        request = admin_pb2.RemoveMembersRequest(change=change, segment=name, users=chunk)
        return session.call(session.admin.RemoveMembers, request)

    found = users_of(users, path)
    answer = _in_chunks(session, change, found, send)
    session.tell_written(answer, change, f"removed {counted(len(found), 'user')} from {name}")


def _in_chunks(
    session: Session, change: admin_pb2.Change, users: Sequence[str], send: Send
) -> Revised:
    """Send all users, each chunk made for the revision that the one before it made."""
    for start in range(0, len(users), CHUNK):
        try:
            answer = send(users[start : start + CHUNK])
        except Refusal as refusal:
            raise _after(start, len(users), refusal) from refusal
        if change.HasField("expected_revision"):
            change.expected_revision = answer.revision
        _tell_progress(session, min(start + CHUNK, len(users)), len(users))
    return answer


def _after(done: int, total: int, refusal: Refusal) -> Refusal:
    if not done:
        return refusal
    message = f"{refusal.message} (after {done:,} of {total:,} users, which are done)"
    return Refusal(refusal.code, message, refusal.next_step)


def _tell_progress(session: Session, done: int, total: int) -> None:
    if total > CHUNK and not session.is_json:
        click.echo(f"{done:,} of {total:,} users", err=True)
