"""A gateway's plugin server and a decision service as processes that trust nobody without proof."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest
from canary_plugin.troubles import INTERVAL_S
from dev_stack.gateways import command
from dev_stack.stack import ANY_PORT, CANARY, SERVICE_KEY, STABLE, Plan, Stack
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from support.access import Tokens
from support.admin import Admin
from support.authority import Authority
from support.load import until
from support.stack import Client, client_of

WITHIN_S = 90.0
TESTER = {"x-canary-test": "true"}
USERS = [f"user-{number}" for number in range(60)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a gateway proves who it is."""

    token: bool
    certificate: bool


WAYS = {
    "token over TLS": Way(token=True, certificate=False),
    "client certificate": Way(token=False, certificate=True),
    "token and client certificate": Way(token=True, certificate=True),
}


class Secured(Stack):
    """The stack with an access file, TLS on both ports, and a plugin server with credentials."""

    def __init__(self, run_dir: Path, way: Way) -> None:
        super().__init__(Plan(run_dir=run_dir))
        self.way = way
        self.tokens = Tokens(run_dir / "access.yml")
        self.authority = Authority(run_dir / "ca")
        self._server = self.authority.server()
        self._client = self.authority.client("gateway-1")
        self.token_file = run_dir / "token"
        self.admin_token = self.tokens.new("tester", {"*": "admin"})
        self.health_address = ANY_PORT
        self.give_token(self.new_token())
        certificates = [{"common_name": "gateway-1", "roles": {"*": "gateway"}}]
        self.tokens.write(certificates=certificates if way.certificate else [])

    def new_token(self) -> str:
        """A gateway's token, which the access file knows from its next write on."""
        return self.tokens.new("gateways", {"*": "gateway"})

    def give_token(self, token: str) -> None:
        """Put the token where the plugin server reads it."""
        fresh = self.token_file.with_suffix(".new")
        fresh.write_text(token + "\n")
        fresh.rename(self.token_file)

    def start_decision_service(self) -> None:
        """Start the decision service."""
        options = {
            "listen": self.decision_address,
            "admin-listen": self.admin_address,
            "metrics-listen": self.metrics_address,
            "health-listen": self.health_address,
            "redis-url": f"unix://{self.redis_socket}",
            "access-file": str(self.tokens.path),
            "tls-cert": str(self._server.certificate),
            "tls-key": str(self._server.key),
        }
        if self.way.certificate:
            options["tls-client-ca"] = str(self.authority.file)
        arguments = command("decision_svc", *(f"--{k}={v}" for k, v in options.items()))
        self.decision = self._process("decision-service", arguments, '"ready"')
        self._exit.callback(lambda: self.decision.stop())
        ready = json.loads(self.decision.start())
        self.decision_address, self.admin_address = ready["decision"], ready["admin"]
        self.metrics_address, self.health_address = ready["metrics"], ready["health"]

    def start_plugin_server(self) -> None:
        """Start the plugin server."""
        options = {
            "socket": str(self.plugin_socket),
            "decision-service": self.decision_address,
            "outcomes-socket": str(self.outcomes_socket),
            "metrics-listen": ANY_PORT,
            "tls-ca": str(self.authority.file),
        }
        if self.way.token:
            options["token-file"] = str(self.token_file)
        if self.way.certificate:
            options["tls-cert"] = str(self._client.certificate)
            options["tls-key"] = str(self._client.key)
        arguments = command("canary_plugin", *(f"--{k}={v}" for k, v in options.items()))
        self.plugin = self._process("plugin-server", arguments, "ready socket=")
        self._exit.callback(lambda: self.plugin.stop())
        self.plugin.start()

    @contextmanager
    def admin(self, token: str = "") -> Iterator[Admin]:
        """A client of the admin API, with a token and, where it is asked for, a certificate."""
        shown = (self._client.key, self._client.certificate) if self.way.certificate else ()
        channel = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(
                self.authority.file.read_bytes(), *(path.read_bytes() for path in shown)
            ),
            grpc.access_token_call_credentials(token or self.admin_token),
        )
        with grpc.secure_channel(self.admin_address, channel) as opened:
            yield Admin(opened, SERVICE_KEY)

    def knows(self, token: str) -> bool:
        """Whether the decision service knows the token, whatever it may do."""
        with self.admin(token) as admin:
            try:
                admin("WhoAmI")
            except grpc.RpcError as error:
                return error.code() is not grpc.StatusCode.UNAUTHENTICATED
        return True

    def counted(self, name: str, label: str) -> Counter[str]:
        """What the plugin server has counted, by a label."""
        (*_, address) = re.findall(r"metrics=(\S+)", self.plugin.output())
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=WITHIN_S) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        found: Counter[str] = Counter()
        for sample in (s for family in families for s in family.samples if s.name == name):
            found[sample.labels[label]] += int(sample.value)
        return found

    def decided(self) -> Counter[str]:
        """Decisions by who made them."""
        return self.counted("canary_plugin_decisions_total", "decider")

    def troubles(self) -> Counter[str]:
        """Troubles by cause."""
        return self.counted("canary_plugin_troubles_total", "cause")


