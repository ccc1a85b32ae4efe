"""``profile``: what is known of a user besides the request."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from canaryctl import answer_tables, render
from canaryctl.files import read_one
from canaryctl.options import Noun, file_option, reason_option
from canaryctl.session import Session
from canaryctl.values import MOMENT, SETTING


@click.group(cls=Noun)
def profile() -> None:
    """Profiles: what is known of a user, whatever the service."""


@profile.command("get")
@click.argument("user")
@click.pass_obj
def get(session: Session, user: str) -> None:
    """Show a user's profile."""
    request = admin_pb2.GetProfileRequest(user=user)
    found = session.call(session.admin.GetProfile, request).profile
    session.show({"profile": render.document(found)}, lambda: [answer_tables.profile(found)])


@profile.command("put")
@click.argument("user")
@reason_option
@click.option("--tier", default="", help="E.g. free, premium, enterprise.")
@click.option("--registered-at", type=MOMENT, help="When the user registered.")
@click.option("--region", default="")
@click.option("--tag", multiple=True, help="Repeat for more.")
@click.option("--custom", type=SETTING, multiple=True, help="Any other attribute, name=value.")
@file_option("The profile, instead of the options")
@click.pass_obj
def put(
    session: Session,
    user: str,
    reason: str,
    tier: str,
    registered_at: Timestamp | None,
    region: str,
    tag: tuple[str, ...],
    custom: tuple[tuple[str, str], ...],
    path: str | None,
) -> None:
    """Replace a user's profile whole."""
    given = policy_pb2.Profile(
        tier=tier, registered_at=registered_at, region=region, tags=tag, custom=dict(custom)
    )
    chosen = _from_file(path, user, given) if path is not None else given
    chosen.user = user
    request = admin_pb2.PutProfileRequest(profile=chosen, actor=session.actor, reason=reason)
    session.call(session.admin.PutProfile, request)
    session.show({"user": user}, lambda: [render.cell(f"put the profile of {user}")])


def _from_file(path: str, user: str, given: policy_pb2.Profile) -> policy_pb2.Profile:
    if given.ListFields():
        raise click.UsageError("describe the profile by options or with --file, not both")
    found = read_one(path, "profile", policy_pb2.Profile)
    if found.user not in ("", user):
        raise click.UsageError(f"{path} is the profile of {found.user}, not of {user}")
    return found


@profile.command("remove")
@click.argument("user")
@reason_option
@click.pass_obj
def remove(session: Session, user: str, reason: str) -> None:
    """Forget a user's profile."""
    request = admin_pb2.RemoveProfileRequest(user=user, actor=session.actor, reason=reason)
    session.call(session.admin.RemoveProfile, request)
    session.show({"user": user}, lambda: [render.cell(f"removed the profile of {user}")])
