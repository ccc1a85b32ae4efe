"""Breaches at a gateway: from the first request that fails to the last that a canary answers.

Everything is a process of its own: Redis, decision service, plugin server, controller, gateway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import grpc
from canary.admin.v1 import admin_pb2 as pb
from canary.admin.v1 import admin_pb2_grpc
from canary.policy.v1 import policy_pb2
from canary_documents import to_message
from dev_stack.stack import CANARY, CANARY_UPSTREAM, SERVICE_KEY, STABLE, Plan, Stack, declared

CLIENTS = 16
USERS = 2_000
WELL_S = 15.0
LONGEST_S = 20.0
QUIET_S = 1.0
"""So long after the end of the release, nobody is on their way to the canary any more."""
LOOK_EVERY_S = 0.1
RELEASE_PLAN = {"steps": [{"weight": 50, "hold": "1h"}], "check_interval": "1m"}
VERSIONS = [
    {"version": STABLE, "status": "stable"},
    {"version": CANARY, "backend": {"upstream": CANARY_UPSTREAM}},
]


async def breaches(run_dir: Path, rounds: int) -> list[float]:
    """Seconds from each breach to the last answer of the canary."""
    with Stack(Plan(run_dir=run_dir, controller=(), declare=_declared)) as stack:
        stack.upstreams[CANARY].stop()
        stack.start_upstream(CANARY, "--fail", "1", "--only", "x-day=bad")
        found = []
        async with grpc.aio.insecure_channel(stack.admin_address) as channel:
            stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
            async with _load(stack.gateway.address) as load:
                for _ in range(rounds):
                    await start_release(stub, SERVICE_KEY, RELEASE_PLAN, 50)
                    found.append(await _breach(load, stub))
        return found


async def start_release(
    stub: Any, service_key: str, plan: Mapping[str, Any], percentage: float
) -> None:
    """Start a release of the canary by this plan."""
    change = pb.Change(service_key=service_key, actor="bench", reason="benchmark")
    policy = to_message({"versions": VERSIONS, "plan": plan}, policy_pb2.Policy)
    await stub.Apply(pb.ApplyRequest(change=change, policy=policy))
    request = pb.StartReleaseRequest(
        change=change, version=CANARY, percentage=percentage, despite_rollback="once more"
    )
    await stub.StartRelease(request)


def _declared(addresses: Mapping[str, str]) -> dict[str, Any]:
    """A gateway whose own baseline gives nobody the canary, also when there is no release."""
    document = declared(addresses)
    document["plugins"][0]["config"]["percentage"] = 0
    return document


class _Load:
    """Requests through the gateway, of days that are good until they are bad."""

    def __init__(self) -> None:
        self.day = "good"
        self.first_failure = 0.0
        self.last_canary = 0.0

    async def ask(self, session: aiohttp.ClientSession, url: str, user: str) -> None:
        """One request."""
        async with session.get(url, headers={"x-user-id": user, "x-day": self.day}) as answer:
            if (await answer.json())["version"] != CANARY:
                return
            self.last_canary = time.monotonic()
            if answer.status >= 500 and not self.first_failure:
                self.first_failure = self.last_canary


async def _breach(load: _Load, stub: Any) -> float:
    await asyncio.sleep(WELL_S)
    load.day, load.first_failure = "bad", 0.0
    for _ in range(round(LONGEST_S / LOOK_EVERY_S)):
        if await _status(stub) == policy_pb2.RELEASE_STATUS_ROLLED_BACK:
            break
        await asyncio.sleep(LOOK_EVERY_S)
    else:
        raise SystemExit(f"controller: not rolled back within {LONGEST_S:g} s")
    # Nobody is on their way with a bad request when the next release begins.
    load.day = "good"
    await asyncio.sleep(QUIET_S)
    return load.last_canary - load.first_failure


async def _status(stub: Any) -> Any:
    request = pb.GetPolicyRequest(service_key=SERVICE_KEY)
    return (await stub.GetPolicy(request)).policy.release.status


@asynccontextmanager
async def _load(address: str) -> AsyncIterator[_Load]:
    load, url = _Load(), f"http://{address}/api/v1/hello"
    users = [f"user-{number}" for number in range(USERS)]
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def client(number: int) -> None:
            chance = Random(number)
            while True:
                await load.ask(session, url, chance.choice(users))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client(number)) for number in range(CLIENTS)]
            yield load
            for task in tasks:
                task.cancel()
