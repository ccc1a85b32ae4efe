"""The tour: what the product does, shown on a running stack and checked while it is shown."""

from __future__ import annotations

import http.client
import json
import shlex
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from dev_stack import steer
from dev_stack.gateways import command
from dev_stack.processes import wait_until
from dev_stack.shown import canaryctl
from dev_stack.stack import CANARY, SERVICE_KEY, STABLE, Stack

USERS = [f"user-{number}" for number in range(2_000)]


class Unexpected(RuntimeError):  # noqa: N818 - it says what happened
    """The product did not do what the tour said it would."""


def get(address: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """Status and version that answered one request."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        return _get(connection, headers)
    finally:
        connection.close()


def versions(address: str, users: Iterable[str], clients: int = 8) -> dict[str, str]:
    """The version that each user gets. Raises Unexpected if a request fails."""
    users = list(users)
    shares = [users[start::clients] for start in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        parts = pool.map(lambda share: _versions_of(address, share), shares)
    return {user: version for part in parts for user, version in part.items()}


def tour(stack: Stack) -> None:
    """Walk through a release; raises Unexpected where the product does something else."""
    _Tour(stack).walk()


class _Tour:
    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._step = 0
        self._client = steer.admin(stack.admin_address)

    def walk(self) -> None:
        started = time.monotonic()
        before = self._baseline()
        self._release()
        at_5 = self._five_percent(before)
        self._rules()
        self._raise(at_5)
        at_25 = self._explain()
        self._service_killed(at_25)
        self._redis_killed(at_25)
        self._roll_back()
        print(f"\nThat took {time.monotonic() - started:.0f} s.")

    def _baseline(self) -> dict[str, str]:
        self._say("Kong's declarative file says 5 %, and no release is in progress: it rules.")
        found = versions(self._stack.gateway.address, USERS)
        self._show_shares(found)
        self._check(0.03 < _share(found) < 0.07, "about 5 % must get the canary")
        self._ctl("status")
        return found

    def _release(self) -> None:
        self._say("Versions are registered, and a release of v1.3.0 starts at 5 %.")
        steer.register_versions(self._client)
        self._ctl("release", "start", SERVICE_KEY, CANARY, "--percentage", "5",
                  "--reason", "the tour")  # fmt: skip

    def _five_percent(self, before: dict[str, str]) -> dict[str, str]:
        self._say("The release rules now, with a salt of its own: other people are its first.")
        found = versions(self._stack.gateway.address, USERS)
        self._show_shares(found)
        both = sum(before[u] == found[u] == CANARY for u in USERS)
        print(f"   {both} users were among the first both times")
        self._check(0.03 < _share(found) < 0.07, "about 5 % must get the canary")
        return found

    def _rules(self) -> None:
        self._say("A rule sends testers to the canary and protects enterprise users.")
        for name, key, value, variant in (
            ("testers", "x-canary-test", "true", "canary"),
            ("enterprise", "x-user-tier", "enterprise", "stable"),
        ):
            self._ctl(
                "rule",
                "add",
                SERVICE_KEY,
                name,
                "--source",
                "header",
                "--key",
                key,
                "--exact",
                value,
                "--variant",
                variant,
                "--reason",
                "the tour",
            )
        for headers, version in (
            ({"x-canary-test": "true"}, CANARY),
            ({"x-user-tier": "enterprise", "x-user-id": "user-1"}, STABLE),
        ):
            self._until(partial(self._get, headers), version)
            asked = ", ".join(f"{name}: {value}" for name, value in headers.items())
            print(f"   a request with {asked} gets {version}")

    def _raise(self, at_5: dict[str, str]) -> None:
        self._say("Raising to 25 % only adds users; nobody is exchanged.")
        self._ctl("percentage", SERVICE_KEY, "25", "--reason", "5 % went well")
        self._until(lambda: self._share_of_some() > 0.15, True)
        found = versions(self._stack.gateway.address, USERS)
        self._show_shares(found)
        lost = [u for u in USERS if at_5[u] == CANARY != found[u]]
        self._check(not lost, f"these lost the canary: {lost[:5]}")

    def _explain(self) -> dict[str, str]:
        self._say("Why did this user get what they got?")
        self._ctl("explain", SERVICE_KEY, "--header", "x-user-id:user-1")
        return versions(self._stack.gateway.address, USERS)

    def _service_killed(self, expected: dict[str, str]) -> None:
        self._say("The decision service is killed. Nothing happens to users.")
        self._stack.decision.signal(signal.SIGKILL)
        self._same(expected)
        self._stack.start_decision_service()

    def _redis_killed(self, expected: dict[str, str]) -> None:
        self._say("Redis is killed. Nothing happens to users either.")
        self._stack.redis.kill()
        self._same(expected)

    def _roll_back(self) -> None:
        self._say("A rollback is refused while it could not be kept, and made once it can.")
        refused = self._ctl("release", "rollback", SERVICE_KEY, "--reason", "end", check=False)
        self._check(refused != 0, "a write without a store must be refused")
        self._stack.redis.start()
        print("   (Redis is back, with all it was told)")
        rollback = ("release", "rollback", SERVICE_KEY, "--reason", "end of the tour")
        self._until(lambda: self._ctl_quiet(*rollback), 0)
        print(f"   $ canaryctl {shlex.join(rollback)}")
        self._ctl("history", SERVICE_KEY)

    def _same(self, expected: dict[str, str]) -> None:
        found = versions(self._stack.gateway.address, USERS)
        changed = sum(found[user] != expected[user] for user in USERS)
        print(f"   {len(USERS)} requests: all answered 200, {changed} users changed version")
        self._check(changed == 0, "no user may change version")

    def _get(self, headers: Mapping[str, str]) -> str:
        return get(self._stack.gateway.address, headers)[1]

    def _share_of_some(self) -> float:
        return _share(versions(self._stack.gateway.address, USERS[:200]))

    def _say(self, text: str) -> None:
        self._step += 1
        print(f"\n{self._step}. {text}")

    def _show_shares(self, found: Mapping[str, str]) -> None:
        counts = Counter(found.values())
        shares = ", ".join(f"{name} {counts[name] / len(found):.1%}" for name in sorted(counts))
        print(f"   {len(found)} users: {shares}")

    def _ctl(self, *arguments: str, check: bool = True) -> int:
        code = canaryctl(self._stack.admin_address, *arguments)
        if check:
            self._check(code == 0, f"canaryctl ended with {code}")
        return code

    def _ctl_quiet(self, *arguments: str) -> int:
        address = self._stack.admin_address
        called = command("canaryctl", "--address", address, "--actor", "demo", *arguments)
        return subprocess.run(called, capture_output=True, check=False).returncode

    def _until(self, look: Callable[[], object], wanted: object) -> None:
        try:
            wait_until(lambda: look() == wanted, 10, "the change")
        except TimeoutError as error:
            raise Unexpected(f"the change did not arrive: still {look()!r}") from error

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            raise Unexpected(f"NOT AS PROMISED: {what}")


def _share(found: Mapping[str, str]) -> float:
    return sum(version == CANARY for version in found.values()) / len(found)


def _versions_of(address: str, users: Iterable[str]) -> dict[str, str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    found = {}
    for user in users:
        status, version = _get(connection, {"x-user-id": user})
        if status != 200:
            raise Unexpected(f"NOT AS PROMISED: {user} was answered {status}")
        found[user] = version
    connection.close()
    return found


def _get(connection: http.client.HTTPConnection, headers: Mapping[str, str]) -> tuple[int, str]:
    connection.request("GET", "/api/v1/hello", headers=dict(headers))
    response = connection.getresponse()
    body = response.read()
    return response.status, json.loads(body)["version"] if response.status == 200 else ""
