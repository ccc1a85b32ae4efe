"""``status`` and ``baselines``: one screen of what is released, and what rules where and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from canary.record.v1 import record_pb2
from canary_engine import parse
from canary_engine.guards import is_frozen

from canaryctl import answer_tables, policy_tables, progress, render
from canaryctl.errors import NEXT_FOR_AN_UNKNOWN_SERVICE, Refusal
from canaryctl.options import Verb, service_keys
from canaryctl.session import Session

_LOST = "lost from the store, ruled from memory: the next change writes it back"
# A policy that cannot be read is one service's trouble; these are everybody's.
_OF_ALL = ("unavailable", "deadline-exceeded", "unauthenticated", "permission-denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of one service key; without a summary there is no stored policy."""

    service_key: str
    summary: admin_pb2.ServiceSummary | None
    policy: policy_pb2.Policy
    effective: admin_pb2.GetEffectivePolicyResponse
    baselines: list[admin_pb2.BaselineInContact]
    record: record_pb2.ReleaseRecord | None = None
    trouble: str = ""
    """What is the matter with the stored policy."""


@click.command(cls=Verb)
@click.argument("service", required=False, shell_complete=service_keys)
@click.pass_obj
def status(session: Session, service: str | None) -> None:
    """Show what is released, which policy is in force where, and why.

    Of a release with a plan it tells the step, the judge's verdict, and what is waited for and for
    whom. Of one SERVICE also the gates and findings, the rules in force at each gateway, and the
    baseline that a release rules over. Freezes in force, unused approvals and deprecated API
    versions are told of all.
    """
    summaries, declared = _summaries(session, service), _baselines(session, service)
    with_baselines = sorted({b.baseline.policy.service_key for b in declared})
    keys = list(dict.fromkeys([*summaries, *with_baselines]))
    if service is not None and not keys:
        raise Refusal(
            "not-found",
            f"{service}: no policy is stored, and no gateway in contact declares one",
            NEXT_FOR_AN_UNKNOWN_SERVICE,
        )
    now = datetime.now(UTC)
    known = [_known(session, key, summaries.get(key), declared) for key in keys]
    session.show(
        {"services": [_document(one, now) for one in known]},
        lambda: _page(known, now, is_one=service is not None),
    )


@click.command(cls=Verb)
@click.argument("service", required=False, shell_complete=service_keys)
@click.pass_obj
def baselines(session: Session, service: str | None) -> None:
    """List the baselines that the gateways in contact declare."""
    found = _baselines(session, service)
    session.show({"baselines": render.documents(found)}, lambda: [answer_tables.baselines(found)])


def _summaries(session: Session, service: str | None) -> dict[str, admin_pb2.ServiceSummary]:
    answer = session.call(session.admin.ListServices, admin_pb2.ListServicesRequest())
    return {s.service_key: s for s in answer.services if service in (None, s.service_key)}


def _baselines(session: Session, service: str | None) -> list[admin_pb2.BaselineInContact]:
    request = admin_pb2.ListBaselinesRequest(service_key=service or "")
    return list(session.call(session.admin.ListBaselines, request).baselines)


def _known(
    session: Session,
    key: str,
    summary: admin_pb2.ServiceSummary | None,
    declared: Iterable[admin_pb2.BaselineInContact],
) -> Known:
    request = admin_pb2.GetEffectivePolicyRequest(service_key=key)
    policy, trouble = policy_pb2.Policy(service_key=key), ""
    if summary is not None:
        policy, trouble = _stored(session, key)
    return Known(
        service_key=key,
        summary=summary,
        policy=policy,
        effective=session.call(session.admin.GetEffectivePolicy, request),
        baselines=[b for b in declared if b.baseline.policy.service_key == key],
        record=_record(session, policy) if progress.is_planned(policy) else None,
        trouble=trouble,
    )


def _stored(session: Session, key: str) -> tuple[policy_pb2.Policy, str]:
    """The policy, and what is the matter with it: that keeps no other from being shown."""
    request = admin_pb2.GetPolicyRequest(service_key=key)
    try:
        answer = session.call(session.admin.GetPolicy, request)
    except Refusal as refusal:
        if refusal.code in _OF_ALL:
            raise
        return policy_pb2.Policy(service_key=key), f"ruled from memory: {refusal.message}"
    return answer.policy, _LOST if answer.is_lost else ""


def _record(session: Session, policy: policy_pb2.Policy) -> record_pb2.ReleaseRecord | None:
    """What a controller has noted of the release; None: nothing."""
    request = admin_pb2.GetRecordRequest(
        service_key=policy.service_key, release_id=policy.release.id
    )
    try:
        return session.call(session.admin.GetRecord, request).record
    except Refusal as refusal:
        if refusal.code == "not-found":
            return None
        raise


