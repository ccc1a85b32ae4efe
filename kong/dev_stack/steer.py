"""Sets up the sample service's versions and first release through the admin API."""

from __future__ import annotations

import grpc
from canary.admin.v1 import admin_pb2 as pb
from canary.admin.v1 import admin_pb2_grpc
from canary.policy.v1 import policy_pb2 as policy_pb

from dev_stack.stack import CANARY, CANARY_UPSTREAM, SERVICE_KEY, STABLE

DEADLINE_S = 5.0


def admin(address: str) -> admin_pb2_grpc.AdminServiceStub:
    """A client of the admin API."""
    return admin_pb2_grpc.AdminServiceStub(grpc.insecure_channel(address))


def change(reason: str) -> pb.Change:
    """A change by the stack itself."""
    return pb.Change(service_key=SERVICE_KEY, actor="dev-stack", reason=reason)


def register_versions(client: admin_pb2_grpc.AdminServiceStub) -> None:
    """Register the two sample versions; again is harmless."""
    stable = policy_pb.Version(version=STABLE, status=policy_pb.VERSION_STATUS_STABLE)
    canary = policy_pb.Version(version=CANARY, backend=policy_pb.Backend(upstream=CANARY_UPSTREAM))
    for version in (stable, canary):
        client.RegisterVersion(
            pb.RegisterVersionRequest(change=change("sample set-up"), version=version),
            timeout=DEADLINE_S,
        )


def set_rules(client: admin_pb2_grpc.AdminServiceStub) -> None:
    """Testers get the canary, enterprise users never first."""
    header, cookie = policy_pb.SOURCE_HEADER, policy_pb.SOURCE_COOKIE
    canary, stable = policy_pb.VARIANT_CANARY, policy_pb.VARIANT_STABLE
    rules = [
        policy_pb.Rule(name=name, source=source, key=key, exact=exact, variant=variant)
        for name, source, key, exact, variant in (
            ("testers", header, "x-canary-test", "true", canary),
            ("opted-in", cookie, "yyc3_canary", "enabled", canary),
            ("enterprise", header, "x-user-tier", "enterprise", stable),
        )
    ]
    request = pb.SetRulesRequest(change=change("sample set-up"), rules=rules)
    client.SetRules(request, timeout=DEADLINE_S)


def start_release(client: admin_pb2_grpc.AdminServiceStub, percentage: float) -> None:
    """Start releasing the sample's canary version."""
    client.StartRelease(
        pb.StartReleaseRequest(
            change=change("sample set-up"), version=CANARY, percentage=percentage
        ),
        timeout=DEADLINE_S,
    )


def is_empty(client: admin_pb2_grpc.AdminServiceStub) -> bool:
    """Whether nothing was stored yet."""
    return not client.ListServices(pb.ListServicesRequest(), timeout=DEADLINE_S).services
