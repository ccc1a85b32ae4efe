"""What a policy says, each part of it as a table or as lines; no I/O."""

from __future__ import annotations

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
    short,
    word,
)

FREEZE_HEADINGS = ("name", "start", "end", "time zone", "why")
APPROVAL_HEADINGS = ("id", "move", "version", "up to", "by", "at", "until")
API_VERSION_HEADINGS = ("version", "deprecated", "since", "sunset", "guide", "breaking changes")
PLAN_HEADINGS = ("step", "weight", "hold", "samples", "gates")
RULE_HEADINGS = ("#", "name", "source", "key", "matches", "goes to")
VERSION_HEADINGS = (
    "version", "status", "build", "commit", "built", "released", "rolled back", "backend",
)  # fmt: skip
SEGMENT_HEADINGS = ("name", "members get", "share", "listed", "criteria")
MOVES_OF_A_SHARE = (policy_pb2.APPROVED_MOVE_START, policy_pb2.APPROVED_MOVE_RAISE)
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
        short(v.git_commit),
        moment(v.build_date),
        moment(v.release_date),
        moment(v.rollback_date),
        backend(v.backend),
    )


def version(found: policy_pb2.Version) -> str:
    """All of one version, one field a line."""
    row = dict(zip(VERSION_HEADINGS, _version(found), strict=True))
    return pairs({**row, "commit": found.git_commit}.items())


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
        for move, is_needed in (
            ("start", needs.start),
            ("promote", needs.promote),
            ("widen", needs.widen),
        )
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
    return (
        a.id,
        word(policy_pb2.ApprovedMove.DESCRIPTOR, a.move),
        a.version,
        percent(a.percentage) if a.move in MOVES_OF_A_SHARE else NOTHING,
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


def policy_page(policy: policy_pb2.Policy) -> list[str]:
    """A whole policy."""
    heading = f"{policy.service_key}, revision {policy.revision}"
    shown = (
        release, versions, rules, compatibility, api_versions, whitelist, segments, flags,
        bucketing, identity, overrides, revoked, guards, freezes, approvals, plan,
    )  # fmt: skip
    return [heading, *(show(policy) for show in shown)]


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
    limit = f" up to {percent(a.percentage)}" if a.move in MOVES_OF_A_SHARE else ""
    until = f"unused, until {moment(a.expires_at)}"
    return f"approval {a.id} by {a.by} to {move} {a.version}{limit}: {until}"
