"""The decision service as a process of its own, and what it logs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from decision_svc.app import Running

# Enough for several that start at once on a busy machine.
PATIENCE_S = 60.0
PORTS = ("--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0")


class Process:
    """A running ``python -m decision_svc`` and what it has logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def said(self, event: str) -> dict[str, Any]:
        """The next line about that event."""
        assert self.process.stderr
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stderr.readline()).decode():
                self.lines.append(line)
                if line.startswith("{") and json.loads(line)["event"] == event:
                    found: dict[str, Any] = json.loads(line)
                    return found
        raise AssertionError(f"it ended without {event!r}: {self.lines}")

    async def end(self) -> int:
        """The exit code, once it has said all it has to say."""
        assert self.process.stderr
        async with asyncio.timeout(PATIENCE_S):
            rest = (await self.process.stderr.read()).decode()
            self.lines += rest.splitlines()
            return await self.process.wait()


@asynccontextmanager
async def started(*options: str) -> AsyncIterator[Process]:
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "decision_svc",
            "--insecure",
            *options,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        yield process
    finally:
        if process.process.returncode is None:
            process.process.kill()
            await process.end()


async def address_of(process: Process) -> Running:
    ready = await process.said("ready")
    return Running(
        decision_address=ready["decision"],
        admin_address=ready["admin"],
        metrics_address=ready["metrics"],
    )
