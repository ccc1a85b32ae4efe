"""A decision service in a process of its own that holds the benchmarks' policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from canary.admin.v1 import admin_pb2 as admin
from canary.admin.v1 import admin_pb2_grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_documents import to_message
from dev_stack.processes import Process

from harness.policies import SERVICE_KEY, Visitor

DEADLINE_S = 10.0
BASELINES = Path(__file__).resolve().parents[1] / "baselines"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where it listens, and the process."""

    address: str
    process: Process


@contextmanager
def service(run_dir: Path, *documents: dict[str, Any]) -> Iterator[Service]:
    """A decision service with these policies in its memory store."""
    listen = [f"--{name}=127.0.0.1:0" for name in ("listen", "admin-listen")]
    command = [sys.executable, "-m", "decision_svc", "--insecure", *listen, "--metrics-listen="]
    process = Process("decision service", command, run_dir / "service.log", ready_word='"ready"')
    ready = json.loads(process.start())
    try:
        for document in documents:
            _publish(ready["admin"], document)
        yield Service(address=ready["decision"], process=process)
    finally:
        process.stop()


def _publish(address: str, document: dict[str, Any]) -> None:
    policy = to_message({k: v for k, v in document.items() if k != "release"}, policy_pb2.Policy)
    who = admin.Change(service_key=policy.service_key, actor="bench", reason="benchmark")
    release = document["release"]
    with grpc.insecure_channel(address) as channel:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        for version in policy.versions:
            if version.status == policy_pb2.VERSION_STATUS_CANARY:
                version.ClearField("status")  # the release makes it that
            stub.RegisterVersion(admin.RegisterVersionRequest(change=who, version=version))
        stub.SetRules(admin.SetRulesRequest(change=who, rules=policy.rules), timeout=DEADLINE_S)
        stub.SetWhitelist(admin.SetWhitelistRequest(change=who, whitelist=policy.whitelist))
        stub.SetIdentity(admin.SetIdentityRequest(change=who, identity=policy.identity))
        stub.SetBucketing(admin.SetBucketingRequest(change=who, bucketing=policy.bucketing))
        for segment in policy.segments:
            stub.PutSegment(admin.PutSegmentRequest(change=who, segment=segment))
        stub.StartRelease(
            admin.StartReleaseRequest(
                change=who,
                version=release["version"],
                percentage=release["percentage"],
                salt=release["salt"],
            )
        )


READ_HEADERS = ("x-canary-test", "x-user-id", "x-tier", "x-region", "x-tags")


def question(visitor: Visitor, service_key: str = SERVICE_KEY) -> pb.DecideRequest:
    """What a gateway sends for a visitor: no more than the policy reads."""
    headers, cookies = visitor.headers, visitor.cookies
    return pb.DecideRequest(
        service_key=service_key,
        headers={name: headers[name] for name in READ_HEADERS if name in headers},
        cookies={name: cookies[name] for name in ("canary",) if name in cookies},
        client_ip=visitor.client_ip,
    )
