"""A stack whose parts are hurt on purpose, and the users who must not notice."""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import signal
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from canary_documents import to_document
from canary_engine import parse
from canary_engine.decide import CompiledPolicy, decide
from canary_engine.model import NOBODY, Decision, Request
from dev_stack.gateways import command
from dev_stack.processes import Process
from dev_stack.stack import ANY_PORT, CANARY, SERVICE_KEY, STABLE, Plan, Stack
from prometheus_client.parser import text_string_to_metric_families

from support import unhurried_plugin
from support.admin import Admin, admin_of
from support.load import Load, User
from support.stack import GATEWAY, ROOT

LISTED = [f"listed-{number}" for number in range(30)]
LISTED_NETWORK = "10.77.0.0/24"
CLIENT_IP = "127.0.0.1"
WITHIN_S = 90.0
CAUSE = "canary_plugin_troubles_total"
# Beginnings of causes that cost nobody a decision.
HARMLESS = ("alone-", "policy-stream", "decide-stream", "outcomes-")


class Chaos(Stack):
    """The stack, and what its plugin server says of itself."""

    plugin_module = unhurried_plugin.NAME
    """``canary_plugin`` for tests of how long it waits itself."""
    plugin_options: tuple[str, ...] = ()
    plugin_asks = ""
    """Where the plugin server asks, if not at the stack's decision service."""

    def start_plugin_server(self) -> None:
        """Start the plugin server and wait until it is ready."""
        self.spawn_plugin_server()
        self.plugin.await_ready()

    def spawn_plugin_server(self) -> None:
        """Start the plugin server without waiting."""
        self.plugin = self.plugin_server(*self.plugin_options)
        self._exit.callback(lambda: self.plugin.stop())
        self.plugin.spawn()

    def plugin_server(self, *options: str) -> Process:
        """The process, not started."""
        return self._process(
            "plugin-server",
            command(
                self.plugin_module,
                *("--socket", str(self.plugin_socket)),
                *("--decision-service", self.plugin_asks or self.decision_address),
                *("--outcomes", self.plan.outcomes),
                *("--outcomes-socket", str(self.outcomes_socket)),
                *("--metrics-listen", ANY_PORT),
                *options,
            ),
            "ready socket=",
            {
                "PYTHONPATH": os.pathsep.join(
                    (str(ROOT / "tests"), os.environ.get("PYTHONPATH", ""))
                )
            },
        )

    @property
    def workers(self) -> list[int]:
        """Pid of every worker that has got ready, in that order."""
        return [int(pid) for pid in re.findall(r" worker=(\d+)", self.plugin.output())]

    def plugin_samples(self) -> Mapping[str, float]:
        """What Prometheus would read from the worker; labels as written there."""
        (*_, address) = re.findall(r"metrics=(\S+)", self.plugin.output())
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=WITHIN_S) as answer:
            text = answer.read().decode()
        return {
            f"{sample.name}{_labels(sample.labels)}": sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def troubles(self) -> Counter[str]:
        """What the worker has counted, by cause."""
        found: Counter[str] = Counter()
        for name, value in self.plugin_samples().items():
            cause = re.fullmatch(CAUSE + r"\{cause=([a-z-]+)\}", name)
            if cause:
                found[cause[1]] = int(value)
        return found

    def undecided(self) -> Counter[str]:
        """The troubles that cost somebody a decision, by cause."""
        troubles = self.troubles()
        return Counter({c: n for c, n in troubles.items() if not c.startswith(HARMLESS)})


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{k}={labels[k]}" for k in sorted(labels)) + "}" if labels else ""


