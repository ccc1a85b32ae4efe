"""Releases that move by themselves: real Redis, real traffic through the gateway, a controller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from canary.record.v1 import record_pb2
from canary_documents import to_document
from dev_stack.stack import CANARY, CANARY_UPSTREAM, STABLE, Stack
from support.admin import Admin, admin_of
from support.load import Load, User, load, until
from support.prometheus_server import running_prometheus
from support.stack import PATH, running_stack

WITHIN_S = 150.0
CLIENTS, REST_S = 8, 0.1
"""Some 70 requests a second: of the canary's at 5 %, more than one step wants in ten seconds."""
LOOK_EVERY_S = 0.2
SERVICE_KEY = "private"
"""A service whose gateway declares no canary of its own that would rule after the release."""
STEPS = (5.0, 25.0, 50.0)
PLAN: dict[str, Any] = {
    "steps": [{"weight": weight, "hold": "3s", "min_samples": 20} for weight in STEPS],
    "check_interval": "1s",
}
QUERY = {"metric": "custom", "name": "decisions", "promql": "sum(canary_decisions_total)"}
VERSIONS = [
    {"version": STABLE, "status": "stable"},
    {"version": CANARY, "backend": {"upstream": CANARY_UPSTREAM}},
]
USERS = [
    User(
        name=f"user-{number}",
        headers={
            "x-user-id": f"user-{number}",
            "x-user-tier": "premium" if number % 4 == 0 else "free",
        },
        version=STABLE,
        why="the draw",
        path="/private/hello",
    )
    for number in range(400)
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack(controller=()) as running:
        yield running


@pytest.fixture
def admin(stack: Stack) -> Iterator[Admin]:
    with admin_of(stack.admin_address, SERVICE_KEY) as found:
        yield found


@asynccontextmanager
async def releasing(
    stack: Stack,
    admin: Admin,
    *fault: str,
    percentage: float = 5,
    plan: dict[str, Any] = PLAN,
    rest_s: float = REST_S,
) -> AsyncIterator[Load]:
    """Traffic, and a release of a version that may be a bad one."""
    stack.upstreams[CANARY].stop()
    stack.start_upstream(CANARY, *fault)
    admin.end()
    admin("Apply", policy={"plan": plan, "versions": VERSIONS}, prune=True)
    despite = "another build has its name"
    admin("StartRelease", version=CANARY, percentage=percentage, despite_rollback=despite)
    async with load(stack.gateway.address, USERS, clients=CLIENTS, rest_s=rest_s) as found:
        yield found


def release_of(admin: Admin) -> dict[str, Any]:
    """The release as it is stored."""
    return to_document(admin("GetPolicy", service_key=admin.service_key).policy.release)


def record_of(admin: Admin) -> record_pb2.ReleaseRecord:
    """What the controller has noted."""
    found: record_pb2.ReleaseRecord = admin("GetRecord", service_key=admin.service_key).record
    return found


def noted_of(admin: Admin) -> record_pb2.ReleaseRecord:
    """The same; an empty record while there is none, as of a release that was just started."""
    try:
        return record_of(admin)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return record_pb2.ReleaseRecord()
        raise


def events(admin: Admin, what: str) -> list[record_pb2.Event]:
    """What it has noted that happened, of one kind."""
    return [event for event in noted_of(admin).events if event.what == what]


async def becomes(is_so: Callable[[], Any], what: str) -> None:
    """Wait for it, without taking the service's time for the question."""
    await until(is_so, what, WITHIN_S, every_s=LOOK_EVERY_S)


async def ends(admin: Admin, status: str) -> None:
    """Wait until the release ends, as it should."""
    ended = ("completed", "rolled-back", "abandoned")
    await becomes(lambda: release_of(admin)["status"] in ended, status)
    assert release_of(admin)["status"] == status, record_of(admin).events


def weights(admin: Admin) -> list[float]:
    """The weights that the release has had, each once for as long as it lasted."""
    found: list[float] = []
    for change in reversed(admin("ListChanges", service_key=admin.service_key).changes):
        then = admin("GetPolicy", service_key=admin.service_key, revision=change.revision).policy
        if then.release.id == release_of(admin)["id"]:
            weight = then.release.percentage
            found += [weight] if found[-1:] != [weight] else []
    return found


async def everybody_gets(found: Load, version: str) -> None:
    """Wait until every user has asked anew and got the version; nobody may get another again."""
    found.seen.clear()
    await becomes(
        lambda: [found.seen.get(user.name, [""])[-1] for user in USERS] == [version] * len(USERS),
        f"{version} for everybody",
    )
    assert max(seen.count(version) for seen in found.seen.values()) == 1, found.seen


def check_failures(found: Load) -> None:
    """Whatever failed was the bad version's own answer."""
    for answer in found.failed:
        assert answer.status == 500, found.summary()
        assert f'"{CANARY}"' in answer.version, found.summary()


@pytest.mark.parametrize(
    "fault",
    [
        ("--fail", "0.3"),
        ("--delay-ms", "300"),
        ("--fail", "0.9", "--only", "x-user-tier=premium"),
    ],
    ids=["errors", "latency", "only-premium"],
)
async def test_a_bad_version_is_rolled_back_and_only_its_own_answers_fail(
    stack: Stack, admin: Admin, fault: tuple[str, ...]
) -> None:
    async with releasing(stack, admin, *fault) as found:
        await ends(admin, "rolled-back")
        await becomes(lambda: events(admin, "rolled-back"), "an event")
        await everybody_gets(found, STABLE)
    check_failures(found)
    (done,) = events(admin, "rolled-back")
    assert "proof" in done.why or "should be" in done.why
    assert done.revision == admin("GetPolicy", service_key=admin.service_key).policy.revision
    assert set(weights(admin)) <= {*STEPS, 0.0}


async def test_a_release_is_held_while_prometheus_is_gone_and_goes_on_when_it_is_back(
    stack: Stack, admin: Admin
) -> None:
    plan = PLAN | {
        "steps": PLAN["steps"][1:],
        "queries": [QUERY],
        "success": [{"metric": "custom", "name": "decisions", "min": 1}],
        "promote": False,
    }
    port = int(stack.metrics_address.rpartition(":")[2])
    with running_prometheus(port) as prometheus:
        restart_controller(stack, "--prometheus-url", prometheus.url)
        # From 25 % on, a third of the requests is more than a step wants.
        async with releasing(stack, admin, percentage=0, plan=plan, rest_s=3 * REST_S) as found:
            await becomes(lambda: release_of(admin).get("percentage") == 25, "25 %")
            prometheus.stop()
            await becomes(lambda: is_told(admin, "no-data"), "an alert")
            # A raise may have been under way when it went; nothing came after it.
            assert weights(admin) in ([0.0, 25.0], [0.0, 25.0, 50.0])
            assert "no data for decisions" in record_of(admin).waits_for
            prometheus.start()
            await becomes(lambda: record_of(admin).waits_for.startswith("the last"), "end")
        assert not found.failed, found.summary()
    assert weights(admin) == [0.0, 25.0, 50.0]
    assert release_of(admin)["status"] == "in-progress"


def restart_controller(stack: Stack, *options: str) -> None:
    """The controller with other options; what it notes is in the service."""
    stack.controller.stop()
    stack.start_controller(*options)


def is_told(admin: Admin, key: str) -> bool:
    """Whether people have heard of an alert."""
    alerts = noted_of(admin).alerts
    return any(alert.key == key and alert.HasField("told_at") for alert in alerts)


async def test_a_rollback_is_not_verified_while_the_gateways_own_file_gives_the_canary(
    stack: Stack,
) -> None:
    tester = User(
        name="tester",
        headers={"x-canary-test": "true"},
        version=CANARY,
        why="the baseline's rule",
        path=PATH,
    )
    with admin_of(stack.admin_address) as admin:
        admin("Apply", policy={"plan": PLAN, "versions": VERSIONS}, prune=True)
        admin("StartRelease", version=CANARY, percentage=5, despite_rollback="another test")
        admin("MoveRelease", move="roll-back")
        async with load(stack.gateway.address, [tester], clients=1, rest_s=1.0):
            await becomes(lambda: is_told(admin, "rollback:unverified"), "an alert")
        events = record_of(admin).events
    assert "verified" not in [event.what for event in events]
    assert "went to a canary by the gateways' own files" in events[-1].why


async def test_a_good_version_goes_through_the_steps_and_is_promoted(
    stack: Stack, admin: Admin
) -> None:
    async with releasing(stack, admin, percentage=0) as found:
        await ends(admin, "completed")
        await everybody_gets(found, CANARY)
        await becomes(lambda: record_of(admin).is_closed, "the end is verified")
    assert not found.failed, found.summary()
    assert weights(admin) == [0.0, *STEPS]
    statuses = admin("GetPolicy", service_key=admin.service_key).policy.versions
    assert [to_document(version)["status"] for version in statuses] == ["deprecated", "stable"]
    assert [event.what for event in record_of(admin).events][-2:] == ["promoted", "verified"]
