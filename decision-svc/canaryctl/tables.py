"""What people read: each noun of the API as a table or as lines; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2
from canary.policy.v1 import policy_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from canaryctl.render import (
    NOTHING,
    counted,
    filled,
    listed,
    mapped,
    moment,
    number,
    pairs,
    percent,
    section,
    table,
    word,
)

SHORT_HASH = 12
OUTCOME_HEADINGS = (
    "version", "variant", "release", "requests", "errors", "p50", "p95", "p99", "lost",
    "compared",
)  # fmt: skip
FREEZE_HEADINGS = ("name", "start", "end", "time zone", "why")
APPROVAL_HEADINGS = ("id", "move", "version", "up to", "by", "at", "until")
API_VERSION_HEADINGS = ("version", "deprecated", "since", "sunset", "guide", "breaking changes")
PLAN_HEADINGS = ("step", "weight", "hold", "samples", "gates")
RULE_HEADINGS = ("#", "name", "source", "key", "matches", "goes to")
VERSION_HEADINGS = (
    "version", "status", "build", "commit", "built", "released", "rolled back", "backend",
)  # fmt: skip
SEGMENT_HEADINGS = ("name", "members get", "share", "listed", "criteria")
FLAG_HEADINGS = ("name", "on", "share", "users", "segments")


def backend(where: policy_pb2.Backend) -> str:
    """Where a version's requests go."""
    place = where.upstream or (f"{where.host}:{where.port}" if where.host else "")
    if where.host_header:
        return f"{place or 'the service'} as {where.host_header}"
    return place or "the service's own host"


def versions(policy: policy_pb2.Policy) -> str:
    """The registered versions."""
    return section("versions", *filled(VERSION_HEADINGS, map(_version, policy.versions)))


def _version(v: policy_pb2.Version) -> tuple[str, ...]:
    status = word(policy_pb2.VersionStatus.DESCRIPTOR, v.status)
    return (
        v.version,
        "registered" if status == NOTHING else status,
        v.build_number,
        v.git_commit[:SHORT_HASH],
        moment(v.build_date),
        moment(v.release_date),
        moment(v.rollback_date),
        backend(v.backend),
    )


def release_status(release: policy_pb2.Release) -> str:
    """The state of a release in words."""
    status = word(policy_pb2.ReleaseStatus.DESCRIPTOR, release.status)
    return f"{status}, halted" if release.halted else status


def release(policy: policy_pb2.Policy) -> str:
    """The latest release."""
    if not policy.HasField("release"):
        return "release: none yet"
    found = policy.release
    strategy = word(policy_pb2.Strategy.DESCRIPTOR, found.strategy)
    rows = (
        ("release", found.id),
        ("version", found.version),
        ("status", release_status(found)),
        ("percentage", percent(found.percentage)),
        ("strategy", "combined" if strategy == NOTHING else strategy),
        ("salt", found.salt),
        ("started", moment(found.started_at)),
        ("ended", moment(found.ended_at)),
    )
    return pairs(rows)


def rules(policy: policy_pb2.Policy) -> str:
    """The rules in order."""
    return section("rules", RULE_HEADINGS, (_rule(i, r) for i, r in enumerate(policy.rules)))


def _rule(position: int, rule: policy_pb2.Rule) -> tuple[object, ...]:
    return (
        position,
        rule.name,
        word(policy_pb2.Source.DESCRIPTOR, rule.source),
        rule.key,
        _matches(rule),
        word(policy_pb2.Variant.DESCRIPTOR, rule.variant),
    )


def _matches(rule: policy_pb2.Rule) -> str:
    if rule.one_of:
        return f"one of {listed(rule.one_of)}"
    if rule.cidrs:
        return f"in {listed(rule.cidrs)}"
    return f"pattern {rule.pattern}" if rule.pattern else f"exactly {rule.exact}"


def whitelist(policy: policy_pb2.Policy) -> str:
    """Who always gets the canary."""
    found = policy.whitelist
    kinds = (("ip", found.ips), ("user", found.users), ("consumer", found.consumers))
    entries = [(kind, entry) for kind, values in kinds for entry in values]
    return section("whitelist", ("kind", "entry"), entries)


def segments(policy: policy_pb2.Policy) -> str:
    """The segments."""
    return section("segments", SEGMENT_HEADINGS, map(_segment, policy.segments))


def _segment(s: policy_pb2.Segment) -> tuple[str, ...]:
    return (
        s.name,
        "canary" if s.canary_eligible else "stable (protected)",
        percent(s.percentage) if s.HasField("percentage") else "all",
        "yes" if s.listed else "no",
        criteria(s.criteria),
    )