def _document(known: Known, now: datetime) -> dict[str, Any]:
    policies = [
        {
            **{name: value for name, value in render.document(entry).items() if name != "policy"},
            "decides_by": policy_tables.decides_by(entry.policy),
        }
        for entry in known.effective.policies
    ]
    summary, key = known.summary, {"service_key": known.service_key}
    said = render.document(summary) if summary is not None else key
    frozen = [render.document(freeze) for freeze in _frozen(known.policy, now)]
    more: dict[str, Any] = {
        "trouble": known.trouble,
        "needs_second_person": render.document(known.policy.guards.approvals),
        "freezes_in_force": frozen,
        "approvals": render.documents(_usable(known.policy, now)),
        "deprecated_api_versions": render.documents(_deprecated(known.policy)),
    }
    if progress.is_planned(known.policy):
        more["progress"] = progress.document(known.policy, known.record, now)
    return {**said, "policies": policies, **{name: value for name, value in more.items() if value}}


def _page(found: list[Known], now: datetime, *, is_one: bool) -> list[str]:
    if not found:
        return ["no services yet; register a version first: canaryctl version register --help"]
    summaries = [known.summary for known in found if known.summary is not None]
    page = [
        answer_tables.services(summaries) if summaries else "no policy is stored",
        answer_tables.effective((known.service_key, known.effective) for known in found),
    ]
    planned = [known for known in found if progress.is_planned(known.policy)]
    if planned:
        page.insert(1, progress.table(((one.policy, one.record) for one in planned), now))
    notes = [note for known in found for note in _notes(known, now)]
    if notes:
        page.append("\n".join(notes))
    if not is_one:
        return page
    noted = found[0].record
    return [*page, *(progress.details(noted) if noted else ()), *_rules_now(found[0])]


def _notes(known: Known, now: datetime) -> Iterator[str]:
    """What stands in the way of the next move, and what clients are told, a line each."""
    policy, key = known.policy, render.cell(known.service_key)
    if known.trouble:
        yield f"{key}: {render.cell(known.trouble)}"
    for freeze in _frozen(policy, now):
        why = f" ({freeze.reason})" if freeze.reason else ""
        until = f"until {freeze.end} {freeze.time_zone}{why}"
        yield render.cell(f"{key}: frozen by {freeze.name} {until}: nothing is started or raised")
    if policy.guards.HasField("approvals"):
        yield f"{key}: {render.cell(policy_tables.guards(policy))}"
    for approval in _usable(policy, now):
        yield render.cell(f"{key}: {policy_tables.unused(approval)}")
    for version in _deprecated(policy):
        at = version.HasField("sunset_date")
        sunset = f", sunset {render.moment(version.sunset_date)}" if at else ""
        yield render.cell(f"{key}: API version {version.version} is deprecated{sunset}")


def _rules_now(known: Known) -> Iterator[str]:
    """The rules in force, and the baselines that wait for the end of the release."""
    for entry in known.effective.policies:
        where = render.listed(entry.gateways) or "any gateway without a baseline"
        which = "the gateway's baseline" if entry.is_baseline else "the stored policy"
        yield render.cell(f"in force at {where}: {which}, because {entry.why}")
        yield policy_tables.rules(entry.policy)
        if _has_any(entry.policy.whitelist):
            yield policy_tables.whitelist(entry.policy)
        if entry.policy.segments:
            yield policy_tables.segments(entry.policy)
        if entry.policy.flags:
            yield policy_tables.flags(entry.policy)
        ruled_over = [b for b in known.baselines if b.baseline.hash == entry.baseline_hash]
        for declared in ruled_over if not entry.is_baseline else ():
            by = policy_tables.decides_by(declared.baseline.policy)
            yield render.cell(f"not in force at {where}: the gateway's baseline: {by}")


def _has_any(whitelist: policy_pb2.Whitelist) -> bool:
    return bool(whitelist.ips or whitelist.users or whitelist.consumers)


def _frozen(policy: policy_pb2.Policy, now: datetime) -> list[policy_pb2.Freeze]:
    """The freezes in force."""
    guarding = parse.fields_of({"service_key": "-", "guards": render.document(policy.guards)})
    names = {freeze.name for freeze in guarding.guards.freezes if is_frozen(freeze, now)}
    return [freeze for freeze in policy.guards.freezes if freeze.name in names]


def _usable(policy: policy_pb2.Policy, now: datetime) -> list[policy_pb2.Approval]:
    return [a for a in policy.approvals if a.expires_at.ToDatetime(UTC) > now]


def _deprecated(policy: policy_pb2.Policy) -> list[policy_pb2.ApiVersion]:
    return [v for v in policy.compatibility.api_versions if v.deprecated]
