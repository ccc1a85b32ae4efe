"""``whitelist``: the addresses, users and consumers that always get the canary."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2

from canaryctl import policy_tables, render
from canaryctl.files import read_one
from canaryctl.options import Command, Noun, file_option, reads, writes
from canaryctl.session import Session


@click.group(cls=Noun)
def whitelist() -> None:
    """Whitelist: addresses, users and consumers that always get the canary."""


def _entries(command: Callable[..., None]) -> Command:
    @click.option("--ip", multiple=True, help="Address or network; repeat for more.")
    @click.option("--user", multiple=True, help="User id; repeat for more.")
    @click.option("--consumer", multiple=True, help="Kong consumer; repeat for more.")
    @file_option("Entries: ips, users, consumers")
    @wraps(command)
    def run(
        *args: Any,
        ip: tuple[str, ...],
        user: tuple[str, ...],
        consumer: tuple[str, ...],
        path: str | None,
    ) -> None:
        entries = policy_pb2.Whitelist(ips=ip, users=user, consumers=consumer)
        if path is not None:
            entries.MergeFrom(read_one(path, "whitelist", policy_pb2.Whitelist))
        elif not entries.ListFields():
            raise click.UsageError("name entries with --ip, --user, --consumer or --file")
        command(*args, entries)

    return run


def _count(entries: policy_pb2.Whitelist) -> str:
    count = len(entries.ips) + len(entries.users) + len(entries.consumers)
    return render.counted(count, "entry", "entries")


@whitelist.command("show")
@reads
def show(session: Session, service: str) -> None:
    """Show the whitelist."""
    policy = session.policy(service)
    document = {
        "service_key": service,
        "revision": policy.revision,
        "whitelist": render.document(policy.whitelist),
    }
    session.show(document, lambda: [policy_tables.whitelist(policy)])


@whitelist.command("set")
@writes
@_entries
def replace(session: Session, change: admin_pb2.Change, entries: policy_pb2.Whitelist) -> None:
    """Replace the whitelist; a file that says {} empties it."""
    request = admin_pb2.SetWhitelistRequest(change=change, whitelist=entries)
    answer = session.call(session.admin.SetWhitelist, request)
    session.tell_written(answer, change, f"set the whitelist to {_count(entries)}")


@whitelist.command("add")
@writes
@_entries
def add(session: Session, change: admin_pb2.Change, entries: policy_pb2.Whitelist) -> None:
    """Add entries; what is there already stays."""
    request = admin_pb2.AddToWhitelistRequest(change=change, entries=entries)
    answer = session.call(session.admin.AddToWhitelist, request)
    session.tell_written(answer, change, f"added {_count(entries)} to the whitelist")


@whitelist.command("remove")
@writes
@_entries
def remove(session: Session, change: admin_pb2.Change, entries: policy_pb2.Whitelist) -> None:
    """Remove entries."""
    request = admin_pb2.RemoveFromWhitelistRequest(change=change, entries=entries)
    answer = session.call(session.admin.RemoveFromWhitelist, request)
    session.tell_written(answer, change, f"removed {_count(entries)} from the whitelist")
