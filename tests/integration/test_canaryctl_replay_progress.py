"""A long replay shows how far it is to whoever looks on at a terminal, and to nobody else."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from canaryctl.replay import run

POLICY = "{service_key: shop, versions: [{version: v1, status: stable}, {version: v2}], " + (
    "release: {version: v2, percentage: 20}}"
)
AGENT = "a" * 2_000
WHEN = "24/Nov/2026:00:00:01 +0000"
ERASED = "\x1b[2K"


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "proposed.yaml"
    path.write_text(POLICY)
    return str(path)


def log_of(size: int, folder: Path) -> tuple[str, int]:
    """A log of that many bytes, or a little more, and how many lines it has."""
    lines = size // len(AGENT) + 1
    path = folder / "access.log"
    with path.open("w") as file:
        for number in range(lines):
            file.write(f'203.0.113.9 - u-{number} [{WHEN}] "GET / HTTP/1.1" 200 12 "-" "{AGENT}"\n')
    return str(path), lines


def command(policy: str, log: str, *words: str) -> list[str]:
    line = [sys.executable, "-m", "canaryctl", "replay", "--policy", policy, "--output", "json"]
    return [*line, *words, log]


def seen_on_a_terminal(line: list[str]) -> tuple[str, str]:
    """What the command says on stdout, and what it draws on the terminal that is its stderr."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        variables = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=theirs, env=variables)
        os.close(theirs)
        drawn = b""
        try:
            while some := terminal.read(65_536):
                drawn += some
        except OSError:  # how Linux says that nobody holds the other end any longer
            pass
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, drawn
    return told.decode(), drawn.decode()


@pytest.mark.parametrize(
    ("jobs", "size"),
    [("1", 4 * run.BLOCK_BYTES), ("2", 2 * run.PART_BYTES + run.BLOCK_BYTES)],
    ids=["one worker", "two workers"],
)
def test_a_terminal_shows_a_bar_that_fills_and_goes(
    policy: str, tmp_path: Path, jobs: str, size: int
) -> None:
    log, lines = log_of(size, tmp_path)
    told, drawn = seen_on_a_terminal(command(policy, log, "--jobs", jobs))
    assert json.loads(told)["requests"] == lines
    assert "replaying" in drawn
    shares = [int(share) for share in re.findall(r"(\d+) %", drawn)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 100)
    assert f"{lines:,} lines" in drawn
    assert drawn.rindex(ERASED) > drawn.rindex("replaying")


def test_a_log_without_an_end_shows_lines_and_no_share_done(policy: str, tmp_path: Path) -> None:
    log, lines = log_of(run.BLOCK_BYTES, tmp_path)
    line = " ".join(command(policy, "-", "--jobs", "1"))
    told, drawn = seen_on_a_terminal(["sh", "-c", f"cat {log} | {line}"])
    assert json.loads(told)["requests"] == lines
    assert f"{lines:,} lines" in drawn
    assert " %" not in drawn


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}])
def test_nothing_is_drawn_where_stderr_is_no_terminal(
    policy: str, tmp_path: Path, variables: dict[str, str]
) -> None:
    log, lines = log_of(run.BLOCK_BYTES, tmp_path)
    done = subprocess.run(
        command(policy, log),
        env=os.environ | {"TERM": "xterm"} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["requests"] == lines
