"""The whole command line: every noun in one group, and every failure told in one place."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

import click

from canaryctl import errors
from canaryctl.commands import Commands
from canaryctl.commands.completion import COMPLETE_VARIABLE
from canaryctl.errors import Misuse, Trouble
from canaryctl.options import Noun, global_options
from canaryctl.session import Session

PROGRAM = "canaryctl"


class Root(Noun):
    """A group that ends the process itself: no traceback, the exit codes of ``errors``."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run the command line and leave."""
        argv = list(sys.argv[1:] if args is None else args)
        _write_any_text()
        try:
            if COMPLETE_VARIABLE in os.environ:
                super().main(argv, PROGRAM, COMPLETE_VARIABLE)
            code = self._run(argv)
            sys.stdout.flush()
        except BrokenPipeError:
            code = _nobody_reads()
        except Trouble as trouble:
            code = _tell(trouble, argv)
        except (KeyboardInterrupt, click.Abort):
            code = _tell(Trouble("interrupted", "interrupted", _INTERRUPTED_NEXT), argv)
        except UnicodeEncodeError:
            code = _tell(Misuse("an argument is not UTF-8 text"), argv)
        except Exception as error:
            code = _tell(_bug(error), argv)
        sys.exit(code)

    def _run(self, argv: list[str]) -> int:
        try:
            with self.make_context(PROGRAM, list(argv)) as ctx:
                self.invoke(ctx)
        except click.exceptions.Exit as left:
            return left.exit_code
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return errors.MISUSED
        except click.ClickException as error:
            raise errors.usage(error) from error
        return errors.OK


_INTERRUPTED_NEXT = "a write may have been made all the same: see canaryctl history SERVICE"


def _write_any_text() -> None:
    """Show what the terminal's encoding lacks, rather than fail over it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nobody_reads() -> int:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return errors.BROKEN_PIPE


def _bug(error: Exception) -> Trouble:
    return Trouble(
        "internal",
        f"canaryctl itself failed: {type(error).__name__}: {error}",
        "this is a mistake in canaryctl: report it with the command line",
    )


def _tell(trouble: Trouble, argv: Sequence[str]) -> int:
    told = errors.as_json(trouble) if _wants_json(argv) else errors.as_text(trouble)
    try:
        click.echo(told, err=True)
    except BrokenPipeError:
        return _nobody_reads()
    return trouble.exit_code


def _wants_json(argv: Sequence[str]) -> bool:
    """Whether errors are for a script, even when the command line does not parse."""
    return "--output=json" in argv or ("--output", "json") in pairwise(argv)


def _hang_up(ctx: click.Context) -> Session:
    session = ctx.ensure_object(Session)
    ctx.call_on_close(session.close)
    return session


@click.group(
    PROGRAM,
    cls=Root,
    commands=Commands(),
    params=global_options(is_root=True),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="canary-release", prog_name=PROGRAM)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Steer canary releases through the decision service's admin API.

    The global options may stand before or after a command. Exit codes: 0 ok, 1 refused,
    2 usage or invalid argument, 3 lost race, 4 unavailable or too late, 5 anything else.
    """
    _hang_up(ctx)
