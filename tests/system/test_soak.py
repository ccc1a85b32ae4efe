"""Memory stays flat: load without an end, and a gateway that reloads every second.

``make soak`` runs it for five minutes and shows the curve; the suite runs the same for a while.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.admin import admin_of
from support.chaos import Chaos, chaos_stack, stored, users_of
from support.load import User, load

SOAK_S = float(os.environ.get("SOAK_SECONDS", "20"))
RELOAD_EVERY_S = 1.0
# Until caches, pools and the allocator have what they need; growth is measured from here on.
WARM_S = min(SOAK_S / 2, 30.0)
# Each reload leaves an instance, which is dropped after 15 minutes: some kB each.
GROWTH_KB, GROWTH_KB_A_RELOAD = 4_096, 16
# Fewer than there are reloads. gRPC starts threads where those that it has wait for the processor.
MORE_FDS, MORE_THREADS = 16, 4
SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a plugin server holds at a moment."""

    after_s: float
    reloads: int
    answered: int
    supervisor_kb: int
    worker_kb: int
    fds: int
    threads: int
    instances: int
    in_progress: int

    def __str__(self) -> str:
        parts = (
            f"{self.after_s:6.1f} s: worker {self.worker_kb} kB",
            f"supervisor {self.supervisor_kb} kB",
            f"{self.fds} fds",
            f"{self.threads} threads",
            f"{self.instances} instances",
            f"{self.in_progress} events in progress",
            f"{self.reloads} reloads",
            f"{self.answered} answers",
        )
        return ", ".join(parts)


@pytest.fixture(scope="module")
def stack() -> Iterator[Chaos]:
    with chaos_stack() as running:
        yield running


@pytest.fixture(scope="module")
def users(stack: Chaos) -> list[User]:
    with admin_of(stack.admin_address) as admin:
        return users_of(stored(admin))


async def test_memory_connections_and_instances_stay_bounded_while_the_gateway_reloads(
    stack: Chaos, users: list[User]
) -> None:
    looks: list[Look] = []
    async with load(stack.gateway.address, users, rest_s=0, is_kept=False) as found:
        began = time.monotonic()
        for reloads in range(int(SOAK_S / RELOAD_EVERY_S)):
            looks.append(look(stack, time.monotonic() - began, reloads, found.answered))
            await asyncio.to_thread(stack.gateway.reload)
            # The rhythm of the reloads is what is tested.
            await asyncio.sleep(began + (reloads + 1) * RELOAD_EVERY_S - time.monotonic())
        looks.append(look(stack, time.monotonic() - began, len(looks), found.answered))
    print(*shown(looks), sep="\n")
    found.check()
    assert stack.undecided() == {}
    warm, last = next(at for at in looks if at.after_s >= WARM_S), looks[-1]
    told = "\n".join(map(str, shown(looks)))
    reloads = last.reloads - warm.reloads
    assert last.worker_kb - warm.worker_kb < GROWTH_KB + GROWTH_KB_A_RELOAD * reloads, told
    assert last.supervisor_kb == pytest.approx(warm.supervisor_kb, abs=512), told
    assert last.fds - warm.fds <= MORE_FDS, told
    assert last.threads - warm.threads <= MORE_THREADS, told
    assert last.instances <= last.reloads + 2, told
    assert last.in_progress <= found.clients, told


def look(stack: Chaos, after_s: float, reloads: int, answered: int) -> Look:
    """What the plugin server holds now."""
    worker, samples = stack.workers[-1], stack.plugin_samples()
    return Look(
        after_s=after_s,
        reloads=reloads,
        answered=answered,
        supervisor_kb=status_of(stack.plugin.pid, "VmRSS"),
        worker_kb=status_of(worker, "VmRSS"),
        fds=len(os.listdir(f"/proc/{worker}/fd")),
        threads=status_of(worker, "Threads"),
        instances=int(samples["canary_plugin_instances"]),
        in_progress=int(samples["canary_plugin_events_in_progress"]),
    )


def status_of(pid: int, name: str) -> int:
    """A figure that the kernel keeps of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def shown(looks: Sequence[Look]) -> list[Look]:
    """Some of them, first and last among them."""
    return [*looks[:: max(len(looks) // SHOWN, 1)], looks[-1]]