def criteria(c: policy_pb2.Criteria) -> str:
    """What a user must be like, in one cell."""
    found = [
        f"{name} {listed(values)}"
        for name, values in (("tier", c.tiers), ("region", c.regions), ("tag", c.tags))
        if values
    ]
    if c.HasField("registered"):
        found.append(f"registered {_registered(c.registered)}")
    if c.custom:
        found.append(mapped(c.custom))
    return " and ".join(found)


def _registered(r: policy_pb2.Registered) -> str:
    if r.last_days:
        return f"in the last {number(r.last_days)} days"
    start, end = (NOTHING if at == Timestamp() else moment(at) for at in (r.start, r.end))
    return f"from {start} to before {end}"


def flags(policy: policy_pb2.Policy) -> str:
    """The feature flags."""
    return section("flags", FLAG_HEADINGS, map(_flag, policy.flags))


def _flag(f: policy_pb2.Flag) -> tuple[str, ...]:
    on = "yes" if f.enabled else "no"
    return (f.name, on, percent(f.percentage), listed(f.users), listed(f.segments))


def bucketing(policy: policy_pb2.Policy) -> str:
    """How hash keys are found, the defaults spelt out."""
    found = policy.bucketing
    anonymous = word(policy_pb2.Anonymous.DESCRIPTOR, found.anonymous)
    keys = [hash_key(key) for key in found.hash_on]
    rows = (
        ("hash on", listed(keys) or "consumer, then the user id header (default)"),
        ("anonymous", "sticky-cookie (default)" if anonymous == NOTHING else anonymous),
        ("cookie", found.cookie or "canary_id (default)"),
    )
    return pairs(rows)


def hash_key(key: policy_pb2.HashKey) -> str:
    """A place a hash key is read from, as ``--hash-on`` takes it."""
    source = word(policy_pb2.Source.DESCRIPTOR, key.source)
    return f"{source}:{key.key}" if key.key else source


def identity(policy: policy_pb2.Policy) -> str:
    """How users are recognised, the defaults spelt out."""
    found = policy.identity
    rows = (
        ("user id header", found.user_id_header or "x-user-id (default)"),
        ("attribute headers", mapped(found.attribute_headers)),
        ("flags header", found.flags_header),
    )
    return pairs(rows)


def compatibility(policy: policy_pb2.Policy) -> str:
    """The API compatibility rules, under the places that name a client's version."""
    found = policy.compatibility
    rows = [
        (getattr(r, "from"), r.to, "yes" if r.compatible else "no", r.notes) for r in found.rules
    ]
    title = f"compatibility by {_places(found)}"
    return section(title, ("from", "to", "compatible", "notes"), rows)


def _places(c: policy_pb2.Compatibility) -> str:
    named = (("header", c.header), ("path", c.path_prefix), ("media type", c.media_type))
    return listed(f"{kind} {place}" for kind, place in named if place) or "nothing"


def api_versions(policy: policy_pb2.Policy) -> str:
    """What is known of the versions of the API that clients speak."""
    rows = map(_api_version, policy.compatibility.api_versions)
    return section("API versions", *filled(API_VERSION_HEADINGS, rows))


def _api_version(v: policy_pb2.ApiVersion) -> tuple[str, ...]:
    return (
        v.version,
        "yes" if v.deprecated else "no",
        moment(v.deprecated_at),
        moment(v.sunset_date),
        v.migration_guide,
        "; ".join(v.breaking_changes),
    )


def overrides(policy: policy_pb2.Policy) -> str:
    """How testers force a variant."""
    found = policy.overrides
    rows = (
        ("believed key", found.public_key or "none: no token counts"),
        ("header", found.header or "x-canary-override (default)"),
        ("cookie", found.cookie or "canary_override (default)"),
    )
    return pairs(rows)


def revoked(policy: policy_pb2.Policy) -> str:
    """The overrides that are not believed any more."""
    rows = [(r.id, moment(r.expires_at)) for r in policy.overrides.revoked]
    return section("revoked", ("override", "forgotten after"), rows)


def deprecation(told: policy_pb2.Deprecation) -> str:
    """What the client is told of its API version, in one line."""
    said = [f"deprecated since {moment(told.since)}"]
    if told.HasField("sunset"):
        said.append(f"stops working {moment(told.sunset)}")
    if told.link:
        said.append(f"see {told.link}")
    return f"the client's API version is {', '.join(said)}"


def guards(policy: policy_pb2.Policy) -> str:
    """Which moves need a second person."""
    needs = policy.guards.approvals
    moves = [
        move
        for move, is_needed in (("start", needs.start), ("promote", needs.promote))
        if is_needed
    ]
    if needs.HasField("above"):
        moves.append(f"raise above {percent(needs.above)}")
    return f"a second person is needed for: {listed(moves) or 'nothing'}"


