"""Policies that the store has lost: they rule from memory, and can be stopped all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from canary.decision.v1 import decision_pb2, decision_pb2_grpc
from canary_documents import to_document
from decision_svc.app import Running
from dev_stack.stack import CANARY, STABLE
from redis import Redis
from structlog.testing import capture_logs
from support.admin import DEADLINE_S, Admin, admin_of
from support.canaryctl import Ctl
from support.redis_server import RedisServer, running_redis
from support.service import await_ready, serve_in_thread

Store = Any
"""A client of Redis, whose own types know texts only."""
SHOP = "shop"
# A store that is late on a slow machine refuses writes, which is not what is tested.
PATIENT = {"store_deadline_ms": 10_000, "compare_every_ms": 50}
LOST = "lost from the store, ruled from memory"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What services log from their threads would stand between what canaryctl says."""
    with capture_logs():
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Store]:
    with Redis.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def service(server: RedisServer, redis: Store) -> Iterator[Running]:
    with serve_in_thread(redis_url=server.url, **PATIENT) as running:
        yield running


@pytest.fixture
def admin(service: Running) -> Iterator[Admin]:
    with admin_of(service.admin_address, SHOP) as admin:
        yield admin


@pytest.fixture
def ctl(service: Running) -> Ctl:
    return Ctl(service.admin_address)


def variant(service: Running, service_key: str = SHOP) -> str:
    """Where a user goes."""
    with grpc.insecure_channel(service.decision_address) as channel:
        request = decision_pb2.DecideRequest(service_key=service_key, headers={"x-user-id": "u"})
        answer = decision_pb2_grpc.DecisionServiceStub(channel).Decide(request, timeout=DEADLINE_S)
    return str(to_document(answer.decision)["variant"])


def rules_with(service: Running, revision: int) -> None:
    """Wait until gateways of this service hear of the revision."""
    with grpc.insecure_channel(service.decision_address) as channel:
        request = decision_pb2.WatchPoliciesRequest(service_keys=[SHOP], gateway="kong-1")
        stub = decision_pb2_grpc.DecisionServiceStub(channel)
        for update in stub.WatchPolicies(request, timeout=DEADLINE_S):
            if update.policy.revision == revision:
                return


def stored(redis: Store, service_key: str = SHOP) -> Any:
    """What the store has of a policy."""
    found = redis.hget(f"canary:{{{service_key}}}:policy", "document")
    return None if found is None else json.loads(found)


def test_halt_all_halts_what_the_store_has_lost_for_every_replica_and_after_restarts(
    server: RedisServer, redis: Store, service: Running, admin: Admin, ctl: Ctl
) -> None:
    admin.release(100)
    with serve_in_thread(redis_url=server.url, **PATIENT) as another:
        await_ready(another)
        redis.flushall()
        assert variant(service) == variant(another) == "canary"
        (halted,) = ctl.told("halt", "--all", "--reason", "fire")["services"]
        assert halted == {"service_key": SHOP, "revision": 4}
        assert variant(service) == "stable"
        rules_with(another, 4)
        assert variant(another) == "stable"
    found = stored(redis)
    assert (found["revision"], found["release"]["halted"]) == (4, True)
    assert [version["version"] for version in found["versions"]] == [STABLE, CANARY]
    with serve_in_thread(redis_url=server.url, **PATIENT) as restarted:
        await_ready(restarted)
        assert variant(restarted) == "stable"
    (change,) = ctl.told("history", SHOP)["changes"]
    assert (change["actor"], change["reason"]) == ("kim", "fire")
    assert change["summary"].endswith("the store had lost revision 3")


def test_halt_all_tells_of_a_service_that_it_could_not_halt_and_exits_with_1(
    redis: Store, service: Running, admin: Admin, ctl: Ctl
) -> None:
    admin.release(100)
    redis.delete("canary:{shop}:policy")
    redis.set("canary:{shop}:revisions", "of another kind")
    result = ctl("halt", "--all", "--reason", "fire")
    assert result.exit_code == 1
    assert "1 of 1 could not be halted: shop" in result.stderr
    assert variant(service) == "canary"


def test_a_service_that_never_had_the_policy_does_not_pass_for_one_that_halted_it(
    server: RedisServer, redis: Store, admin: Admin
) -> None:
    admin.release(100)
    redis.flushall()
    with serve_in_thread(redis_url=server.url, **PATIENT) as restarted:
        await_ready(restarted)
        result = Ctl(restarted.admin_address)("halt", "--all", "--reason", "fire")
        assert f"{restarted.admin_address} knows of no release in force" in result.stdout


