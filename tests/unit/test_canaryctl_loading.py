"""The command line has every command, and loads no other one than it runs."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from canaryctl.app import cli
from canaryctl.commands import Commands

SCRIPT = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, sep="\\n"))
from canaryctl.app import cli
cli.main(["whoami", "--help"])
"""


@pytest.mark.parametrize("name", list(cli.commands))
def test_a_command_is_found_by_the_name_that_it_has(name: str) -> None:
    assert cli.commands[name].name == name
    assert cli.commands[name] is cli.commands[name]


def test_a_command_loads_no_other_one() -> None:
    run = [sys.executable, "-c", SCRIPT]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    prefix = "canaryctl.commands."
    commands = {name.removeprefix(prefix) for name in shown if name.startswith(prefix)}
    assert commands == {"whoami", "completion"}
    assert not [name for name in shown if name.startswith("canary_engine.")]


def test_commands_can_be_added_and_taken_away() -> None:
    commands = Commands()
    known = list(commands)
    added = commands["more"] = click.Command("more")
    assert (list(commands), commands["more"]) == ([*known, "more"], added)
    del commands["more"]
    assert (list(commands), commands.get("more")) == (known, None)
