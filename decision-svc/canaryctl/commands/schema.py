"""``schema``: the JSON Schemas of the files that apply and plan-lint take, for editors."""

from __future__ import annotations

from importlib import resources

import click

from canaryctl.options import Verb

KINDS = ("policy", "plan")


@click.command(cls=Verb)
@click.argument("kind", type=click.Choice(KINDS))
def schema(kind: str) -> None:
    """Print the JSON Schema of a policy file, or of a plan alone.

    Needs no service. Keep it in a file, and an editor checks what it is named in.
    """
    found = resources.files("canaryctl").joinpath(f"data/canary-{kind}.schema.json")
    click.echo(found.read_text("utf-8"), nl=False)
