"""The page about canaryctl is true: each example runs, and each command has an example."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from canaryctl.app import cli
from click.testing import CliRunner
from support.overrides import key_file
from support.redis_server import running_redis
from support.service import serve_in_thread

PAGE = (Path(__file__).parents[2] / "docs" / "canaryctl.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    line for kind, block in BLOCK.findall(PAGE) if kind == "sh" for line in block.splitlines()
]


def files() -> Iterator[tuple[str, str]]:
    for kind, block in BLOCK.findall(PAGE):
        if kind in ("yaml", "text"):
            title, _, content = block.partition("\n")
            yield title.removeprefix("# "), content


def run(line: str) -> None:
    """Run a command line of the page, its ``< file`` and ``> file`` too."""
    words = shlex.split(line)
    said = after(words, "<")
    written = after(words, ">")
    arguments = words[1 : min((words.index(w) for w in "<>" if w in words), default=None)]
    text = Path(said).read_text() if said else None
    result = CliRunner().invoke(cli, arguments, input=text)
    assert (result.exit_code, result.stderr) == (0, ""), line
    if written:
        Path(written).write_text(result.stdout)


def after(words: list[str], mark: str) -> str | None:
    return words[words.index(mark) + 1] if mark in words else None


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The service's settings for a store of its own."""
    if request.param == "memory":
        yield {}
        return
    with running_redis() as redis:
        yield {"redis_url": redis.url, "store_deadline_ms": 10_000}


def test_every_example_of_the_page_runs_in_its_order(
    store: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARYCTL_ACTOR", "reader")
    for name, content in files():
        Path(name).write_text(content)
    with serve_in_thread(override_key=key_file(tmp_path), **store) as service:
        monkeypatch.setenv("CANARYCTL_ADDRESS", service.admin_address)
        for line in EXAMPLES:
            run(line)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def test_every_command_has_an_example_on_the_page() -> None:
    shown = [tuple(shlex.split(line)[1:]) for line in EXAMPLES]
    missing = [
        path for path in commands(cli) if not any(words[: len(path)] == path for words in shown)
    ]
    assert missing == []
