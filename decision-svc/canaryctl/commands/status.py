"""``status`` and ``baselines``: one screen of what is released, and what rules where and why."""

from __future__ import annotations

from typing import Any

import click
from canary.admin.v1 import admin_pb2

from canaryctl import render, tables
from canaryctl.errors import NEXT_STEPS, Refusal
from canaryctl.options import Verb, service_keys
from canaryctl.session import Session

Effective = dict[str, admin_pb2.GetEffectivePolicyResponse]


@click.command(cls=Verb)
@click.argument("service", required=False, shell_complete=service_keys)
@click.pass_obj
def status(session: Session, service: str | None) -> None:
    """Show what is released and which policy is in force where, and why."""
    summaries = _summaries(session, service)
    known = list(dict.fromkeys([*summaries, *_with_baselines(session, service)]))
    if service is not None and not known:
        raise Refusal(
            "not-found",
            f"{service}: no policy is stored, and no gateway in contact declares one",
            NEXT_STEPS["not-found"].format(service=service),
        )
    effective = {key: _effective(session, key) for key in known}
    session.show(
        {"services": [_document(key, summaries.get(key), effective[key]) for key in known]},
        lambda: _page(summaries, effective),
    )


@click.command(cls=Verb)
@click.argument("service", required=False, shell_complete=service_keys)
@click.pass_obj
def baselines(session: Session, service: str | None) -> None:
    """List the baselines that the gateways in contact declare."""
    found = _baselines(session, service)
    session.show({"baselines": render.documents(found)}, lambda: [tables.baselines(found)])


def _summaries(session: Session, service: str | None) -> dict[str, admin_pb2.ServiceSummary]:
    answer = session.call(session.admin.ListServices, admin_pb2.ListServicesRequest())
    return {s.service_key: s for s in answer.services if service in (None, s.service_key)}


def _baselines(session: Session, service: str | None) -> list[admin_pb2.BaselineInContact]:
    request = admin_pb2.ListBaselinesRequest(service_key=service or "")
    return list(session.call(session.admin.ListBaselines, request).baselines)


def _with_baselines(session: Session, service: str | None) -> list[str]:
    return sorted({b.baseline.policy.service_key for b in _baselines(session, service)})


def _effective(session: Session, service: str) -> admin_pb2.GetEffectivePolicyResponse:
    request = admin_pb2.GetEffectivePolicyRequest(service_key=service)
    return session.call(session.admin.GetEffectivePolicy, request)


def _document(
    service: str,
    summary: admin_pb2.ServiceSummary | None,
    answer: admin_pb2.GetEffectivePolicyResponse,
) -> dict[str, Any]:
    policies = [
        {name: value for name, value in render.document(entry).items() if name != "policy"}
        for entry in answer.policies
    ]
    said = render.document(summary) if summary is not None else {"service_key": service}
    return {**said, "policies": policies}


def _page(summaries: dict[str, admin_pb2.ServiceSummary], effective: Effective) -> list[str]:
    if not effective:
        return ["no services yet; register a version first: canaryctl version register --help"]
    stored = tables.services(summaries.values()) if summaries else "no policy is stored"
    return [stored, tables.effective(effective.items())]
