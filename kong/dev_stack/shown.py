"""Runs canaryctl before the eyes of people: the command, then what it says."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from dev_stack.gateways import command

PATIENCE_S = 60


def canaryctl(address: str, *arguments: str, lines: int | None = None, actor: str = "demo") -> int:
    """Run it and show so many lines of what it says, None: all. Its exit code.

    On a terminal it writes there itself, for then it knows how wide that is.
    """
    print(f"   $ canaryctl {shlex.join(_short(argument) for argument in arguments)}", flush=True)
    called = command("canaryctl", "--address", address, "--actor", actor, *arguments)
    if lines is None and sys.stdout.isatty():
        return subprocess.run(called, check=False, timeout=PATIENCE_S).returncode
    done = subprocess.run(called, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    for line in (done.stdout + done.stderr).rstrip().splitlines()[:lines]:
        print(f"     {line}")
    return done.returncode


def _short(argument: str) -> str:
    """A file below this folder, as one would type it there."""
    path = Path(argument)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else argument
