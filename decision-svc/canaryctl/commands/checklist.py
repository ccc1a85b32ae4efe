"""``checklist``: what people see to before a release goes on."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

import click
import yaml
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2

from canaryctl import render
from canaryctl.options import Noun, Verb, reads, writes
from canaryctl.session import Session

HEADINGS = ("item", "group", "by", "at")


@click.group(cls=Noun)
def checklist() -> None:
    """The checklist of a plan: what people see to before a release goes on."""


@checklist.command("template", cls=Verb)
@click.pass_obj
def template(session: Session) -> None:
    """Print a checklist to put into a plan. Needs no service."""
    text = files("canaryctl.data").joinpath("checklist.yaml").read_text("utf-8")
    session.show(yaml.safe_load(text), lambda: [text])


@checklist.command("show")
@reads
def show(session: Session, service: str) -> None:
    """Show the plan's checklist: what is ticked off, by whom and when."""
    policy = session.policy(service)
    session.show(
        {"service_key": service, "items": list(_items(policy))},
        lambda: [render.section("checklist", HEADINGS, map(_row, _items(policy)))],
    )


@checklist.command("tick")
@writes
@click.argument("item")
def tick(session: Session, change: admin_pb2.Change, item: str) -> None:
    """Tick ITEM off, for the release in force."""
    _set(session, change, item, untick=False)


@checklist.command("untick")
@writes
@click.argument("item")
def untick(session: Session, change: admin_pb2.Change, item: str) -> None:
    """Take the tick of ITEM back."""
    _set(session, change, item, untick=True)


def _set(session: Session, change: admin_pb2.Change, item: str, *, untick: bool) -> None:
    request = admin_pb2.TickChecklistRequest(change=change, item=item, untick=untick)
    answer = session.call(session.admin.TickChecklist, request)
    said = f"took the tick of {item!r} back" if untick else f"ticked {item!r} off"
    session.tell_written(answer, change, said)


def _items(policy: policy_pb2.Policy) -> Iterator[dict[str, str]]:
    ticks = {tick.item: tick for tick in policy.release.ticks}
    for item in policy.plan.checklist:
        found = {"item": item.name, "group": item.group}
        if (ticked := ticks.get(item.name)) is not None:
            found |= {"by": ticked.by, "at": render.moment(ticked.at)}
        yield found


def _row(item: dict[str, str]) -> tuple[str, ...]:
    return tuple(item.get(name, render.NOTHING) for name in HEADINGS)
