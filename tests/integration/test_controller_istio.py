"""A real controller, service and API server: the mesh follows, and nobody waits for it."""

from __future__ import annotations

import asyncio
import copy
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2 as policy_pb
from canary_controller.app import assembled, run
from canary_controller.settings import Settings
from canary_documents import to_document, to_message
from dev_stack.gateways import command
from dev_stack.processes import Process
from support.authority import Authority
from support.calls import SHOP, Calls, a_change, ready_service, until
from support.istio import weights
from support.kube_api import TOKEN, KubeApi, running_kube_api
from support.redis_server import RedisServer, running_redis
from support.told_outcomes import good_outcomes

VS = "VirtualService"
STEPS = (5.0, 20.0, 50.0)
PLAN: dict[str, Any] = {
    "steps": [{"weight": weight, "hold": "2s"} for weight in STEPS],
    "check_interval": "1s",
    "promote": False,
}
OTHER = "other"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def api() -> AsyncIterator[KubeApi]:
    async with running_kube_api() as found:
        yield found


@pytest.fixture
async def shop() -> AsyncIterator[Calls]:
    async with ready_service() as calls:
        yield calls


async def planned(calls: Calls, plan: dict[str, Any], key: str = SHOP) -> None:
    """A release at 0 % with a plan."""
    await calls.release(0, key)
    policy = policy_pb.Policy(service_key=key, plan=to_message(plan, policy_pb.Plan))
    await calls.admin.Apply(pb.ApplyRequest(change=a_change(key), policy=policy))


async def percentage(calls: Calls, key: str = SHOP) -> float:
    return float((await calls.policy(key))["release"].get("percentage", 0))


def share(service: dict[str, Any]) -> float:
    """The percentage that routes give the canary of requests that nobody forces."""
    found: dict[str, int] = weights({"spec": service}, {}, "/")
    return 100 * found.get("canary", 0) / sum(found.values())


async def gives(api: KubeApi, wanted: float) -> None:
    """Wait until the mesh gives the canary so much."""

    async def is_so() -> bool:
        await asyncio.sleep(0)
        return bool(api.written) and share(api.spec(VS, SHOP)) == wanted

    await until(is_so)


async def record(calls: Calls) -> dict[str, Any]:
    """What the controller has noted; {} before it has."""
    try:
        answer = await calls.admin.GetRecord(pb.GetRecordRequest(service_key=SHOP))
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return {}
    return to_document(answer.record)


