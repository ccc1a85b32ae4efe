"""The controller leaves a report of each release in a folder, whole, whatever its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from canary_controller.reports import ReportFiles, file_name
from canary_engine.errors import CanaryError
from canary_engine.model import Variant
from canary_report.story import Change, Story
from support.stories import START, at, rolled_back


class Known:
    """What the service knows of the story, or that it cannot be asked."""

    def __init__(self, story: Story, *, is_up: bool = True) -> None:
        self.story, self.is_up = story, is_up
        self.since: datetime | None = None

    async def exposure(self, service_key: str, release_id: str) -> Mapping[Variant, int]:
        """See Histories."""
        if not self.is_up:
            raise CanaryError("the service cannot be reached")
        return self.story.exposure

    async def changes(self, service_key: str, since: datetime | None) -> Sequence[Change]:
        """See Histories."""
        self.since = since
        return self.story.changes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_report_is_left_in_both_forms(tmp_path: Path) -> None:
    story, folder = rolled_back(), tmp_path / "reports" / "new"
    known = Known(story)
    await ReportFiles(folder, known, now=lambda: at(54)).write(story.policy, story.record)
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkout@r-7f3a.html",
        "checkout@r-7f3a.md",
    ]
    told = (folder / "checkout@r-7f3a.md").read_text("utf-8")
    assert told.startswith("# checkout 2.0.0: rolled back\n")
    assert "1,843 users" in told
    assert "weekly release" in told
    assert (folder / "checkout@r-7f3a.html").read_text("utf-8").startswith("<!doctype html>")
    assert known.since == START


async def test_a_second_report_replaces_the_first_as_a_whole(tmp_path: Path) -> None:
    story = rolled_back()
    files = ReportFiles(tmp_path, Known(story), now=lambda: at(54))
    await files.write(story.policy, story.record)
    await files.write(story.policy, replace(story.record, verdict="pass"))
    assert "last word: pass" in (tmp_path / "checkout@r-7f3a.md").read_text("utf-8")
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("trouble", ["service", "folder"])
async def test_a_trouble_is_logged_and_keeps_nothing_from_going_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    story, folder = rolled_back(), tmp_path / "file"
    if trouble == "folder":
        folder.write_text("this is no folder")
    files = ReportFiles(folder, Known(story, is_up=trouble != "service"), now=lambda: at(54))
    await files.write(story.policy, story.record)
    assert "a report could not be written" in capsys.readouterr().out


def test_no_name_leads_out_of_the_folder() -> None:
    found = [
        file_name(key, release)
        for key, release in (
            ("shop", "r1"), ("../../etc/passwd", "r1"), ("..", ".."), ("a/b", "c"), ("a", "b/c"),
            ("x" * 500, "r1"), ("x" * 500, "r2"), ("shop", ""),
        )
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    for name in found:
        assert "/" not in name
        assert name not in (".", "..")
        assert len(name.encode()) < 250
