"""Calls to a running decision service, for async tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from canary.admin.v1 import admin_pb2 as admin_pb
from canary.admin.v1 import admin_pb2_grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary.policy.v1 import policy_pb2 as policy_pb
from canary_documents import to_document, to_message
from canary_engine import parse
from decision_svc.app import Running
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from support.service import ANY_PORT, running_service

SHOP = "shop"
STABLE, CANARY = "v1", "v2"
METERED = {"metrics_listen": ANY_PORT}
# The end of a metrics server takes half a second, so only tests that look at them have one.
LIMIT_S = 40.0
"""How long a condition may take to come true; far above what any takes, also where two suites share
a slow machine. Less than the minute for which some tests would wait if a promise were broken.
"""
LOOK_EVERY_S = 0.01
"""Between two looks others have the processor, on which what is waited for depends."""


class Calls:
    """The stubs of one service, and the calls that most tests make."""

    def __init__(self, running: Running, decision: grpc.aio.Channel, admin: grpc.aio.Channel):
        self.running = running
        self.channel = decision
        self.decision: Any = decision_pb2_grpc.DecisionServiceStub(decision)
        self.admin: Any = admin_pb2_grpc.AdminServiceStub(admin)
        self._health: Any = health_pb2_grpc.HealthStub(decision)

    async def answer(self, service_key: str = SHOP, **facts: Any) -> pb.DecideResponse:
        """The answer to Decide; ``facts`` are fields of the request."""
        found: pb.DecideResponse = await self.decision.Decide(
            pb.DecideRequest(service_key=service_key, **facts)
        )
        return found

    async def decide(self, service_key: str = SHOP, **facts: Any) -> policy_pb.Decision:
        """The decision; it must be one."""
        answer = await self.answer(service_key, **facts)
        assert answer.WhichOneof("answer") == "decision", answer
        return answer.decision

    async def variant(self, user: str, service_key: str = SHOP) -> tuple[str, str]:
        """Variant and reason of a user's decision, as words."""
        found = to_document(await self.decide(service_key, headers={"x-user-id": user}))
        return found["variant"], found["reason"]

    async def change(self, method: str, service_key: str = SHOP, **fields: Any) -> int:
        """The revision that an admin write makes. ``expected`` is the revision it expects."""
        change = a_change(service_key, fields.pop("expected", None))
        request = getattr(admin_pb, method + "Request")(change=change, **fields)
        answer = await getattr(self.admin, method)(request)
        return int(answer.revision)

    async def release(self, percentage: float, service_key: str = SHOP, **more: Any) -> int:
        """Register two versions and start a release of the second."""
        await self.register(STABLE, service_key, status=policy_pb.VERSION_STATUS_STABLE)
        await self.register(CANARY, service_key)
        return await self.change(
            "StartRelease", service_key, version=CANARY, percentage=percentage, **more
        )

    async def register(self, version: str, service_key: str = SHOP, **fields: Any) -> int:
        """Register a version whose backend is an upstream of its name."""
        backend = policy_pb.Backend(upstream=f"{service_key}-{version}")
        message = policy_pb.Version(version=version, backend=backend, **fields)
        return await self.change("RegisterVersion", service_key, version=message)

    async def segment(self, name: str, *, service_key: str = SHOP, **fields: Any) -> int:
        """Put a listed segment, or another one."""
        segment = policy_pb.Segment(**{"name": name, "listed": True, **fields})
        return await self.change("PutSegment", service_key, segment=segment)

    async def profile(self, user: str, **fields: Any) -> None:
        """Put a profile."""
        profile = policy_pb.Profile(user=user, **fields)
        request = admin_pb.PutProfileRequest(profile=profile, actor="ada", reason="a test")
        await self.admin.PutProfile(request)

    async def policy(self, service_key: str = SHOP, revision: int = 0) -> dict[str, Any]:
        """The stored policy as a document."""
        request = admin_pb.GetPolicyRequest(service_key=service_key, revision=revision)
        return to_document((await self.admin.GetPolicy(request)).policy)

    async def changes(self, service_key: str = SHOP, **fields: Any) -> list[admin_pb.ChangeRecord]:
        """What ListChanges says."""
        request = admin_pb.ListChangesRequest(service_key=service_key, **fields)
        return list((await self.admin.ListChanges(request)).changes)

    def watch(
        self, *service_keys: str, gateway: str = "kong-1", baselines: tuple[pb.Baseline, ...] = ()
    ) -> Any:
        """An open policy stream."""
        return self.decision.WatchPolicies(
            pb.WatchPoliciesRequest(service_keys=service_keys, gateway=gateway, baselines=baselines)
        )

    async def is_serving(self, name: str = "canary.store") -> bool:
        """What health says."""
        answer = await self._health.Check(health_pb2.HealthCheckRequest(service=name))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def metric(self, name: str, **labels: str) -> float:
        """A sample; 0 if there is none."""
        return sum(
            float(sample.value)
            for sample in await self.samples()
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def samples(self) -> list[Any]:
        """Every sample that Prometheus would read."""
        url = f"http://{self.running.metrics_address}/metrics"
        text = await asyncio.to_thread(_get, url)
        return [s for family in text_string_to_metric_families(text) for s in family.samples]


def _get(url: str) -> str:
    with urlopen(url, timeout=LIMIT_S) as answer:
        text: str = answer.read().decode()
        return text


def a_change(service_key: str = SHOP, expected: int | None = None) -> admin_pb.Change:
    """Who and why."""
    return admin_pb.Change(
        service_key=service_key, expected_revision=expected, actor="ada", reason="a test"
    )


def a_rule(name: str = "testers", **fields: Any) -> policy_pb.Rule:
    """A rule on header x-canary-test, unless ``fields`` say otherwise."""
    usual: dict[str, Any] = {
        "source": policy_pb.SOURCE_HEADER,
        "key": "x-canary-test",
        "exact": "true",
        "variant": policy_pb.VARIANT_CANARY,
    }
    return policy_pb.Rule(name=name, **(usual | fields))


def a_baseline(percentage: float, service_key: str = SHOP, **fields: Any) -> pb.Baseline:
    """A gateway's baseline, with its hash."""
    document = {
        "service_key": service_key,
        "versions": [
            {"version": "declared", "status": "canary", "backend": {"upstream": "declared"}}
        ],
        "release": {
            "id": "baseline",
            "version": "declared",
            "status": "in-progress",
            "percentage": percentage,
            "salt": "baseline",
        },
        **fields,
    }
    plain = parse.document(parse.policy(document))
    message = to_message(plain, policy_pb.Policy)
    return pb.Baseline(hash=parse.content_hash(plain), policy=message)


@asynccontextmanager
async def calling(running: Running) -> AsyncIterator[Calls]:
    """Calls to a service that runs."""
    # A pool of its own: a channel that another test has closed is not shared.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        grpc.aio.insecure_channel(running.decision_address, options=options) as decision,
        grpc.aio.insecure_channel(running.admin_address, options=options) as admin,
    ):
        yield Calls(running, decision, admin)


@asynccontextmanager
async def service(**settings: Any) -> AsyncIterator[Calls]:
    """A service in this process, ready to be called. ``METERED`` makes it serve metrics."""
    async with running_service(**settings) as running, calling(running) as calls:
        yield calls


@asynccontextmanager
async def ready_service(**settings: Any) -> AsyncIterator[Calls]:
    """The same, after it has read its store."""
    async with service(**settings) as calls:
        await until(calls.is_serving)
        yield calls


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so."""
    async with asyncio.timeout(LIMIT_S):
        while not await is_so():  # noqa: ASYNC110 - the condition may be anybody's
            await asyncio.sleep(LOOK_EVERY_S)


async def until_so(is_so: Callable[[], bool]) -> None:
    """Let others go on until it is so."""

    async def is_so_by_then() -> bool:
        await asyncio.sleep(0)
        return is_so()

    await until(is_so_by_then)


@contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[None]:
    """The call in this block is refused with ``code``, and its text holds every word."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    text = caught.value.details() or ""
    assert caught.value.code() == code, text
    missing = [word for word in words if word not in text]
    assert not missing, text


def facts_of(user: str) -> Mapping[str, Any]:
    """The facts of a request by ``user``."""
    return {"headers": {"x-user-id": user}}
