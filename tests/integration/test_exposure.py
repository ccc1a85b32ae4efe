"""Whom a release has served: counted beside deciding, told by every replica, never by name."""

from __future__ import annotations

import json
from collections.abc import Iterator

import grpc
import pytest
from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary.policy.v1 import policy_pb2
from canary_engine.exposure import mark
from canaryctl.app import cli
from click.testing import CliRunner
from decision_svc.app import Running
from support.admin import Admin, admin_of
from support.exposures import counted_by
from support.redis_server import RedisServer, running_redis
from support.service import await_ready, serve_in_thread

SHOP = "shop"
# A store that is late on a slow machine is told once more, after an answer that lacks something.
PATIENT = {"store_deadline_ms": 10_000}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as redis:
        yield redis


def release(admin: Admin) -> str:
    admin("RegisterVersion", version={"version": "v1", "status": "stable"})
    admin("RegisterVersion", version={"version": "v2"})
    admin("StartRelease", version="v2", percentage=0)
    admin("SetWhitelist", whitelist={"users": ["ann", "bob"]})
    return str(admin("GetPolicy", service_key=SHOP).policy.release.id)


def decide(service: Running, *users: str, key: str = "") -> None:
    with grpc.insecure_channel(service.decision_address) as channel:
        stub = decision_pb2_grpc.DecisionServiceStub(channel)
        for user in users:
            request = pb.DecideRequest(service_key=SHOP, fallback_key=key)
            if user:
                request.headers["x-user-id"] = user
            stub.Decide(request, timeout=30)


def counts(admin: Admin, **fields: object) -> dict[int, int]:
    answer = admin("GetExposure", service_key=SHOP, **fields)
    return {found.variant: found.users for found in answer.exposures}


def test_distinct_users_are_counted_by_variant_over_all_replicas(redis: RedisServer) -> None:
    with (
        serve_in_thread(redis_url=redis.url, **PATIENT) as one,
        serve_in_thread(redis_url=redis.url, compare_every_ms=10, **PATIENT) as two,
        admin_of(one.admin_address, SHOP) as admin,
        admin_of(two.admin_address, SHOP) as other,
    ):
        await_ready(two)
        id_ = release(admin)
        while other("ListServices").services[:1] == [] or (
            other("ListServices").services[0].revision != 4
        ):
            pass
        decide(one, "ann", "ann", "kim", "lee")
        decide(two, "ann", "bob", "kim", "max")
        decide(one, "", "", key="drawn")
        counts(other)  # tells what this replica has noted
        served = {1: ["kim", "lee", "max", "drawn"], 2: ["ann", "bob"]}
        expected = {v: counted_by(redis.url, SHOP, id_, users) for v, users in served.items()}
        assert counts(admin) == expected
        assert counts(admin, release_id=id_) == expected
        with pytest.raises(
            grpc.RpcError, match="nobody was counted for release 'another' of 'shop'"
        ):
            counts(admin, release_id="another")


def test_who_is_told_only_where_it_is_kept_and_never_by_name(redis: RedisServer) -> None:
    for number, (user, kept) in enumerate({"ann": False, "bob": True}.items(), start=1):
        with (
            serve_in_thread(redis_url=redis.url, keep_exposed_users=kept, **PATIENT) as service,
            admin_of(service.admin_address, SHOP) as admin,
        ):
            await_ready(service)
            if not kept:
                release(admin)
            id_ = admin("GetPolicy", service_key=SHOP).policy.release.id
            decide(service, user)
            # A store that is late is told once more.
            while (told := canary(admin)).users < number:
                pass
            hashed = f"{mark(SHOP, id_, user):016x}"
            assert list(told.hashed_users) == ([hashed] if kept else [])


def canary(admin: Admin) -> admin_pb2.Exposure:
    """Whom the canary has served."""
    answer = admin("GetExposure", service_key=SHOP, with_users=True)
    found: admin_pb2.Exposure = answer.exposures[policy_pb2.VARIANT_CANARY - 1]
    assert found.variant == policy_pb2.VARIANT_CANARY
    return found


def test_a_decision_without_a_release_counts_nobody() -> None:
    with serve_in_thread() as service, admin_of(service.admin_address, SHOP) as admin:
        release(admin)
        decide(service, "ann")
        admin("MoveRelease", move="roll-back")
        decide(service, "kim", "bob")
        assert counts(admin) == {1: 0, 2: 1}


def test_a_service_key_without_a_release_has_no_exposure() -> None:
    with serve_in_thread() as service, admin_of(service.admin_address, SHOP) as admin:
        with pytest.raises(grpc.RpcError, match="there is no policy of"):
            counts(admin)
        admin("RegisterVersion", version={"version": "v1", "status": "stable"})
        with pytest.raises(grpc.RpcError, match="was ever started"):
            counts(admin)


def test_canaryctl_shows_the_exposure() -> None:
    with serve_in_thread() as service, admin_of(service.admin_address, SHOP) as admin:
        id_ = release(admin)
        decide(service, "ann", "kim", "lee")
        words = ["--address", service.admin_address, "release", "exposure", SHOP]
        shown = CliRunner().invoke(cli, words)
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert f"exposure of release {id_}" in shown.stdout
        found = json.loads(CliRunner().invoke(cli, [*words, "--output", "json"]).stdout)
        assert found["exposures"] == [
            {"variant": "stable", "users": 2},
            {"variant": "canary", "users": 1},
        ]
        # Nobody kept who they were, and whoever asks is told so.
        page = CliRunner().invoke(cli, [*words, "--users"]).stdout
        assert page.count("it is not kept which users these were") == 2
        assert "--keep-exposed-users" in page
        assert "not kept" not in shown.stdout