def freezes(policy: policy_pb2.Policy) -> str:
    """When nothing is started, raised or promoted."""
    rows = [(f.name, f.start, f.end, f.time_zone, f.reason) for f in policy.guards.freezes]
    return section("freezes", FREEZE_HEADINGS, rows)


def approvals(policy: policy_pb2.Policy) -> str:
    """The consents that nobody has used yet."""
    return section("approvals", APPROVAL_HEADINGS, map(_approval, policy.approvals))


def _approval(a: policy_pb2.Approval) -> tuple[str, ...]:
    is_promotion = a.move == policy_pb2.APPROVED_MOVE_PROMOTE
    return (
        a.id,
        word(policy_pb2.ApprovedMove.DESCRIPTOR, a.move),
        a.version,
        NOTHING if is_promotion else percent(a.percentage),
        a.by,
        moment(a.at),
        moment(a.expires_at),
    )


def plan(policy: policy_pb2.Policy) -> str:
    """The steps of the plan."""
    rows = [_step(i, s) for i, s in enumerate(policy.plan.steps, 1)]
    return section("plan", PLAN_HEADINGS, rows)


def _step(position: int, s: policy_pb2.PlanStep) -> tuple[object, ...]:
    gates = [
        f"{word(policy_pb2.GateKind.DESCRIPTOR, g.kind)}{f' {g.name}' if g.name else ''}"
        for g in s.gates
    ]
    samples = f"{s.min_samples:,}" if s.min_samples else NOTHING
    return (position, percent(s.weight), s.hold or "30m", samples, listed(gates))


def halted(found: Iterable[admin_pb2.Halted]) -> str:
    """What became of each service when all were halted."""
    rows = [(h.service_key, h.revision or NOTHING, h.trouble or "halted") for h in found]
    return section("halted", ("service", "revision", "what"), rows)


def policy_page(policy: policy_pb2.Policy) -> list[str]:
    """A whole policy."""
    heading = f"{policy.service_key}, revision {policy.revision}"
    shown = (
        release, versions, rules, compatibility, api_versions, whitelist, segments, flags,
        bucketing, identity, overrides, revoked, guards, freezes, approvals, plan,
    )  # fmt: skip
    return [heading, *(show(policy) for show in shown)]


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
    return (*head, found.id, found.version, release_status(found), percent(found.percentage))


def effective(answers: Iterable[tuple[str, admin_pb2.GetEffectivePolicyResponse]]) -> str:
    """Which policy is in force at which gateways, and why."""
    rows = [_effective(service, e) for service, answer in answers for e in answer.policies]
    return table(("service", "gateways", "baseline", "in force", "decides by", "why"), rows)


def _effective(service: str, e: admin_pb2.EffectivePolicy) -> tuple[str, ...]:
    stored = f"revision {e.policy.revision}" if e.policy.revision else "nothing stored"
    return (
        service,
        listed(e.gateways) or "any without a baseline",
        e.baseline_hash[:SHORT_HASH],
        "baseline" if e.is_baseline else stored,
        decides_by(e.policy),
        e.why,
    )


def decides_by(policy: policy_pb2.Policy) -> str:
    """What a policy decides by, in one cell."""
    found = policy.release
    live = (policy_pb2.RELEASE_STATUS_IN_PROGRESS, policy_pb2.RELEASE_STATUS_PAUSED)
    if found.status not in live or found.halted:
        return "everybody gets stable"
    lists = policy.whitelist
    listed_ = len(lists.ips) + len(lists.users) + len(lists.consumers)
    counts = (
        counted(len(policy.rules), "rule") if policy.rules else "",
        f"whitelist of {listed_:,}" if listed_ else "",
        counted(len(policy.segments), "segment") if policy.segments else "",
        counted(len(policy.flags), "flag") if policy.flags else "",
        percent(found.percentage),
    )
    return listed(part for part in counts if part)


def unused(a: policy_pb2.Approval) -> str:
    """A consent that nobody has used yet, in one line."""
    move = word(policy_pb2.ApprovedMove.DESCRIPTOR, a.move)
    is_promotion = a.move == policy_pb2.APPROVED_MOVE_PROMOTE
    limit = "" if is_promotion else f" up to {percent(a.percentage)}"
    until = f"unused, until {moment(a.expires_at)}"
    return f"approval {a.id} by {a.by} to {move} {a.version}{limit}: {until}"


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


def exposure(answer: admin_pb2.GetExposureResponse) -> Iterator[str]:
    """How many users each variant of a release has served, and which, if that is told."""
    variants = policy_pb2.Variant.DESCRIPTOR
    rows = [(word(variants, e.variant), f"{e.users:,}") for e in answer.exposures]
    yield section(f"exposure of release {answer.release_id}", ("variant", "users"), rows)
    for found in answer.exposures:
        if found.hashed_users:
            yield "\n".join([word(variants, found.variant), *found.hashed_users])


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
