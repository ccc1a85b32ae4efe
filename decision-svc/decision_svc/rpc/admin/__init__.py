"""The AdminService: what people and the controller call.

Each write is an edit of the policy's document; see admin.proto for what it promises.
"""

from __future__ import annotations

from canary.admin.v1 import admin_pb2_grpc

from decision_svc.rpc.admin.access import AccessCalls
from decision_svc.rpc.admin.audit import AuditCalls
from decision_svc.rpc.admin.control import ControlCalls
from decision_svc.rpc.admin.exposure import ExposureCalls
from decision_svc.rpc.admin.files import FileCalls
from decision_svc.rpc.admin.guards import GuardCalls
from decision_svc.rpc.admin.looking import LookingCalls
from decision_svc.rpc.admin.metrics import MetricCalls
from decision_svc.rpc.admin.overrides import OverrideCalls
from decision_svc.rpc.admin.parts import Parts
from decision_svc.rpc.admin.people import PeopleCalls
from decision_svc.rpc.admin.releases import ReleaseCalls
from decision_svc.rpc.admin.rules import RuleCalls
from decision_svc.rpc.admin.shadows import ShadowCalls

__all__ = ["AdminService", "Parts"]


class AdminService(
    ReleaseCalls,
    GuardCalls,
    OverrideCalls,
    FileCalls,
    RuleCalls,
    PeopleCalls,
    LookingCalls,
    AccessCalls,
    AuditCalls,
    ExposureCalls,
    ShadowCalls,
    MetricCalls,
    ControlCalls,
    admin_pb2_grpc.AdminServiceServicer,
):
    """All of its methods."""
