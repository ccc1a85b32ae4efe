"""Waiting for what other tasks and processes make true; what does not come in time is named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

WITHIN_S = 40.0
"""Far above what anything takes, also where two suites share a slow machine."""
LOOK_EVERY_S = 0.005


async def until(
    is_true: Callable[[], object],
    what: str = "what the test waits for",
    within_s: float = WITHIN_S,
    *,
    every_s: float = LOOK_EVERY_S,
) -> None:
    """Wait for a condition, at which it looks so often. Raises AssertionError naming ``what``."""
    try:
        async with asyncio.timeout(within_s):
            while not is_true():  # noqa: ASYNC110 - the condition may be anybody's
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None