@pytest.fixture
def secured(request: pytest.FixtureRequest) -> Iterator[Secured]:
    way: Way = getattr(request, "param", WAYS["token over TLS"])
    with (
        tempfile.TemporaryDirectory(prefix="secured-") as folder,
        Secured(Path(folder), way) as stack,
    ):
        yield stack


def start_release(admin: Admin) -> None:
    """A share of everybody, and all testers of a header that no baseline knows."""
    admin.release(30, salt="secured")
    rule = {"name": "opt-in", "source": "header", "key": "x-opt-in", "variant": "canary"}
    admin("SetRules", rules=[{**rule, "exact": "yes"}])


# Somebody whom neither the baseline draws nor the release: only its rule gives them the canary.
OPTED_IN = {"x-opt-in": "yes", "x-user-id": "who waits"}


async def until_version(client: Client, headers: dict[str, str], version: str) -> None:
    """Wait until a request gets the version; every answer on the way must be a 200."""
    async with asyncio.timeout(WITHIN_S):
        while await client.version(headers) != version:
            pass


async def until_more_is_asked(stack: Secured, client: Client) -> None:
    """Wait until the service decides again."""
    before = (await asyncio.to_thread(stack.decided))["remote"]
    async with asyncio.timeout(WITHIN_S):
        while (await asyncio.to_thread(stack.decided))["remote"] == before:
            await client.version()


def check_health_needs_no_proof_and_nothing_else_is_there(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        ask: Any = health_pb2_grpc.HealthStub(channel)
        answer = ask.Check(health_pb2.HealthCheckRequest(), timeout=WITHIN_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as refusal:
            Admin(channel, SERVICE_KEY)("ListServices")
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("secured", WAYS.values(), ids=list(WAYS), indirect=True)
async def test_requests_are_decided_by_the_service_and_its_policy(secured: Secured) -> None:
    with secured.admin() as admin:
        start_release(admin)
        async with client_of(secured) as client:
            await until_version(client, OPTED_IN, CANARY)
            await until_more_is_asked(secured, client)
            found = await client.versions(USERS)
            assert set(found.values()) == {STABLE, CANARY}
            for user, version in found.items():
                asked = {"service_key": SERVICE_KEY, "headers": {"x-user-id": user}}
                assert admin("Explain", request=asked).decision.version == version
            admin("MoveRelease", move="halt")
            await until_version(client, OPTED_IN, STABLE)
        assert admin("WhoAmI").name == "tester"
    check_health_needs_no_proof_and_nothing_else_is_there(secured.health_address)


async def test_a_token_is_changed_without_a_restart(secured: Secured) -> None:
    with secured.admin() as admin:
        start_release(admin)
    async with client_of(secured) as client:
        await until_version(client, OPTED_IN, CANARY)
        before = await client.versions(USERS)
        worker = re.findall(r" worker=(\d+)", secured.plugin.output())
        # Both count while gateways change over, then the old one does no more.
        old, new = secured.tokens.document["tokens"][-1], secured.new_token()
        secured.tokens.write()
        await until(lambda: secured.knows(new), "the new token to be known")
        secured.give_token(new)
        assert await client.versions(USERS) == before
        secured.tokens.document["tokens"].remove(old)
        secured.tokens.write()
        assert await client.versions(USERS) == before
        # Whoever is connected anew shows the new one.
        await asyncio.to_thread(secured.decision.kill)
        assert await client.versions(USERS) == before
        await asyncio.to_thread(secured.start_decision_service)
        await until_more_is_asked(secured, client)
        assert await client.versions(USERS) == before
    assert re.findall(r" worker=(\d+)", secured.plugin.output()) == worker
    assert "UNAUTHENTICATED" not in secured.plugin.output()


async def test_a_wrong_token_costs_the_canary_and_no_request(secured: Secured) -> None:
    right = secured.token_file.read_text().strip()
    with secured.admin() as admin:
        start_release(admin)
    secured.plugin.stop()
    secured.give_token("canary_nobody-knows-this-one")
    started = monotonic()
    await asyncio.to_thread(secured.start_plugin_server)
    async with client_of(secured) as client:
        for _ in range(3):
            assert set((await client.versions(USERS)).values()) == {STABLE}
            assert await client.version(OPTED_IN) == STABLE
        troubles = await asyncio.to_thread(secured.troubles)
        told = re.findall(r"([a-z-]+) \(\d+ since last told", secured.plugin.output())
        intervals = (monotonic() - started) / INTERVAL_S
        assert sum(troubles.values()) >= 3 * len(USERS)
        # Those that were counted first may come between two looks.
        assert set(troubles) <= set(told) <= set(await asyncio.to_thread(secured.troubles))
        assert max(Counter(told).values()) <= intervals + 1
        assert "UNAUTHENTICATED" in secured.plugin.output()
        assert "nobody-knows" not in secured.plugin.output()
        # The right one is used as soon as it is there.
        secured.give_token(right)
        await until_version(client, OPTED_IN, CANARY)
