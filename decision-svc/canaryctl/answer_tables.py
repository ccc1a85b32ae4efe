"""What the service tells of policies, gateways and requests, as tables or as lines; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2
from canary.policy.v1 import policy_pb2

from canaryctl.policy_tables import decides_by, release_status
from canaryctl.render import (
    NOTHING,
    filled,
    listed,
    mapped,
    moment,
    pairs,
    percent,
    section,
    short,
    table,
    word,
)

OUTCOME_HEADINGS = (
    "version", "variant", "release", "requests", "errors", "p50", "p95", "p99", "lost",
    "compared",
)  # fmt: skip


def halted(found: Iterable[admin_pb2.Halted]) -> str:
    """What became of each service when all were halted."""
    rows = [(h.service_key, h.revision or NOTHING, h.trouble or "halted") for h in found]
    return section("halted", ("service", "revision", "what"), rows)


def shadow(found: admin_pb2.GetShadowResponse) -> str:
    """How a shadow's decisions differ from those in force."""
    variants, reasons = policy_pb2.Variant.DESCRIPTOR, policy_pb2.Reason.DESCRIPTOR
    total = sum(count.requests for count in found.counts)
    rows = [
        (
            f"{word(variants, c.in_force)} ({word(reasons, c.in_force_reason)})",
            f"{word(variants, c.shadow)} ({word(reasons, c.shadow_reason)})",
            "" if c.in_force == c.shadow else "moves",
            f"{c.requests:,}",
            percent(100 * c.requests / total),
        )
        for c in sorted(found.counts, key=lambda count: -count.requests)
    ]
    title = f"shadow of {found.policy.service_key} until {moment(found.expires_at)}"
    return section(title, ("in force", "shadow", "", "requests", "share"), rows)


def services(summaries: Iterable[admin_pb2.ServiceSummary]) -> str:
    """One line per service key."""
    headings = ("service", "revision", "stable", "release", "version", "status", "percentage")
    return table(headings, map(_service, summaries))


def _service(s: admin_pb2.ServiceSummary) -> tuple[object, ...]:
    head = (s.service_key, s.revision, s.stable_version)
    if not s.HasField("release"):
        return (*head, "", "", "", "")
    found = s.release
    return (
        *head,
        found.id,
        found.version,
        release_status(found),
        percent(found.percentage),
    )


def effective(answers: Iterable[tuple[str, admin_pb2.GetEffectivePolicyResponse]]) -> str:
    """Which policy is in force at which gateways, and why."""
    rows = [_effective(service, e) for service, answer in answers for e in answer.policies]
    return table(("service", "gateways", "baseline", "in force", "decides by", "why"), rows)


def _effective(service: str, e: admin_pb2.EffectivePolicy) -> tuple[str, ...]:
    stored = f"revision {e.policy.revision}" if e.policy.revision else "nothing stored"
    return (
        service,
        listed(e.gateways) or "any without a baseline",
        short(e.baseline_hash),
        "baseline" if e.is_baseline else stored,
        decides_by(e.policy),
        e.why,
    )


def baselines(found: Iterable[admin_pb2.BaselineInContact]) -> str:
    """The baselines of the gateways in contact."""
    headings = ("service", "gateways", "percentage", "rules", "whitelisted", "hash")
    return section("baselines", headings, (_baseline(b.baseline, b.gateways) for b in found))


def _baseline(b: decision_pb2.Baseline, gateways: Iterable[str]) -> tuple[object, ...]:
    said = b.policy
    entries = (*said.whitelist.ips, *said.whitelist.users, *said.whitelist.consumers)
    share = percent(said.release.percentage) if said.HasField("release") else ""
    return (said.service_key, listed(gateways), share, len(said.rules), len(entries), b.hash)


def history(changes: Iterable[admin_pb2.ChangeRecord]) -> str:
    """What was changed, newest first."""
    headings = ("revision", "at", "who", "what", "why")
    rows = [(c.revision, moment(c.at), c.actor, c.summary, c.reason) for c in changes]
    return section("history", headings, rows)


def exposure(answer: admin_pb2.GetExposureResponse, *, with_users: bool) -> Iterator[str]:
    """How many users each variant of a release has served, and which, if that is told."""
    variants = policy_pb2.Variant.DESCRIPTOR
    rows = [(word(variants, e.variant), f"{e.users:,}") for e in answer.exposures]
    yield section(f"exposure of release {answer.release_id}", ("variant", "users"), rows)
    for found in answer.exposures:
        if found.hashed_users:
            yield "\n".join([word(variants, found.variant), *found.hashed_users])
        elif with_users and found.users:
            yield (
                f"{word(variants, found.variant)}: it is not kept which users these were; decision "
                "services that are started with --keep-exposed-users keep it from then on"
            )


def profile(found: policy_pb2.Profile) -> str:
    """What is known of a user."""
    rows = (
        ("user", found.user),
        ("tier", found.tier),
        ("registered", moment(found.registered_at)),
        ("region", found.region),
        ("tags", listed(found.tags)),
        ("custom", mapped(found.custom)),
    )
    return pairs(rows)


def verdict(decision: policy_pb2.Decision, stages: Iterable[admin_pb2.Stage]) -> str:
    """Where the request goes and why, in one line."""
    finding = next((s.finding for s in stages if s.decided), "").rstrip(".")
    where = word(policy_pb2.Variant.DESCRIPTOR, decision.variant)
    if decision.version:
        where += f" ({decision.version})"
    because = f"{where} because {word(policy_pb2.Reason.DESCRIPTOR, decision.reason)}"
    if finding:
        because += f": {finding}"
    if decision.release_id:
        because += f", release {decision.release_id}"
    by = f"revision {decision.policy_revision}" if decision.policy_revision else "no stored policy"
    return f"{because}, {by}"


def stages(found: Iterable[admin_pb2.Stage]) -> str:
    """Every stage in order, the deciding one marked."""
    said = list(found)
    rows = [_stage(s) for s in said]
    decided = next((i for i, s in enumerate(said) if s.decided), None)
    return table(("", "stage", "finding"), rows, emphasised=decided)


def _stage(s: admin_pb2.Stage) -> tuple[str, ...]:
    return ("=>" if s.decided else " ", word(policy_pb2.Reason.DESCRIPTOR, s.reason), s.finding)


def outcomes(service: str, window_s: int, found: Iterable[admin_pb2.VersionOutcomes]) -> str:
    """What became of the latest requests."""
    title = f"outcomes of {service}, last {window_s} s"
    return section(title, *filled(OUTCOME_HEADINGS, map(_outcomes, found)))


def _outcomes(o: admin_pb2.VersionOutcomes) -> tuple[str, ...]:
    latencies = (o.request.p50_ms, o.request.p95_ms, o.request.p99_ms)
    has_any = bool(o.requests)
    return (
        o.version,
        word(policy_pb2.Variant.DESCRIPTOR, o.variant),
        o.release_id,
        f"{o.requests:,}",
        percent(round(100 * o.errors / o.requests, 3)) if has_any else NOTHING,
        *(f"{latency:.0f} ms" if has_any else NOTHING for latency in latencies),
        f"{o.lost:,}",
        listed(f"{word(policy_pb2.Cohort.DESCRIPTOR, c.cohort)} {c.requests:,}" for c in o.cohorts),
    )
