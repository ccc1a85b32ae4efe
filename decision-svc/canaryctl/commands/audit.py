"""``audit``: who changed what, for ever, and whether all of it is still there."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from canary.admin.v1 import admin_pb2
from canary_engine.pseudonyms import hashing

from canaryctl import chain, render
from canaryctl.chain import Broken, Chain, Entry
from canaryctl.errors import Misuse, Refusal, Trouble
from canaryctl.files import text_of
from canaryctl.options import Noun, Verb, service_keys
from canaryctl.session import Session

_NONE = "what belongs to no service key"


@click.group(cls=Noun)
def audit() -> None:
    """Audit trail: every change, in a chain in which each entry seals those before it.

    Each service key has a chain. Without SERVICE it is the one of what belongs to no service
    key, such as profiles.
    """


_service = click.argument("service", default="", shell_complete=service_keys)
_after = click.option(
    "--after", type=click.IntRange(0), default=0, metavar="N", help="Only what is after entry N."
)


@audit.command("list", cls=Verb)
@_service
@_after
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N")
@click.option("--changes", is_flag=True, help="Show what every field was before and after.")
@click.pass_obj
def list_(session: Session, service: str, after: int, limit: int, changes: bool) -> None:
    """List the newest entries, oldest first."""
    found = list(deque(_entries(session, service, after), limit))
    if not found and service:
        session.check_known(service)
    document = {
        "service_key": service,
        "entries": [{"sequence": e.sequence, "hash": e.hash, "entry": e.said} for e in found],
    }
    session.show(document, lambda: _page(service, found, changes))


@audit.command("export", cls=Verb)
@_service
@_after
@click.pass_obj
def export(session: Session, service: str, after: int) -> None:
    """Write entries as JSON lines, for keeping them where nobody edits.

    Each line has sequence, hash and entry, the text that was hashed: audit verify --file reads it.
    """
    entry = None
    for entry in _entries(session, service, after):
        click.echo(chain.written(entry))
    if entry is None and service:
        session.check_known(service)


@audit.command("verify", cls=Verb)
@_service
@click.option("--head", default="", metavar="HASH", help="A head noted earlier, to be found.")
@click.option("--file", "-f", "path", metavar="FILE", help="An export, whole (- is stdin).")
@click.pass_obj
def verify(session: Session, service: str, head: str, path: str | None) -> None:
    """Recompute the chain: has an entry been edited, removed, inserted or moved?

    Says which is the first that is wrong, and exits with 1. Otherwise prints the head, the
    newest hash: note it elsewhere and give it as --head next time, for without it nobody can
    tell whether the newest entries were removed together with their revisions.
    """
    given = head.strip().lower()
    if path is not None:
        verified = _verified(_of_file(path), Chain(service or None, given))
    else:
        revision = _newest_revision(session, service)
        entries = _entries(session, service, with_documents=True)
        verified = _verified(entries, Chain(service, given), revision)
    if not verified.entries and (service or path is not None):
        raise _nothing(path or service)
    document: dict[str, Any] = {
        "service_key": verified.service_key or "",
        "entries": verified.entries,
        "head": verified.head,
    }
    if verified.first_revision > 1:
        document["first_revision"] = verified.first_revision
    session.show(document, lambda: ["\n".join(_whole(verified))])


@audit.command("mark", cls=Verb)
@_service
@click.argument("text")
@click.pass_obj
def mark(session: Session, service: str, text: str) -> None:
    """Show the mark that stands for TEXT in the trail: a user id, an address, the value of a rule.

    So whoever has a candidate can look for it. Give "" as SERVICE for what belongs to none, and an
    address in its shortest form. Somebody has another mark in another trail.
    """
    first = next(_entries(session, service), None)
    if first is None:
        raise _nothing(service or _NONE)
    found = hashing(str(first.said.get("salt", "")))(text)
    session.show({"service_key": service, "mark": found}, lambda: [found])


def _whole(verified: Chain) -> Iterator[str]:
    count = render.counted(verified.entries, "entry", "entries")
    yield f"{verified.service_key or _NONE}: {count}, whole"
    yield f"head: {verified.head or 'none'}"
    if verified.first_revision > 1:
        yield (
            f"begins with revision {verified.first_revision}: what was changed before is not in "
            "it; if that is news, compare with a head or an export from before"
        )


def _nothing(where: str) -> Refusal:
    return Refusal(
        "not-found",
        f"{where}: there is no entry to verify: nothing was ever changed there, or the trail was "
        "removed together with the policy and its history",
        "check the name (canaryctl status lists what there is); if there was a trail, an earlier "
        "export (canaryctl audit verify --file) says what it held",
    )


def _verified(entries: Iterator[Entry], found: Chain, stored_revision: int = 0) -> Chain:
    try:
        for entry in entries:
            found.add(entry)
        found.end(stored_revision)
    except Broken as broken:
        raise Trouble(
            "tampered",
            str(broken),
            "compare with the latest export (canaryctl audit verify --file) to learn what was "
            "there, and find out who can write to the store",
        ) from broken
    return found


def _entries(
    session: Session, service: str, after: int = 0, *, with_documents: bool = False
) -> Iterator[Entry]:
    request = admin_pb2.ListAuditRequest(
        service_key=service, after_sequence=after, with_documents=with_documents
    )
    for answer in session.client.stream(session.admin.ListAudit, request):
        for found in answer.entries:
            yield Entry(
                sequence=found.sequence,
                entry=found.entry,
                hash=found.hash,
                stored_document=found.stored_document,
            )


def _of_file(path: str) -> Iterator[Entry]:
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            try:
                yield chain.read(line)
            except ValueError as error:
                raise Misuse(f"{path}: line {number} is no line of an export: {error}") from error


def _newest_revision(session: Session, service: str) -> int:
    """That of the policy or of its history, whichever is newer; 0 if there is neither."""
    if not service:
        return 0
    newest = 0
    with _unless_unknown():
        newest = session.policy(service).revision
    with _unless_unknown():
        request = admin_pb2.ListChangesRequest(service_key=service, limit=1)
        for change in session.call(session.admin.ListChanges, request).changes:
            newest = max(newest, change.revision)
    return newest


@contextmanager
def _unless_unknown() -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        if refusal.code != "not-found":
            raise


def _page(service: str, entries: list[Entry], changes: bool) -> Iterator[str]:
    headings = ("entry", "revision", "at", "who", "from", "what", "why")
    rows = [(e.sequence, *_row(e.said)) for e in entries]
    yield render.section(f"audit of {service or _NONE}", *render.filled(headings, rows))
    if changes:
        yield from (_changes(entry) for entry in entries if entry.said.get("changes"))


def _row(said: Any) -> tuple[object, ...]:
    who = said.get("actor", "")
    how = said.get("how", "")
    return (
        said.get("revision", ""),
        said.get("at", ""),
        f"{who} ({how})" if how not in ("", "insecure") else who,
        said.get("peer", ""),
        said.get("summary", ""),
        said.get("reason", ""),
    )


def _changes(entry: Entry) -> str:
    lines = [f"entry {entry.sequence}"]
    lines += [
        f"  {render.cell(c.get('path', ''))}: {_value(c, 'before')} -> {_value(c, 'after')}"
        for c in entry.said["changes"]
    ]
    if more := entry.said.get("more"):
        lines.append(f"  and {more:,} fields more")
    return "\n".join(lines)


def _value(change: Any, side: str) -> str:
    if side not in change:
        return "nothing"
    return render.cell(json.dumps(change[side], ensure_ascii=False))
