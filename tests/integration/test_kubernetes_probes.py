"""The probes in deploy/kubernetes tell the truth of the processes that the manifests start."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from support.authority import Authority
from support.manifests import base_name, of_kind, programs, secret
from support.node import Node

# A gateway's token was believed, and it hears of policies.
WATCHED = "canary_policy_watchers 1.0"
PROBES = {"startupProbe", "livenessProbe", "readinessProbe"}
# What asks a decision service that answers already.
LATE = {"plugin-server", "controller"}


def token(name: str) -> str:
    (found,) = (s for s in of_kind("demo", "Secret") if base_name(s) == name)
    return secret("demo", found)["token"].decode()


def test_a_decision_service_is_ready_when_redis_answers_and_stays_so_when_it_is_gone() -> None:
    with Node("demo") as node:
        service = node.run("decision-svc", "decision-svc")
        service.wait_for("startupProbe")
        assert service.succeeds("livenessProbe")
        assert not service.succeeds("readinessProbe")

        redis = node.run("redis", "redis")
        redis.wait_for("readinessProbe")
        assert redis.succeeds("livenessProbe")
        service.wait_for("readinessProbe")

        redis.end()
        assert not redis.succeeds("livenessProbe")
        assert not redis.succeeds("readinessProbe")
        assert service.succeeds("livenessProbe")
        assert service.succeeds("readinessProbe")

        service.end()
        assert not any(service.succeeds(kind) for kind in PROBES)


def test_the_controller_s_token_is_believed_where_the_manifest_says_it_is_asked() -> None:
    with Node("demo") as node:
        node.run("redis", "redis").wait_for("readinessProbe")
        service = node.run("decision-svc", "decision-svc")
        service.wait_for("readinessProbe")
        with grpc.insecure_channel(f"127.0.0.1:{service.port('admin')}") as channel:
            answer = admin_pb2_grpc.AdminServiceStub(channel).WhoAmI(
                admin_pb2.WhoAmIRequest(),
                timeout=10,
                metadata=(("authorization", f"Bearer {token('canary-controller')}"),),
            )
    assert answer.name == "controller"


def test_the_plugin_server_has_started_when_both_sockets_take_connections() -> None:
    with Node("demo") as node:
        node.run("redis", "redis").wait_for("readinessProbe")
        service = node.run("decision-svc", "decision-svc")
        service.wait_for("readinessProbe")
        server = node.run("kong", "plugin-server")
        server.wait_for("startupProbe")
        server.wait_for("livenessProbe")
        service.wait_for_metric(WATCHED)
        sockets = Path(server.environment["CANARY_PLUGIN_SOCKET"]).parent
        assert {path.name for path in sockets.iterdir()} == {"plugin.sock", "outcomes.sock"}
        (sockets / "outcomes.sock").unlink()
        assert not server.succeeds("startupProbe")
        server.end()
        assert not server.succeeds("livenessProbe")


def test_kong_need_not_wait_for_a_decision_service() -> None:
    with Node("demo") as node:
        server = node.run("kong", "plugin-server")
        server.wait_for("startupProbe")
        server.wait_for("livenessProbe")


@pytest.mark.parametrize("version", ["stable", "canary"])
def test_the_demo_s_api_answers_the_seed_s_probes(version: str) -> None:
    with Node("demo") as node:
        api = node.run(f"yyc3-xy-api-{version}", "api")
        api.wait_for("readinessProbe")
        assert api.succeeds("livenessProbe")
        api.end()
        assert not api.succeeds("livenessProbe")


def test_production_s_probes_need_no_certificate_where_everybody_else_needs_tls(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    files = authority.server()
    (access,) = (s for s in of_kind("demo", "Secret") if base_name(s) == "canary-access")
    secrets = {
        "canary-redis": {"url": b""},
        "canary-access": secret("demo", access),
        "canary-gateway": {"token": token("canary-gateway").encode()},
        "canary-decision-svc-tls": {
            "tls.crt": files.certificate.read_bytes(),
            "tls.key": files.key.read_bytes(),
            "ca.crt": authority.file.read_bytes(),
        },
    }
    with Node("production", secrets) as node:
        service = node.run("decision-svc", "decision-svc")
        service.wait_for("readinessProbe")
        assert service.succeeds("livenessProbe")
        assert not service.by_grpc({"port": "grpc"}, 5)
        # And a gateway that has the authority and a token gets through.
        server = node.run("kong", "plugin-server")
        service.wait_for_metric(WATCHED)
        shown = Path(server.environment["CANARY_PLUGIN_TLS_CA"]).parent
        assert [path.name for path in shown.iterdir()] == ["ca.crt"]


def test_every_probe_of_every_program_of_ours_succeeds_while_it_runs_and_then_no_more() -> None:
    with Node("demo") as node:
        node.run("redis", "redis").wait_for("readinessProbe")
        running = []
        for found, container in sorted(programs("demo"), key=lambda one: one[1]["name"] in LATE):
            running.append((node.run(found.name, container["name"]), PROBES & container.keys()))
            for kind in running[-1][1]:
                running[-1][0].wait_for(kind)
        assert len(running) >= 2
        for process, kinds in reversed(running):
            process.end()
            assert not any(process.succeeds(kind) for kind in kinds)
