"""canaryctl as an operator runs it, in the test's own process, and a service for it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from canaryctl.app import cli
from click.testing import CliRunner, Result
from decision_svc.app import Running

from support.process_wide import put_back
from support.service import serve_in_thread


@contextmanager
def silent_service(**settings: Any) -> Iterator[Running]:
    """A service that logs nowhere: the test's stdout is for canaryctl's answers alone."""
    with put_back():  # another service of the same test may be silent, too
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
        with serve_in_thread(**settings) as running:
            yield running


class Ctl:
    """canaryctl as ``kim``, word by word."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(cli, ["--address", self.address, "--actor", "kim", *words])

    def told(self, *words: str) -> Any:
        """What it answers a script."""
        result = self(*words, "--output", "json")
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)


class Canaryctl:
    """canaryctl as ``kim`` or another, about one service key."""

    def __init__(self, address: str, service_key: str, actor: str = "kim") -> None:
        self.address, self.shop, self.actor = address, service_key, actor

    def __call__(self, line: str, text: str | None = None) -> Result:
        """Run a line; SHOP in it is the service key, quotes hold no blanks."""
        words = [self.shop if word == "SHOP" else word for word in line.split()]
        start = ["--address", self.address, "--actor", self.actor]
        return CliRunner().invoke(cli, [*start, *words], input=text)

    def ok(self, line: str, text: str | None = None) -> str:
        result = self(line, text)
        assert (result.exit_code, result.stderr) == (0, ""), line
        return result.stdout

    def read(self, line: str) -> Any:
        return json.loads(self.ok(f"{line} --output json"))

    def refused(self, line: str, exit_code: int, text: str | None = None) -> dict[str, str]:
        result = self(f"{line} --output json", text)
        assert (result.exit_code, result.stdout) == (exit_code, ""), result.output
        error: dict[str, str] = json.loads(result.stderr)["error"]
        assert all(error.values())
        return error

    def with_release(self) -> Canaryctl:
        """Two versions, and a release of the second at 5 %: revision 3."""
        self.ok("version register SHOP v1 --status stable --upstream old --reason x")
        self.ok("version register SHOP v2 --upstream new --reason x")
        self.ok("release start SHOP v2 --percentage 5 --reason x")
        return self
