"""What every method of every service needs: one table. A method that is not in it is refused.

Roles go by service key, so the table also says where in the request the service key stands.
docs/access.md shows this table to people; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from decision_svc.access.caller import EVERY_KEY, Caller, Role

ANY_KEY = ""
"""Instead of a service key: the role for any one is enough, the answer shows no others."""

_ADMIN = "/canary.admin.v1.AdminService/"
_DECISION = "/canary.decision.v1.DecisionService/"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/"

OPEN = frozenset(f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch"))
"""What anybody may call: whether the service is well is no secret."""


@dataclass(frozen=True, slots=True)
class Need:
    """A role for a service key; no role is the role gateway, which goes by no service key."""

    role: Role | None
    service_key: str = EVERY_KEY

    def is_met(self, caller: Caller) -> bool:
        """Whether the caller may."""
        if self.role is None:
            return caller.is_gateway
        if self.service_key == ANY_KEY:
            return any(role >= self.role for role in caller.roles.values())
        return caller.may(self.role, self.service_key)

    def __str__(self) -> str:
        if self.role is None:
            return "the role gateway"
        if self.service_key == EVERY_KEY:
            return f'the role {self.role} for "*", every service key'
        if self.service_key == ANY_KEY:
            return f"the role {self.role} for some service key"
        return f"the role {self.role} for service key {self.service_key[:128]!r}"


Needed = Callable[[Any], Need]


def _by(role: Role, path: str) -> Needed:
    """The role for the service key that stands in the request at ``path``."""
    names = path.split(".")

    def needed(request: Any) -> Need:
        # Nobody has a role for a service key that is not said, but those who have it for all.
        return Need(role, reduce(getattr, names, request) or EVERY_KEY)

    return needed


def _always(need: Need) -> Needed:
    return lambda _: need


def _apply(request: Any) -> Need:
    """Looking at what would change is a look; removing what a file does not name is for admins."""
    role = Role.ADMIN if request.prune else Role.OPERATOR
    return Need(Role.VIEWER if request.dry_run else role, request.change.service_key or EVERY_KEY)


def _baselines(request: Any) -> Need:
    return Need(Role.VIEWER, request.service_key or ANY_KEY)


def _methods() -> dict[str, Needed]:
    viewer, operator = Role.VIEWER, Role.OPERATOR
    change, key = "change.service_key", "service_key"
    by_name: dict[str, Needed] = {
        "WhoAmI": _always(Need(viewer, ANY_KEY)),
        "ListServices": _always(Need(viewer, ANY_KEY)),
        "ListBaselines": _baselines,
        "Explain": _by(viewer, "request.service_key"),
        "GetProfile": _always(Need(viewer)),
        # Profiles belong to users, and so to every service key.
        "PutProfile": _always(Need(operator)),
        "RemoveProfile": _always(Need(operator)),
        # Halts the releases that the caller may halt, and tells of the others.
        "HaltAll": _always(Need(operator, ANY_KEY)),
        # Guards that become looser take an admin, whatever call loosens them: see guarding.
        "SetGuards": _by(operator, change),
        # For the controller, which sees to the releases of every service key.
        "HoldLease": _always(Need(operator)),
        "DropLease": _always(Need(operator)),
        "FollowReleases": _always(Need(operator)),
        "PutRecord": _by(operator, "record.service_key"),
        "ReportMetrics": _by(operator, key),
        "RemoveVersion": _by(Role.ADMIN, change),
        "Apply": _apply,
    }
    looking = (
        "ListMembers", "GetPolicy", "GetEffectivePolicy", "ListChanges", "ListAudit",
        "GetShadow", "GetExposure", "ListOutcomes", "GetMetrics", "GetRecord",
    )  # fmt: skip
    by_name |= {name: _by(viewer, key) for name in looking}
    writing = (
        "RegisterVersion", "DeprecateVersion", "StartRelease", "SetPercentage", "MoveRelease",
        "Revert", "Approve", "WithdrawApproval", "CreateOverride", "RevokeOverride",
        "SetOverrides",
        "SetRules", "AddRule", "RemoveRule",
        "SetWhitelist", "AddToWhitelist", "RemoveFromWhitelist",
        "PutSegment", "RemoveSegment", "AddMembers", "RemoveMembers",
        "PutFlag", "RemoveFlag", "SetBucketing", "SetIdentity", "SetCompatibility",
        "SetShadow", "RemoveShadow", "TickChecklist",
    )  # fmt: skip
    by_name |= {name: _by(operator, change) for name in writing}
    gateway = _always(Need(None))
    asking = ("Decide", "DecideStream", "WatchPolicies", "GetPerson", "ReportOutcomes")
    return {
        **{_ADMIN + name: needed for name, needed in by_name.items()},
        **{_DECISION + name: gateway for name in asking},
        f"{_REFLECTION}ServerReflectionInfo": _always(Need(viewer, ANY_KEY)),
    }


METHODS = _methods()
"""What a call needs, by the method's full name as gRPC writes it."""
