"""The plugin server with a Kong in front of it, and behind it a spy and the real service."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from canary_plugin.app import Settings, running
from canary_plugin.troubles import Troubles

from support.kong_side import Kong
from support.operators import Admin, administering
from support.service import NOWHERE, running_service
from support.spy import Spy, spying
from support.waiting import WITHIN_S

DATA = Path(__file__).parents[1] / "data"
SEED: dict[str, Any] = yaml.safe_load((DATA / "seed-plugin.yml").read_text())["plugins"][0][
    "config"
]
# Wide enough for a slow machine where the deadline is not what is tested.
PATIENT: dict[str, Any] = {"deadline_ms": 30_000}
PATIENT_SERVICE: dict[str, Any] = {"person_deadline_ms": 10_000, "store_deadline_ms": 10_000}
# For a service that is not there, or tells no policies: nothing is worth waiting for.
QUICK: dict[str, Any] = {"warm_up_s": 0.05}


@asynccontextmanager
async def plugin(
    *addresses: str, spread: int = 1, **settings: Any
) -> AsyncIterator[tuple[Kong, Troubles]]:
    """The real plugin server, and a Kong in front of it.

    It begins when it knows the policies and can ask, unless nobody is there or ``settings`` say
    otherwise; how often it had to try until then is forgotten, for the machine may be busy.
    """
    # Longer than any deadline of these tests: hundreds of requests at once take their time.
    settings = {"event_limit_s": WITHIN_S} | settings
    if set(addresses) != {NOWHERE}:
        settings = {"warm_up_s": WITHIN_S} | settings
    with tempfile.TemporaryDirectory(prefix="kong-") as directory:
        path = f"{directory}/plugin.sock"
        chosen = Settings(socket=path, decision_service=addresses, gateway="test", **settings)
        async with running(chosen) as troubles, Kong(path, spread=spread) as kong:
            if chosen.warm_up_s == WITHIN_S:
                for cause in ("policy-stream", "decide-stream"):
                    del troubles.counts[cause]
            yield kong, troubles


@asynccontextmanager
async def stage(
    *, spread: int = 1, is_mute: bool = False, override_key: str = "", **settings: Any
) -> AsyncIterator[tuple[Kong, Spy, Admin, Troubles]]:
    """Kong, plugin server, spy, real decision service; ``is_mute``: no policy is ever told."""
    async with AsyncExitStack() as later:
        service = await later.enter_async_context(
            running_service(override_key=override_key, **PATIENT_SERVICE)
        )
        spy, address = await later.enter_async_context(spying(service.decision_address))
        admin = await later.enter_async_context(administering(service))
        if is_mute:
            spy.is_mute = True
            settings = QUICK | settings
        kong, troubles = await later.enter_async_context(plugin(address, spread=spread, **settings))
        if is_mute:
            await answered(kong, spy, troubles)
        yield kong, spy, admin, troubles


async def answered(kong: Kong, spy: Spy, troubles: Troubles) -> None:
    """Wait until questions reach the spy, and forget those that it took."""
    instance = await kong.start(PATIENT)
    async with asyncio.timeout(WITHIN_S):
        while not spy.asked:
            await kong.access(instance)
    await kong.call("plugin.CloseInstance", instance)
    spy.asked.clear()
    troubles.counts.clear()
