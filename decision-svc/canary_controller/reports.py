"""Writes the report of a release that has ended, as Markdown and as HTML, into a folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import structlog
from canary_engine.errors import CanaryError
from canary_engine.model import Policy, Variant
from canary_engine.record import ReleaseRecord
from canary_report.html import as_html
from canary_report.markdown import as_markdown
from canary_report.story import Change, Story

DEADLINE_S = 2.0
"""Other releases wait meanwhile; canaryctl can make the same report for 90 days."""

_log = structlog.get_logger()
_LONGEST_NAME = 200


class Histories(Protocol):
    """What the admin API knows of a release besides its record; raises CanaryError or OSError."""

    async def exposure(self, service_key: str, release_id: str) -> Mapping[Variant, int]:
        """How many distinct users each variant has served; empty if that is not known."""
        ...

    async def changes(self, service_key: str, since: datetime | None) -> Sequence[Change]:
        """The changes of the policy since then, in any order; further ones do no harm."""
        ...


class ReportFiles:
    """Keeps reports in ``folder``, which is made if need be; one pair of files a release."""

    def __init__(
        self,
        folder: Path,
        histories: Histories,
        *,
        deadline_s: float = DEADLINE_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder, self._histories = folder, histories
        self._deadline_s, self._now = deadline_s, now

    async def write(self, policy: Policy, record: ReleaseRecord) -> None:
        """Write both forms; a trouble is logged and keeps nothing from going on."""
        try:
            async with asyncio.timeout(self._deadline_s):
                story = await self._story(policy, record)
                await asyncio.to_thread(self._keep, story)
        except (CanaryError, OSError) as error:
            _log.error(
                "a report could not be written",
                service_key=record.service_key,
                release_id=record.release_id,
                error=str(error) or type(error).__name__,
            )

    async def _story(self, policy: Policy, record: ReleaseRecord) -> Story:
        release = policy.release
        key, release_id = record.service_key, record.release_id
        return Story(
            record=record,
            policy=policy,
            exposure=await self._histories.exposure(key, release_id),
            changes=tuple(
                await self._histories.changes(key, release.started_at if release else None)
            ),
            made_at=self._now(),
        )

    def _keep(self, story: Story) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = file_name(story.record.service_key, story.record.release_id)
        for ending, written in ((".md", as_markdown), (".html", as_html)):
            path = self._folder / f"{name}{ending}"
            # Whoever reads it meanwhile sees the one before, or this one, and never half of it.
            half = path.with_name(f".{path.name}.{os.getpid()}")
            half.write_text(written(story), "utf-8")
            half.replace(path)


def file_name(service_key: str, release_id: str) -> str:
    """A name without path or surprise that no other release has."""
    name = quote(f"{service_key}@{release_id}", safe="@ ")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 33]}-{sha256(name.encode()).hexdigest()[:32]}"
