"""Baselines in contact: which of them give a canary when no release rules, and who is told so."""

from __future__ import annotations

from collections.abc import Sequence

from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2

from canaryctl import policy_tables, render
from canaryctl.errors import Refusal
from canaryctl.session import Session

InContact = admin_pb2.BaselineInContact


def in_contact(session: Session, service: str) -> list[InContact]:
    """The baselines of the gateways in contact with the service that is asked. Raises Refusal."""
    request = admin_pb2.ListBaselinesRequest(service_key=service)
    return list(session.call(session.admin.ListBaselines, request).baselines)


def warning(session: Session, service: str, *, is_over: bool) -> str:
    """What to do before gateways' own files give the canary again; "" if none does.

    It is told after a write that was made, so what cannot be asked is told, too, and is no failure.
    """
    try:
        found = giving(in_contact(session, service), session.policy(service))
    except Refusal as refusal:
        return f"warning: what the gateways' own files give now could not be asked: {refusal}"
    if not found:
        return ""
    when = "now that the release is over" if is_over else "once the release is over"
    told = "; ".join(_told(one) for one in found)
    return (
        f"warning: {when}, gateways give a canary by their own files: {told}. "
        "Set percentage to 0 there, take the whitelists out, and reload them"
    )


def giving(found: Sequence[InContact], policy: policy_pb2.Policy) -> list[InContact]:
    """Those that give somebody something else than the stable version of ``policy``."""
    stable = [v for v in policy.versions if v.status == policy_pb2.VERSION_STATUS_STABLE]
    at_stable = _place(stable[0].backend) if stable else ""
    return [
        one
        for one in found
        if _gives(one.baseline.policy) and (not at_stable or _canarys_place(one) != at_stable)
    ]


def _gives(policy: policy_pb2.Policy) -> bool:
    lists = policy.whitelist
    is_listed = bool(lists.ips or lists.users or lists.consumers)
    is_ruled = any(rule.variant == policy_pb2.VARIANT_CANARY for rule in policy.rules)
    return policy.release.percentage > 0 or is_ruled or is_listed


def _told(one: InContact) -> str:
    policy = one.baseline.policy
    gateways = render.listed(one.gateways)
    return f"{gateways} to {_canarys_place(one)} ({policy_tables.decides_by(policy)})"


def _canarys_place(one: InContact) -> str:
    policy = one.baseline.policy
    names = (v for v in policy.versions if v.version == policy.release.version)
    return next((_place(v.backend) for v in names), "") or policy.release.version


def _place(backend: policy_pb2.Backend) -> str:
    return backend.upstream or (f"{backend.host}:{backend.port}" if backend.host else "")
