"""The Redis adapter as its tests use it: opened for a while, and written to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from decision_svc.store.protocol import ChangeRecord, MemberEdit
from decision_svc.store.redis import RedisStore

# Servers that sync every write may take their time on a busy machine.
PATIENCE_S = 10.0


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RedisStore]:
    """A store that is closed afterwards."""
    patient = {"timeout_s": PATIENCE_S, "connect_timeout_s": PATIENCE_S}
    store = RedisStore.connect(url, **patient | options)
    try:
        yield store
    finally:
        await store.aclose()


def record(revision: int) -> ChangeRecord:
    """Who made a revision."""
    at = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
    return ChangeRecord(revision=revision, actor="ada", at=at, reason="why", summary="what")


async def write(store: RedisStore, revision: int, key: str = "shop") -> None:
    """Make a revision, which lists a user in the segment beta."""
    edit = MemberEdit(segment="beta", add=[f"u{revision}"])
    await store.save(key, {"revision": revision}, record(revision), [edit])