async def noted(calls: Calls, is_so: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the release's record says so."""

    async def is_noted() -> bool:
        return is_so(await record(calls))

    await until(is_noted)


def alert(found: dict[str, Any], key: str) -> dict[str, Any]:
    """The newest alert of that key; {} if there is none."""
    return next((a for a in reversed(found.get("alerts", [])) if a["key"] == key), {})


def files(folder: Path, api: KubeApi) -> dict[str, str]:
    """The files that a controller needs for the mesh, by option."""
    (folder / "istio.yaml").write_text(f"services: {{{SHOP}: {{host: shop, namespace: shop}}}}")
    (folder / "token").write_text(TOKEN)
    return {
        "istio_file": str(folder / "istio.yaml"),
        "kubernetes_url": api.url,
        "kubernetes_token_file": str(folder / "token"),
    }


@asynccontextmanager
async def controlled(calls: Calls, **settings: Any) -> AsyncIterator[str]:
    """A controller that looks often; where it shows its metrics."""
    found = Settings(
        admin=calls.running.admin_address, holder="c1", look_every_s=0.05,
        metrics_listen="127.0.0.1:0", **settings,
    )  # fmt: skip
    stop = asyncio.Event()
    async with assembled(found) as running:
        task = asyncio.create_task(run(running, stop))
        try:
            yield running.metrics_address
        finally:
            stop.set()
            await task


async def test_a_mesh_follows_a_release_through_everything_that_befalls_it(
    redis: RedisServer, api: KubeApi, tmp_path: Path
) -> None:
    options = {f"--{k.replace('_', '-')}": v for k, v in files(tmp_path, api).items()}
    words = [word for pair in options.items() for word in pair]
    async with ready_service(redis_url=redis.url, store_deadline_ms=10_000) as calls:
        await planned(calls, PLAN)
        admin = ("--admin", calls.running.admin_address, "--metrics-listen", "")
        often = ("--look-every", "0.2s", "--lease-s", "2", "--holder", "c1")
        process = Process(
            "controller",
            command("canary_controller", *admin, *often, *words),
            tmp_path / "controller.log",
            ready_word='"ready"',
        )
        async with good_outcomes(calls):
            await asyncio.to_thread(process.start)
            try:
                await follows(calls, api)
            finally:
                process.kill()
        await never_gave_more(calls, api)


async def follows(calls: Calls, api: KubeApi) -> None:
    # Its steps show up as weights, also to who looks too late to see the first.
    await gives(api, 20)
    assert list(dict.fromkeys(share(service) for _, service in api.written)) == [0, 5, 20]
    # With the API server away it is held there, and people are to hear of it.
    await api.stop()
    await noted(calls, lambda found: "its mesh is not in step (held)" in found.get("waits_for", ""))
    await noted(calls, lambda found: bool(alert(found, "mesh:held")))
    assert await percentage(calls) == 20
    # It is back: the release goes on, and so does the mesh.
    await api.start()
    await gives(api, 50)
    await noted(calls, lambda found: not is_open(alert(found, "mesh:held")))
    # Somebody gives the canary more: that is undone, and told of.
    await edited(api, 90)
    await gives(api, 50)
    await noted(calls, lambda found: "kubectl-edit" in alert(found, "mesh:drift").get("text", ""))
    # A rollback gives nobody the canary; so it stays, whatever somebody does after the end.
    await calls.change("MoveRelease", move=pb.MOVE_ROLL_BACK)
    await gives(api, 0)
    await edited(api, 30)
    await gives(api, 0)


def is_open(found: dict[str, Any]) -> bool:
    """Whether an alert lasts; one that ended before it was due is none."""
    return bool(found) and "resolved_at" not in found


async def edited(api: KubeApi, wanted: float) -> None:
    """Somebody edits the weights by hand."""
    routes = copy.deepcopy(api.spec(VS, SHOP)["http"])
    for part, weight in zip(routes[-1]["route"], (100 - wanted, wanted), strict=True):
        part["weight"] = int(weight)
    api.edit(VS, SHOP, "kubectl-edit", http=routes)


async def never_gave_more(calls: Calls, api: KubeApi) -> None:
    """Each time that weights were written, the release gave the canary as much by then."""
    assert {share(service) for _, service in api.written} == {0, *STEPS}
    for revision, service in api.written:
        if revision:
            request = pb.GetPolicyRequest(service_key=SHOP, revision=revision)
            release = (await calls.admin.GetPolicy(request)).policy.release
            is_over = release.status == policy_pb.RELEASE_STATUS_ROLLED_BACK
            assert share(service) == (0 if is_over else release.percentage)


async def test_a_cluster_that_hangs_holds_back_no_other_release_and_no_rollback(
    shop: Calls, api: KubeApi, tmp_path: Path
) -> None:
    api.hang = asyncio.Event()
    await planned(shop, PLAN)
    await planned(shop, PLAN, OTHER)
    async with controlled(shop, **files(tmp_path, api)):
        await until(lambda: is_at(shop, 5, OTHER))
        assert await percentage(shop) == 0, "it waits for its mesh"
        await noted(shop, lambda found: "has not been looked at yet" in found.get("waits_for", ""))
        await shop.change("SetPercentage", percentage=20)  # a person may
        await shop.change("MoveRelease", move=pb.MOVE_ROLL_BACK, delay_s=1)
        await until(lambda: has_ended(shop))
        assert api.written == []
        api.hang.set()
        await gives(api, 0)


async def is_at(calls: Calls, wanted: float, key: str) -> bool:
    return await percentage(calls, key) == wanted


async def has_ended(calls: Calls) -> bool:
    return bool((await calls.policy())["release"]["status"] == "rolled-back")


async def test_a_permission_that_is_missing_holds_the_release_until_it_is_given(
    shop: Calls, api: KubeApi, tmp_path: Path
) -> None:
    api.verbs.remove("patch")
    await planned(shop, PLAN)
    async with controlled(shop, **files(tmp_path, api)):
        await noted(shop, lambda found: "cannot patch resource" in found.get("waits_for", ""))
        assert await percentage(shop) == 0
        api.verbs.add("patch")
        await gives(api, 5)


async def test_a_release_without_a_plan_is_followed_too(
    shop: Calls, api: KubeApi, tmp_path: Path
) -> None:
    await shop.release(10)
    async with controlled(shop, **files(tmp_path, api)):
        await gives(api, 10)
        await shop.change("SetPercentage", percentage=30)
        await gives(api, 30)
        await shop.change("MoveRelease", move=pb.MOVE_HALT)
        await gives(api, 0)


async def test_the_api_server_is_believed_by_its_certificate_alone(
    shop: Calls, tmp_path: Path
) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    pair = authority.server()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    await shop.release(10)
    async with running_kube_api(context) as api:
        found = files(tmp_path, api)
        async with controlled(shop, **found, kubernetes_ca_file=str(stranger.file)) as metrics:
            await shown(metrics, 'mesh_looks_total{service_key="shop",standing="held"} ')
        assert api.requests == [], "no token was shown to it"
        async with controlled(shop, **found, kubernetes_ca_file=str(authority.file)) as metrics:
            await gives(api, 10)
            await shown(metrics, 'mesh_in_step{service_key="shop"} 1.0')
            await shown(metrics, 'mesh_weight_ratio{service_key="shop"} 0.1')
            await shown(metrics, 'mesh_wanted_ratio{service_key="shop"} 0.1')


async def shown(address: str, line: str) -> None:
    """Wait until the controller shows Prometheus this."""
    async with ClientSession() as session:

        async def is_there() -> bool:
            async with session.get(f"http://{address}/metrics") as answer:
                return f"\ncanary_controller_{line}" in await answer.text()

        await until(is_there)
