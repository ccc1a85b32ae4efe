"""The page on architecture is true: the files that it leads through are there, few and short."""

from __future__ import annotations

import re

import pytest
from support.stack import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
FILE = re.compile(r"`([\w/-]+\.(?:py|lua))`")
LONGEST_LINES = 350
TRACKED = [
    str(path.relative_to(ROOT))
    for folder in ("decision-svc", "plugin", "kong", "protos")
    for path in (ROOT / folder).rglob("*.*")
]


def walk(title: str) -> list[str]:
    """The files of a walk, in its order: the first of each step."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. (.*(?:\n   .*)*)", section, re.MULTILINE)
    return [FILE.findall(step)[0] for step in steps]


@pytest.mark.parametrize(("title", "count"), [("Follow one request", 7), ("Follow one release", 6)])
def test_a_walk_leads_through_a_few_short_files(title: str, count: int) -> None:
    files = walk(title)
    assert len(set(files)) == len(files) == count
    for name in files:
        assert len((ROOT / name).read_text().splitlines()) <= LONGEST_LINES, name


def test_every_file_that_the_page_names_is_there() -> None:
    names = set(FILE.findall(PAGE))
    assert len(names) > 40
    assert [name for name in names if not any(is_it(path, name) for path in TRACKED)] == []


def is_it(path: str, name: str) -> bool:
    return path == name or path.endswith(f"/{name}")
