"""The words of the domain as frozen values; shares are integers of ``BUCKETS``, times are UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from canary_engine.plan import Freeze, Plan
from canary_engine.shares import BUCKETS as BUCKETS


class Variant(StrEnum):
    """Where a request goes."""

    STABLE = "stable"
    CANARY = "canary"


class Reason(StrEnum):
    """Why it goes there: the stage that matched first, in the order of the stages."""

    NO_RELEASE = "no-release"
    OVERRIDE = "override"
    RULE = "rule"
    COMPATIBILITY = "compatibility"
    WHITELIST = "whitelist"
    SEGMENT = "segment"
    FLAG = "flag"
    PERCENTAGE = "percentage"
    DEFAULT = "default"


class VersionStatus(StrEnum):
    """The place of a version in its life."""

    REGISTERED = "unspecified"
    STABLE = "stable"
    CANARY = "canary"
    DEPRECATED = "deprecated"


class ReleaseStatus(StrEnum):
    """The state of a release."""

    IN_PROGRESS = "in-progress"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled-back"
    ABANDONED = "abandoned"


class Strategy(StrEnum):
    """Which of the stages segment, flag and percentage take part."""

    COMBINED = "combined"
    PERCENTAGE = "percentage"
    USER_SEGMENT = "user-segment"
    FEATURE_FLAG = "feature-flag"


class Source(StrEnum):
    """The part of a request that a rule or a hash key is read from."""

    HEADER = "header"
    COOKIE = "cookie"
    IP = "ip"
    PATH = "path"
    CONSUMER = "consumer"


class ApprovedMove(StrEnum):
    """What an approval is for."""

    START = "start"
    RAISE = "raise"
    PROMOTE = "promote"
    WIDEN = "widen"

    @property
    def has_share(self) -> bool:
        """Whether it is of a share of the draw."""
        return self in (ApprovedMove.START, ApprovedMove.RAISE)


class Cohort(StrEnum):
    """What an outcome may be compared with.

    DRAWN are users whom the draw of the percentage gave the canary, CONTROL are users of the same
    draw who stand for stable, CHOSEN got the canary some other way.
    """

    OTHER = "unspecified"
    DRAWN = "drawn"
    CONTROL = "control"
    CHOSEN = "chosen"


class Anonymous(StrEnum):
    """What the percentage stage does with a request that has no hash key."""

    STICKY_COOKIE = "sticky-cookie"
    PER_REQUEST = "per-request"
    STABLE = "stable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A Kong upstream by name, or a host and port. All empty: the Kong service's own host."""

    upstream: str = ""
    host: str = ""
    port: int = 0
    host_header: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A registered build."""

    version: str
    build_number: str = ""
    git_commit: str = ""
    build_date: datetime | None = None
    status: VersionStatus = VersionStatus.REGISTERED
    release_date: datetime | None = None
    rollback_date: datetime | None = None
    backend: Backend | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """An item of a plan's checklist that a person has ticked off."""

    item: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRollback:
    """A rollback that waits until ``due``, and that a person may call off until then."""

    why: str
    at: datetime
    due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One attempt to bring a version from canary to stable. Shares are of ``BUCKETS``.

    ``control`` is the share that stands for stable; what is more than lost the draw means all who
    did. ``weight_since`` is since when the traffic is what it is, ``judged_since`` since when
    outcomes count, ``fence`` the token of the controller that changed it last.
    """

    id: str
    version: str
    status: ReleaseStatus
    share: int
    strategy: Strategy = Strategy.COMBINED
    salt: str
    halted: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    control: int = 0
    weight_since: datetime | None = None
    judged_since: datetime | None = None
    ticks: tuple[Tick, ...] = ()
    due_rollback: DueRollback | None = None
    fence: int = 0

    @property
    def is_in_force(self) -> bool:
        """Whether it rules over a gateway's baseline; a halted one does, with no traffic."""
        return self.status in (ReleaseStatus.IN_PROGRESS, ReleaseStatus.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Sends what matches to a variant; exactly one of the four ways to match is given."""

    name: str
    source: Source
    key: str = ""
    exact: str | None = None
    one_of: tuple[str, ...] = ()
    pattern: str | None = None
    cidrs: tuple[str, ...] = ()
    variant: Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitelist:
    """Addresses, user ids and consumers that always get the canary."""

    ips: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """When a user registered: within ``last_days``, or from ``start`` until before ``end``."""

    last_days: int = 0
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What a user must be like; every field that is given must hold."""

    tiers: tuple[str, ...] = ()
    registered: Registered | None = None
    regions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    custom: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A group of users. ``share`` of its members gets the canary; None means all."""

    name: str
    canary_eligible: bool
    share: int | None = None
    listed: bool = False
    criteria: Criteria | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """On for the users listed, the members of the segments named and ``share`` of the rest."""

    name: str
    enabled: bool = False
    share: int = 0
    users: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompatibilityRule:
    """Whether clients of API version ``source`` can be served by version ``to``."""

    source: str
    to: str
    compatible: bool
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiVersion:
    """A version of the API that clients speak, and what they are told of it."""

    version: str
    deprecated: bool = False
    deprecated_at: datetime | None = None
    sunset_date: datetime | None = None
    breaking_changes: tuple[str, ...] = ()
    migration_guide: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """Where a client's API version is named, and the rules. No rule: compatible."""

    header: str = ""
    rules: tuple[CompatibilityRule, ...] = ()
    path_prefix: str = ""
    media_type: str = ""
    api_versions: tuple[ApiVersion, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRules:
    """Which moves need a second person; ``above`` is a share of BUCKETS, None is no limit."""

    start: bool = False
    promote: bool = False
    above: int | None = None
    widen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What stands between a person and a move of the release."""

    approvals: ApprovalRules = ApprovalRules()
    freezes: tuple[Freeze, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """The consent of ``by`` to one move by somebody else; ``share`` is of BUCKETS."""

    id: str
    move: ApprovedMove
    version: str
    share: int = 0
    by: str
    at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedOverride:
    """An override that must not be believed; it is forgotten when it has expired anyhow."""

    id: str
    expires_at: datetime


DEFAULT_OVERRIDE_HEADER = "x-canary-override"
DEFAULT_OVERRIDE_COOKIE = "canary_override"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """How testers force a variant; ``public_key`` is an Ed25519 key, base64, "" for none."""

    public_key: str = ""
    header: str = DEFAULT_OVERRIDE_HEADER
    cookie: str = DEFAULT_OVERRIDE_COOKIE
    revoked: tuple[RevokedOverride, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HashKey:
    """One place a hash key is read from."""

    source: Source
    key: str = ""


DEFAULT_USER_ID_HEADER = "x-user-id"
DEFAULT_COOKIE = "canary_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucketing:
    """Where the hash key is found; empty ``hash_on``: the consumer, then the user id header."""

    hash_on: tuple[HashKey, ...] = ()
    anonymous: Anonymous = Anonymous.STICKY_COOKIE
    cookie: str = DEFAULT_COOKIE


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """How the user and their attributes are read from a request."""

    user_id_header: str = DEFAULT_USER_ID_HEADER
    attribute_headers: Mapping[str, str] = field(default_factory=dict)
    flags_header: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """A policy that is decided by and counted beside another, without acting."""

    policy: Policy
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything a decision needs for one service key at one revision."""

    service_key: str
    revision: int = 0
    versions: tuple[Version, ...] = ()
    release: Release | None = None
    rules: tuple[Rule, ...] = ()
    compatibility: Compatibility = Compatibility()
    whitelist: Whitelist = Whitelist()
    segments: tuple[Segment, ...] = ()
    flags: tuple[Flag, ...] = ()
    bucketing: Bucketing = Bucketing()
    identity: Identity = Identity()
    membership_epoch: int = 0
    guards: Guards = Guards()
    approvals: tuple[Approval, ...] = ()
    overrides: Overrides = Overrides()
    plan: Plan | None = None
    shadow: Shadow | None = None

    def version_with(self, status: VersionStatus) -> Version | None:
        """The version of that status, or None; stable and canary are unique."""
        return next((v for v in self.versions if v.status is status), None)

    def version_named(self, name: str) -> Version | None:
        """The version of that name, or None."""
        return next((v for v in self.versions if v.version == name), None)


@dataclass(slots=True, kw_only=True)
class Request:
    """The facts of one request: header names are lower case, absent facts are empty.

    Not frozen, because one is made per request and freezing doubles its cost; nothing
    in the engine writes to it.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    client_ip: str = ""
    path: str = ""
    consumer: str = ""
    flags: tuple[str, ...] = ()
    fallback_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is known of a user besides the request. Absent facts are empty or None."""

    tier: str = ""
    registered_at: datetime | None = None
    region: str = ""
    tags: frozenset[str] = frozenset()
    custom: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A user as the store knows them: the listed segments they are in, and their profile.

    ``is_known`` is False when the store could not be asked.
    """

    listed_in: frozenset[str] = frozenset()
    profile: Profile = Profile()
    is_known: bool = True


NOBODY = Person()
UNKNOWN = Person(is_known=False)


class Deprecation(NamedTuple):
    """What a client is told of a deprecated API version; ``link`` is "" where there is none."""

    since: datetime
    sunset: datetime | None = None
    link: str = ""


class Decision(NamedTuple):
    """Where a request goes and why. ``bucket`` is None when no hash key was looked for.

    A named tuple, because one is made per request and costs a fifth of a frozen dataclass.
    """

    variant: Variant
    version: str
    backend: Backend | None
    reason: Reason
    matched: str = ""
    bucket: int | None = None
    release_id: str = ""
    policy_revision: int = 0
    issue_cookie: bool = False
    degraded: bool = False
    control: bool = False
    """Whether the user lost the draw and stands for stable in comparisons with the canary."""
    deprecation: Deprecation | None = None

    @property
    def cohort(self) -> Cohort:
        """What the request's outcome may be compared with."""
        if self.control:
            return Cohort.CONTROL
        if self.variant is Variant.STABLE:
            return Cohort.OTHER
        return Cohort.DRAWN if self.reason is Reason.PERCENTAGE else Cohort.CHOSEN


class PersonNeeded(NamedTuple):
    """No decision yet: what the store knows of ``user`` must be brought first."""

    user: str


Answer = Decision | PersonNeeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What a decision under a policy reads from a request; header names are lower case.

    ``client_ip_for_overrides``: the address matters only if the request carries an override. Who
    does not know that may read it always.
    """

    headers: frozenset[str] = frozenset()
    cookies: frozenset[str] = frozenset()
    client_ip: bool = False
    path: bool = False
    consumer: bool = False
    client_ip_for_overrides: bool = False