@pytest.mark.parametrize("words", [("halt", SHOP), ("release", "rollback", SHOP)])
def test_a_release_that_the_store_has_lost_is_stopped_by_itself(
    redis: Store, service: Running, admin: Admin, ctl: Ctl, words: tuple[str, ...]
) -> None:
    admin.release(100)
    redis.flushall()
    assert ctl.told(*words, "--reason", "fire") == {"service_key": SHOP, "revision": 4}
    assert variant(service) == "stable"
    assert stored(redis)["revision"] == 4


def test_what_was_halted_before_it_was_lost_is_written_back_by_halting_again(
    redis: Store, admin: Admin, ctl: Ctl
) -> None:
    admin.release(100)
    admin("MoveRelease", move="halt")
    redis.flushall()
    for _ in range(2):
        (halted,) = ctl.told("halt", "--all", "--reason", "fire")["services"]
        assert halted["revision"] == 5
    assert stored(redis)["release"]["halted"]


def test_a_change_for_another_revision_than_memorys_is_refused_of_a_lost_policy(
    redis: Store, admin: Admin, ctl: Ctl
) -> None:
    admin.release(100)
    redis.flushall()
    words = ("percentage", SHOP, "5", "--reason", "less")
    result = ctl(*words, "--expected-revision", "2")
    assert (result.exit_code, "shop is at revision 3, not 2" in result.stderr) == (3, True)
    assert ctl.told(*words, "--expected-revision", "3")["revision"] == 4
    assert stored(redis)["release"]["percentage"] == 5


def test_a_release_is_halted_again_after_the_store_was_set_back_to_before_its_halt(
    redis: Store, service: Running, admin: Admin, ctl: Ctl
) -> None:
    admin.release(100)
    backup = {key: redis.dump(key) for key in redis.keys("canary:*")}
    redis.flushall()
    ctl.told("halt", "--all", "--reason", "fire")
    redis.flushall()
    for key, value in backup.items():
        redis.restore(key, 0, value)
    rules_with(service, 3)
    (halted,) = ctl.told("halt", "--all", "--reason", "it burns again")["services"]
    assert halted["revision"] == 4
    assert variant(service) == "stable"
    assert ctl("audit", "verify", SHOP).exit_code == 0


def test_the_export_of_a_lost_policy_brings_it_back(
    redis: Store, admin: Admin, ctl: Ctl, tmp_path: Path
) -> None:
    admin.release(100)
    redis.flushall()
    file = tmp_path / "shop.yaml"
    file.write_text(ctl("export", SHOP).stdout)
    applied = ctl("apply", "-f", str(file), "--reason", "lost")
    assert (applied.exit_code, applied.stderr) == (0, "")
    found = stored(redis)
    assert (found["revision"], found["release"]["percentage"]) == (4, 100)


def test_status_shows_a_lost_policy_as_such_and_the_others_as_always(
    redis: Store, admin: Admin, service: Running, ctl: Ctl
) -> None:
    admin.release(100)
    with admin_of(service.admin_address, "bakery") as other:
        other.release(5)
    for key in redis.keys("canary:{shop}:*"):
        redis.delete(key)
    redis.srem("canary:services", SHOP)
    shown = ctl("status")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert f"{SHOP}: {LOST}" in shown.stdout
    assert f"bakery: {LOST}" not in shown.stdout
    bakery, shop = ctl.told("status")["services"]
    assert (bakery["service_key"], bakery["revision"], "trouble" in bakery) == ("bakery", 3, False)
    assert (shop["service_key"], shop["revision"]) == (SHOP, 3)
    assert shop["trouble"].startswith(LOST)
    assert ctl("halt", SHOP, "--reason", "stop").exit_code == 0
    assert LOST not in ctl("status").stdout


def test_status_says_of_a_policy_that_cannot_be_read_what_is_wrong_and_shows_the_others(
    redis: Store, admin: Admin, service: Running, ctl: Ctl
) -> None:
    admin.release(100)
    with admin_of(service.admin_address, "bakery") as other:
        other.release(5)
    redis.hset("canary:{shop}:policy", "document", '{"service_key": 7}')
    shown = ctl("status")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert f"{SHOP}: ruled from memory: the stored policy of 'shop' is" in shown.stdout
    assert "bakery" in shown.stdout
