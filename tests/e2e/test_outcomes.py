"""What became of requests: counted exactly, by version and variant, and by nobody's say-so."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import grpc
import pytest
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary.policy.v1 import policy_pb2
from dev_stack.stack import Stack
from prometheus_client.parser import text_string_to_metric_families
from support.stack import client_of, running_stack

WITHIN_S = 90
WINDOW_S = 900
VARIANTS = {policy_pb2.VARIANT_STABLE: "stable", policy_pb2.VARIANT_CANARY: "canary"}
Outcomes = dict[tuple[str, str], admin_pb2.VersionOutcomes]
Read = Callable[[str], Outcomes]


@contextmanager
def reading(stack: Stack) -> Iterator[Read]:
    with grpc.insecure_channel(stack.admin_address) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)

        def read(service_key: str) -> Outcomes:
            request = admin_pb2.ListOutcomesRequest(service_key=service_key, window_s=WINDOW_S)
            try:
                answer = admin.ListOutcomes(request, timeout=WITHIN_S)
            except grpc.RpcError as error:
                # Kong tells the plugin of a baseline with the first request that needs it.
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return {}
                raise
            return {(o.version, VARIANTS[o.variant]): o for o in answer.outcomes}

        yield read


@pytest.fixture(scope="module", params=["syslog", "log"])
def heard(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Stack]:
    """A stack that hears of outcomes in each of the ways."""
    if request.param == stack.plan.outcomes:
        yield stack
        return
    with running_stack(outcomes=request.param) as other:
        yield other


@pytest.fixture
def read(heard: Stack) -> Iterator[Read]:
    with reading(heard) as found:
        yield found


@asynccontextmanager
async def counting(read: Read, service_key: str, expected: int) -> AsyncIterator[Outcomes]:
    """What was counted while this was open; waits until it is as much as expected."""
    before = {names: (o.requests, dict(o.statuses)) for names, o in read(service_key).items()}
    more: Outcomes = {}
    yield more
    async with asyncio.timeout(WITHIN_S):
        while True:
            more.clear()
            for names, now in read(service_key).items():
                requests, statuses = before.get(names, (0, {}))
                grown = admin_pb2.VersionOutcomes()
                grown.CopyFrom(now)
                grown.requests -= requests
                for status, number in statuses.items():
                    grown.statuses[status] -= number
                more[names] = grown
            if sum(grown.requests for grown in more.values()) >= expected:
                return
            await asyncio.sleep(0.05)


def statuses(outcomes: Outcomes) -> dict[tuple[str, str], dict[int, int]]:
    return {
        names: {status: number for status, number in found.statuses.items() if number}
        for names, found in outcomes.items()
        if found.requests
    }


async def test_every_labelled_request_is_counted_by_version_variant_and_status(
    heard: Stack, read: Read
) -> None:
    sent: dict[tuple[str, str], Counter[int]] = {}
    async with client_of(heard) as client, counting(read, "labelled", 120) as counted:
        for number in range(120):
            asked = (200, 404, 500, 503)[number % 4]
            user = {"x-user-id": f"outcome-{number}"}
            status, _, headers = await client.get(f"/labelled/status/{asked}", user)
            assert status == asked
            names = (headers["x-canary-version"], headers["x-canary-variant"])
            sent.setdefault(names, Counter())[status] += 1
    assert {variant for _, variant in sent} == {"stable", "canary"}
    assert statuses(counted) == sent
    for names, found in counted.items():
        assert found.errors == sent[names][500] + sent[names][503]
        assert found.lost == 0


async def test_latencies_are_those_of_the_requests(heard: Stack, read: Read) -> None:
    slow_ms, several = 300, 5
    before = sum(found.request.count for found in read("plain").values())
    async with client_of(heard) as client, counting(read, "plain", several) as counted:
        for number in range(several):
            headers = {"x-user-id": f"slow-{number}"}
            status, _, _ = await client.get(f"/plain/slow/{slow_ms}", headers)
            assert status == 200
    (found,) = counted.values()
    for latency in (found.request, found.upstream):
        assert latency.count == before + several
        # Many times as much, for the machine may be busy; in microseconds it would be still more.
        assert 0.98 * slow_ms <= latency.p95_ms <= latency.p99_ms <= 300 * slow_ms


async def uncounted(stack: Stack, why: str) -> float:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{stack.metrics_address}/metrics") as answer,
    ):
        page = await answer.text()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "canary_outcomes_uncounted_total" and sample.labels["why"] == why:
                return sample.value
    return 0.0


FORGED = {
    "x-canary-variant": "canary",
    "x-canary-version": "canary",
    "x-canary-release": "baseline",
    "x-canary-service": "labelled",
    "x-canary-decision": "0123456789abcdef",
}


async def test_labels_that_clients_write_count_for_nothing(heard: Stack, read: Read) -> None:
    """Not on stable requests, not where there is no route, not where somebody else refused."""
    places = {
        "/private/status/500": 500,  # decided, and stable
        "/literal/status/500": 500,  # decided, and nobody has declared anything
        "/no-such-route": 404,
        "/orders/x": 401,  # refused before the plugin's turn
    }
    async with client_of(heard) as client, counting(read, "labelled", 1) as counted:
        for path, expected in places.items():
            status, _, _ = await client.get(path, {**FORGED, "x-user-id": "forger"})
            assert status == expected
        # Lines arrive in order, so when this one is counted, the others would have been.
        status, _, _ = await client.get("/labelled/status/201", {**FORGED, "x-user-id": "last"})
        assert status == 201
    assert list(statuses(counted).values()) == [{201: 1}]
    assert all(found.lost == 0 for found in counted.values())
    for service_key in ("private", "orders"):
        assert not [o for o in read(service_key).values() if o.statuses.get(500)]


async def test_forged_labels_that_reach_the_log_are_counted_as_foreign(heard: Stack) -> None:
    before = await uncounted(heard, "foreign")
    async with client_of(heard) as client:
        await client.get("/no-such-route", FORGED)
    async with asyncio.timeout(WITHIN_S):
        while await uncounted(heard, "foreign") <= before:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


async def test_outcomes_go_on_after_the_plugin_server_was_restarted(
    heard: Stack, read: Read
) -> None:
    heard.plugin.stop()
    heard.plugin.start()
    before = sum(found.requests for found in read("labelled").values())
    async with client_of(heard) as client, asyncio.timeout(WITHIN_S):
        while sum(found.requests for found in read("labelled").values()) <= before:
            status, _, _ = await client.get("/labelled/x", {"x-user-id": "after"})
            assert status == 200
