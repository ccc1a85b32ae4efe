"""``token``: a new token for the access file; the service never sees it before it is used."""

from __future__ import annotations

import hashlib
import json
import secrets

import click

from canaryctl import render
from canaryctl.options import Noun
from canaryctl.session import Session

BITS = 256


@click.group(cls=Noun)
def token() -> None:
    """Tokens that callers show."""


@token.command("new")
@click.option("--name", required=True, help="Who will be known by it.")
@click.option(
    "--role",
    type=click.Choice(["viewer", "operator", "admin", "gateway"]),
    default="viewer",
    show_default=True,
    help="What they may do.",
)
@click.option("--service", default="*", help="For which service key. [every one]")
@click.pass_obj
def new(session: Session, name: str, role: str, service: str) -> None:
    """Print a new token, and the line that goes into the access file.

    The token is printed once and kept nowhere; the line holds only its hash.
    """
    if role == "gateway" and service != "*":
        raise click.UsageError("the role gateway is for every service key: leave --service out")
    made = f"canary_{secrets.token_urlsafe(BITS // 8)}"
    sha256 = hashlib.sha256(made.encode()).hexdigest()
    entry: dict[str, object] = {"name": name, "sha256": sha256, "roles": {service: role}}
    session.show({"token": made, "entry": entry}, lambda: [made, f"- {_line(entry)}"])


def _line(entry: dict[str, object]) -> str:
    """JSON, which is YAML too, whatever the names are."""
    return render.cell(json.dumps(entry, ensure_ascii=False))
