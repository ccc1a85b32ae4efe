"""``segment``: groups of users by criteria."""

from __future__ import annotations

from importlib import resources

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2

from canaryctl import policy_tables, render
from canaryctl.files import parsed, read_many
from canaryctl.options import Noun, file_option, reads, writes
from canaryctl.session import Session
from canaryctl.values import DAYS, PERCENTAGE, SETTING


@click.group(cls=Noun)
def segment() -> None:
    """Segments: groups of users, listed one by one or found by criteria."""


@segment.command("list")
@reads
def show(session: Session, service: str) -> None:
    """List the segments."""
    policy = session.policy(service)
    document = {
        "service_key": service,
        "revision": policy.revision,
        "segments": render.documents(policy.segments),
    }
    session.show(document, lambda: [policy_tables.segments(policy)])


@segment.command("defaults")
@click.pass_obj
def defaults(session: Session) -> None:
    """Print segments to start from, for: segment put SERVICE -f FILE."""
    text = resources.files("canaryctl").joinpath("data/default-segments.yaml").read_text("utf-8")
    session.show(parsed(text, "default-segments.yaml"), lambda: [text])


@segment.command("put")
@writes
@click.argument("name", required=False)
@click.option(
    "--eligible/--protected", default=None, help="Members get the canary, or always stable."
)
@click.option("--percentage", type=PERCENTAGE, help="Share of the members. [all]")
@click.option("--listed", is_flag=True, help="Users can be added one by one.")
@click.option("--tier", multiple=True, help="The user's tier; repeat for more.")
@click.option("--region", multiple=True, help="The user's region; repeat for more.")
@click.option("--tag", multiple=True, help="A tag of the user; repeat for more.")
@click.option("--registered-last-days", type=DAYS, help="Registered since N days.")
@click.option("--custom", type=SETTING, multiple=True, help="Any other attribute, name=value.")
@file_option("Segments, instead of the options")
def put(
    session: Session,
    change: admin_pb2.Change,
    name: str | None,
    eligible: bool | None,
    percentage: float | None,
    listed: bool,
    tier: tuple[str, ...],
    region: tuple[str, ...],
    tag: tuple[str, ...],
    registered_last_days: int | None,
    custom: tuple[tuple[str, str], ...],
    path: str | None,
) -> None:
    """Create or replace a segment by options, or those in a file one after the other."""
    criteria = policy_pb2.Criteria(tiers=tier, regions=region, tags=tag, custom=dict(custom))
    if registered_last_days:
        criteria.registered.last_days = registered_last_days
    given = policy_pb2.Segment(
        name=name or "",
        canary_eligible=bool(eligible),
        percentage=percentage,
        listed=listed,
        criteria=criteria if criteria.ListFields() else None,
    )
    _put_all(session, change, _chosen(path, given, eligible))


def _chosen(
    path: str | None, given: policy_pb2.Segment, eligible: bool | None
) -> list[policy_pb2.Segment]:
    if path is not None:
        if given.ListFields() or eligible is not None:
            raise click.UsageError("describe the segment by options or with --file, not both")
        found = read_many(path, "segments", policy_pb2.Segment)
        if not found:
            raise click.UsageError(f"{path} holds no segment")
        return found
    if not given.name or eligible is None:
        raise click.UsageError("give NAME and --eligible or --protected, or --file")
    return [given]


def _put_all(
    session: Session, change: admin_pb2.Change, segments: list[policy_pb2.Segment]
) -> None:
    for found in segments:
        request = admin_pb2.PutSegmentRequest(change=change, segment=found)
        answer = session.call(session.admin.PutSegment, request)
        if change.HasField("expected_revision"):
            change.expected_revision = answer.revision
    names = render.listed(found.name for found in segments)
    session.tell_written(answer, change, f"put {names}")


@segment.command("remove")
@writes
@click.argument("name")
def remove(session: Session, change: admin_pb2.Change, name: str) -> None:
    """Remove a segment and its listed members."""
    request = admin_pb2.RemoveSegmentRequest(change=change, name=name)
    answer = session.call(session.admin.RemoveSegment, request)
    session.tell_written(answer, change, f"removed segment {name}")