@contextmanager
def chaos_stack(prepare: Any = None, **plan: Any) -> Iterator[Chaos]:
    """A stack on free ports in a folder of its own, with the release in progress."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        listens = ("proxy_listen", "decision_listen", "admin_listen", "metrics_listen")
        chosen: dict[str, Any] = {"gateway": GATEWAY, "persistent": True}
        chosen |= dict.fromkeys(listens, _own_address()) | plan
        stack = Chaos(Plan(run_dir=Path(folder), **chosen))
        if prepare is not None:
            prepare(stack)
        with stack:
            with admin_of(stack.admin_address) as admin:
                start_release(admin)
            yield stack
            stack.plugin.stop()
            stack.decision.kill()  # else it drains what is not worth waiting for


def _own_address() -> str:
    """Any port of a loopback address that only this process's stacks have.

    While a part is down, its port must stay free for it: on 127.0.0.1 a connection of the load
    could get it for its own end.
    """
    pid = os.getpid()
    return f"127.{pid // 250 % 250 + 2}.{pid % 250 + 2}.1:0"


def start_release(admin: Admin, percentage: float = 20) -> None:
    """Two rules, listed users and addresses, and a share of everybody else."""
    admin.release(percentage, salt="chaos")
    rules = (
        ("testers", "x-canary-test", "true", "canary"),
        ("enterprise", "x-user-tier", "enterprise", "stable"),
    )
    admin(
        "SetRules",
        rules=[
            {"name": n, "source": "header", "key": k, "exact": e, "variant": v}
            for n, k, e, v in rules
        ],
    )
    admin("SetWhitelist", whitelist={"users": LISTED, "ips": [LISTED_NETWORK]})


def stored(admin: Admin) -> CompiledPolicy:
    """The policy that the store has now."""
    found = admin("GetPolicy", service_key=SERVICE_KEY).policy
    return CompiledPolicy(parse.policy(to_document(found)))


def users_of(policy: CompiledPolicy, number: int = 120) -> list[User]:
    """Users of every kind, most of them stable, and what the engine says each must get."""
    found = [_user(policy, index) for index in range(number)]
    random.Random(3).shuffle(found)  # each client shall have users of every kind
    assert {user.version for user in found} == {STABLE, CANARY}
    assert {user.why for user in found} >= {"rule", "whitelist", "percentage", "default"}
    return found


def _user(policy: CompiledPolicy, index: int) -> User:
    headers = {"x-user-id": f"user-{index}"}
    match index % 12:
        case 0:
            headers["x-canary-test"] = "true"
        case 1:
            headers = {"x-user-id": LISTED[index % len(LISTED)], "x-user-tier": "enterprise"}
        case 2:
            headers["x-user-id"] = LISTED[index % len(LISTED)]
        case 3:
            headers["x-forwarded-for"] = f"10.77.0.{index % 250 + 1}"
    decision = decision_for(policy, headers)
    return User(
        name=f"{index}:{headers['x-user-id']}",
        headers=headers,
        version=decision.version,
        why=str(decision.reason),
    )


def decision_for(policy: CompiledPolicy, headers: Mapping[str, str]) -> Decision:
    """What the engine says of a request with these headers."""
    request = Request(headers=headers, client_ip=headers.get("x-forwarded-for", CLIENT_IP))
    found = decide(policy, request, NOBODY, datetime.now(UTC))
    assert isinstance(found, Decision)
    return found


async def until_asked(stack: Chaos, found: Load) -> None:
    """Wait, under load, until the plugin server asks the service again and takes its word."""

    def believed() -> float:
        decided = "canary_plugin_decisions_total{decider=remote"
        return sum(n for name, n in stack.plugin_samples().items() if name.startswith(decided))

    wanted = await asyncio.to_thread(believed) + len(found.users)
    async with asyncio.timeout(WITHIN_S):
        while (missing := wanted - await asyncio.to_thread(believed)) > 0:
            # To ask the plugin server takes as long as some requests do.
            await found.more(math.ceil(missing / 4))


def kill(pid: int) -> None:
    """End a process without notice."""
    os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Pids of a process's children."""
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid: int) -> bool:
    """Whether a process has ended, collected or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
