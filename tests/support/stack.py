"""A running stack for end-to-end and system tests, and requests through it that miss nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from dev_stack import stack as dev_stack
from dev_stack.processes import wait_until
from dev_stack.stack import CANARY, STABLE, Plan, Stack

from support.http1 import Connection

GATEWAY = os.environ.get("E2E_GATEWAY", "dev")
ROOT = dev_stack.ROOT
PATIENCE_S = 90.0
PATH = "/api/v1/hello"
# As much as a gateway may be given: else, on a busy machine, it goes by what it heard last in the
# middle of a test. Who stands still, and for how long, is tested with the usual one elsewhere.
DEADLINE_MS = 1_000
AGE = re.compile(r"^canary_plugin_policy_stream_age_seconds (\S+)$", re.MULTILINE)

# Which services there are besides the seed's, and what their plugins are told.
SERVICES: dict[str, dict[str, Any]] = {
    "orders": {"percentage": 50, "canary_upstream": dev_stack.CANARY_UPSTREAM},
    "labelled": {
        "percentage": 50,
        "canary_upstream": dev_stack.CANARY_UPSTREAM,
        "label_stable": True,
        "response_headers": True,
    },
    "bad": {
        "percentage": 100,
        "upstream_host_header": "canary.example",
        "whitelisted_ips": ["10.0.0.0/99"],
    },
    "nowhere": {"percentage": 100},
    "private": {
        "percentage": 0,
        "canary_upstream": dev_stack.CANARY_UPSTREAM,
        "user_id_hash_key": "s3cret",
    },
}


def declare(addresses: Mapping[str, str]) -> dict[str, Any]:
    """The seed's file, and services for what the seed does not use; all have patience."""
    document = dev_stack.declared(addresses)
    document["plugins"] = yaml.safe_load((ROOT / "tests" / "data" / "seed-plugin.yml").read_text())[
        "plugins"
    ]
    stable_ip, stable_port = addresses[STABLE].split(":")
    canary_ip, canary_port = addresses[CANARY].split(":")
    for name, config in SERVICES.items():
        service = {"name": name, "host": dev_stack.STABLE_UPSTREAM, "port": 80}
        document["services"].append(service)
        document["routes"].append({"name": name, "service": name, "paths": [f"/{name}"]})
        document["plugins"].append({"name": "canary-release", "service": name, "config": config})
    document["services"].append({"name": "literal", "host": stable_ip, "port": int(stable_port)})
    document["routes"].append({"name": "literal", "service": "literal", "paths": ["/literal"]})
    document["plugins"].append({"name": "key-auth", "service": "orders"})
    document["consumers"] = [
        {"username": "alice", "keyauth_credentials": [{"key": "alice-key"}]},
        {"username": "bob", "keyauth_credentials": [{"key": "bob-key"}]},
    ]
    # A canary that is no Kong upstream but a plain host, on the service's port.
    document["services"].append({"name": "plain", "host": "localhost", "port": int(canary_port)})
    document["routes"].append({"name": "plain", "service": "plain", "paths": ["/plain"]})
    document["plugins"].append(
        {
            "name": "canary-release",
            "route": "plain",
            "config": {"percentage": 100, "upstream_host_header": canary_ip},
        }
    )
    for plugin in document["plugins"]:
        if plugin["name"] == "canary-release":
            plugin["config"] = plugin["config"] | {"deadline_ms": DEADLINE_MS}
    return document


@contextmanager
def running_stack(**plan: Any) -> Iterator[Stack]:
    """A stack on free ports in a folder of its own, whose gateway knows all policies."""
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        chosen: dict[str, Any] = {"gateway": GATEWAY, "declare": declare, "persistent": True} | plan
        with Stack(Plan(run_dir=Path(folder), **chosen)) as stack:
            until_heard(stack)
            yield stack


def until_heard(stack: Stack) -> None:
    """Wait until the plugin server has heard all policies: it may start to serve without them."""
    wait_until(lambda: _heard_for_s(stack) > 0, PATIENCE_S, "the policies at the plugin server")


def _heard_for_s(stack: Stack) -> float:
    (*_, address) = re.findall(r"metrics=(\S+)", stack.plugin.output())
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as answer:
        (found,) = AGE.findall(answer.read().decode())
    return float(found)


class Client:
    """Requests through a gateway; every answer is looked at, none is repeated."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address
        self._base = f"http://{address}"

    async def get(
        self, path: str = PATH, headers: Mapping[str, str] | None = None, **more: Any
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, body (JSON, or None if it is none) and headers of one answer."""
        return await self.ask("GET", path, headers, **more)

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> tuple[int, Any, Mapping[str, str]]:
        """The same for any method."""
        async with self._session.request(
            method, self._base + path, headers=headers, **more
        ) as answer:
            is_json = answer.content_type == "application/json"
            body = await answer.json() if is_json else await answer.read()
            return answer.status, body, answer.headers

    async def version(self, headers: Mapping[str, str] | None = None, path: str = PATH) -> str:
        """The version that answered; fails unless the status is 200."""
        status, body, _ = await self.get(path, headers)
        assert status == 200, body
        return str(body["version"])

    async def versions(
        self, users: Iterable[str], clients: int = 16, path: str = PATH
    ) -> dict[str, str]:
        """The version that each user gets, asked by several clients at once."""
        waiting = iter(users)
        found: dict[str, str] = {}

        async def ask() -> None:
            with Connection(self._address) as connection:
                for user in waiting:
                    async with asyncio.timeout(PATIENCE_S):
                        status, body = await connection.get(path, {"x-user-id": user})
                    assert status == 200, body
                    found[user] = str(json.loads(body)["version"])

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(ask())
        return found


@asynccontextmanager
async def client_of(stack: Stack) -> AsyncIterator[Client]:
    """A client without cookies or redirects, as a fresh browser each time."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout
    ) as session:
        yield Client(session, stack.gateway.address)


def share(found: Mapping[str, str]) -> float:
    """The share of users who got the canary."""
    return sum(version == CANARY for version in found.values()) / len(found)


async def until_release_rules(client: Client) -> None:
    """Wait until a release without rules has reached the gateway: the baseline's rule is off."""
    async with asyncio.timeout(PATIENCE_S):
        while await client.version({"x-canary-test": "true"}) == CANARY:
            pass
