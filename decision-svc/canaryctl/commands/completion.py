"""``completion``: the script that lets a shell complete commands and service keys."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from canaryctl.options import Verb

COMPLETE_VARIABLE = "_CANARYCTL_COMPLETE"


@click.command(cls=Verb)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and service keys in a shell."""
    script_class = get_completion_class(shell)
    if script_class is None:
        raise click.UsageError(f"click cannot complete for {shell}")
    script = script_class(ctx.find_root().command, {}, "canaryctl", COMPLETE_VARIABLE)
    click.echo(script.source())
