"""What about a release people should hear of: everything that is stuck, breached or over.

Pure: given what the controller sees at one moment, all that is the matter then. Which of it people
have heard of already is for ``canary_engine.alerts``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from canary_engine.alerts import ABOUT_ROLLBACK, Raised
from canary_engine.mesh import NO_MESH, MeshSight
from canary_engine.model import BUCKETS, Policy, Release, ReleaseStatus
from canary_engine.plan import GateKind, Limit, Metric, Plan, length, said
from canary_engine.record import PROMOTION, Alert, GateState, Severity, WebhookCall
from canary_engine.step import current_step, next_weight
from canary_engine.webhooks import SILENT_TRIES, Question, call_of, is_silent

LONG_WAIT = timedelta(hours=1)
"""How long a gate may wait for people or webhooks before it is a warning."""
LONG_WINDOW = timedelta(hours=24)
"""The same of windows and freezes, which are shut on purpose."""
STUCK_HOLDS = 3
"""How many times its hold a weight may stay before it is a warning."""
STUCK_S = 60
"""So long after the last gate has opened it may still go on by itself."""
NO_DATA_S = 60
MESH_S, MESH_EXCEEDS_S = 30, 10
"""How long a mesh may be out of step, and how long so that it may give the canary too much."""

ValueOf = Callable[[Metric, str], float | None]
"""The value of a metric (and name); None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the controller sees of one release ``now``.

    ``gates`` and ``questions`` are those before the next step or, after the end, those to tell.
    ``missing`` says of each metric that the plan needs and nobody gives why, ``unanswered`` the
    same of what nothing waits for. ``halted`` is why the controller halted it, ``rollback_wanted``
    why the release should be rolled back where the plan leaves that to people; ``verified`` says
    how its end was verified, ``unverified`` why it could not be, ``unheard`` that nothing was heard
    which could; ``judged`` is the judge's reason in words. ``mesh`` is how its mesh stands.
    ``extra`` is whatever else the controller knows, e.g. a sample-ratio alarm.
    """

    policy: Policy
    plan: Plan
    now: datetime
    canary: ValueOf
    stable: ValueOf
    gates: tuple[GateState, ...] = ()
    questions: tuple[Question, ...] = ()
    calls: tuple[WebhookCall, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    unanswered: Mapping[str, str] = field(default_factory=dict)
    halted: str = ""
    rollback_wanted: str = ""
    verified: str = ""
    unverified: str = ""
    unheard: str = ""
    judged: str = ""
    mesh: MeshSight = NO_MESH
    extra: tuple[Raised, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Concerns:
    """All that is the matter, and the keys of what nobody can say of now."""

    raised: tuple[Raised, ...] = ()
    unknown: frozenset[str] = frozenset()


def concerns(sight: Sight) -> Concerns:
    """What people should hear of."""
    release = sight.policy.release
    if release is None:
        return Concerns(raised=sight.extra)
    if not release.is_in_force:
        ended = (*_end(sight, release), *_verification(sight), *_webhooks(sight), *_mesh(sight))
        return Concerns(raised=(*ended, *sight.extra))
    broken, unknown = _limits(sight)
    raised = (
        *_state(release, sight),
        *_due_rollback(release, sight),
        *_wanted_rollback(sight),
        *_stuck(release, sight),
        *_no_data(sight),
        *_unanswered(sight),
        *broken,
        *_gates(sight),
        *_webhooks(sight),
        *_mesh(sight),
        *sight.extra,
    )
    return Concerns(raised=raised, unknown=unknown)


def lost_lease(other: str, now: datetime) -> Alert:
    """For the controller that lost it, which may write no record any more; ``other`` has it."""
    who = f"{other} holds it now" if other else "Nobody is known to hold it now"
    return Alert(
        key="lease",
        severity=Severity.WARNING,
        title="a controller lost its lease",
        text=f"{who}. Releases go on as soon as a controller holds it.",
        since=now,
        resolved_at=now,
    )


def _end(sight: Sight, release: Release) -> Iterator[Raised]:
    version, service = release.version, sight.policy.service_key
    match release.status:
        case ReleaseStatus.COMPLETED:
            yield Raised(
                key="promoted",
                severity=Severity.INFO,
                title=f"{version} was promoted",
                text=f"Everybody gets it now. canaryctl report {service} tells how it went.",
                is_moment=True,
            )
        case ReleaseStatus.ROLLED_BACK:
            yield Raised(
                key=f"{ABOUT_ROLLBACK}:done",
                severity=Severity.CRITICAL,
                title=f"{version} was rolled back",
                text=f"{_sentence(sight.judged or 'a person did it')} "
                f"canaryctl report {service} tells who was exposed and on which evidence.",
                is_moment=True,
            )
        case ReleaseStatus.ABANDONED:
            yield Raised(
                key="abandoned",
                severity=Severity.INFO,
                title=f"the release of {version} was abandoned",
                text="It ended without a verdict; what the gateways' own files say rules again.",
                is_moment=True,
            )


def _verification(sight: Sight) -> Iterator[Raised]:
    if sight.verified:
        yield Raised(
            key=f"{ABOUT_ROLLBACK}:verified" if _is_rolled_back(sight) else "verified",
            severity=Severity.INFO,
            title="the end of the release was verified",
            text=sight.verified,
            is_moment=True,
        )
    elif sight.unverified:
        yield Raised(
            key=f"{ABOUT_ROLLBACK}:unverified" if _is_rolled_back(sight) else "unverified",
            severity=Severity.CRITICAL,
            title="the end of the release could not be verified",
            text=sight.unverified,
        )
    elif sight.unheard:
        yield Raised(
            key=f"{ABOUT_ROLLBACK}:unheard",
            severity=Severity.INFO,
            title="nothing was heard since the release was rolled back",
            text=sight.unheard,
            is_moment=True,
        )


def _is_rolled_back(sight: Sight) -> bool:
    release = sight.policy.release
    return release is not None and release.status is ReleaseStatus.ROLLED_BACK


def _state(release: Release, sight: Sight) -> Iterator[Raised]:
    service = sight.policy.service_key
    if release.halted:
        why = f"{_sentence(sight.halted)} " if sight.halted else ""
        yield Raised(
            key="halted",
            severity=Severity.CRITICAL,
            title=f"the release of {release.version} is halted",
            text=f"Everybody gets stable. {why}It waits for a person: canaryctl "
            f"release resume {service}, or, once canaryctl baselines {service} shows no gateway "
            f"that would give somebody the version, canaryctl release rollback {service}.",
        )
    elif release.status is ReleaseStatus.PAUSED:
        yield Raised(
            key="paused",
            severity=Severity.WARNING,
            title=f"the release of {release.version} is paused at {_percent(release.share)} %",
            text=f"It waits for a person: canaryctl release resume {service}.",
        )


def _due_rollback(release: Release, sight: Sight) -> Iterator[Raised]:
    due = release.due_rollback
    if due is not None:
        yield Raised(
            # Whoever kept it must hear of the next one as well, however soon that comes.
            key=f"{ABOUT_ROLLBACK}:due:{due.at:%Y-%m-%dT%H:%M:%S}",
            severity=Severity.CRITICAL,
            title=f"{release.version} is rolled back at {due.due:%H:%M:%S} UTC",
            text=f"{_sentence(due.why)} Whoever knows better keeps it: canaryctl release keep "
            f"{sight.policy.service_key}.",
        )


def _wanted_rollback(sight: Sight) -> Iterator[Raised]:
    service = sight.policy.service_key
    if sight.rollback_wanted:
        yield Raised(
            key=f"{ABOUT_ROLLBACK}:wanted",
            severity=Severity.CRITICAL,
            title="the release should be rolled back, and the plan leaves that to a person",
            text=f"{_sentence(sight.rollback_wanted)} canaryctl halt {service} gives everybody "
            f"stable at once, canaryctl release rollback {service} ends it.",
        )


def _stuck(release: Release, sight: Sight) -> Iterator[Raised]:
    """A weight that is held for much longer than its hold, and no gate says why."""
    hold_s = (current_step(sight.plan, release.share) or sight.plan.steps[0]).hold_s
    since = release.weight_since
    if release.status is not ReleaseStatus.IN_PROGRESS or release.halted or not hold_s or not since:
        return
    waits_at_gate = any(not gate.is_open for gate in sight.gates)
    if not waits_at_gate and sight.now - since > timedelta(seconds=STUCK_HOLDS * hold_s):
        yield Raised(
            key="stuck",
            severity=Severity.WARNING,
            title=f"the release stands at {_percent(release.share)} %",
            text=f"It was to be held there for {length(hold_s)}. "
            f"{_sentence(sight.judged or 'the judge has not seen enough to let it go on')}"
            f"{_left_to_people(release, sight)}",
            after_s=STUCK_S,
        )


def _left_to_people(release: Release, sight: Sight) -> str:
    """Who promotes it, where the plan says that the controller does not."""
    if sight.plan.promote or next_weight(sight.plan, release.share) != PROMOTION:
        return ""
    return (
        " The plan leaves it to a person to promote it: canaryctl release promote "
        f"{sight.policy.service_key}."
    )


def _no_data(sight: Sight) -> Iterator[Raised]:
    if sight.missing:
        told = "; ".join(f"{metric}: {why}" for metric, why in sorted(sight.missing.items()))
        action, after = sight.plan.no_data.action, sight.plan.no_data.after
        yield Raised(
            key="no-data",
            severity=Severity.WARNING,
            title=f"no data for {', '.join(sorted(sight.missing))}",
            text=f"{told}. The weight is held; after {after} the plan says: {action}.",
            after_s=NO_DATA_S,
        )


def _unanswered(sight: Sight) -> Iterator[Raised]:
    """Queries that give nothing, and whose metric holds nothing up: else nobody would notice."""
    if sight.unanswered:
        told = "; ".join(f"{metric}: {why}" for metric, why in sorted(sight.unanswered.items()))
        yield Raised(
            key="no-answer",
            severity=Severity.WARNING,
            title=f"queries without an answer: {', '.join(sorted(sight.unanswered))}",
            text=f"{told}. Nothing waits for it, but no alert can be about it either.",
            after_s=NO_DATA_S,
        )


def _limits(sight: Sight) -> tuple[list[Raised], frozenset[str]]:
    """Which of the plan's alerts are broken; those without a value are unknown."""
    broken, unknown = [], set()
    for limit in sight.plan.alerts:
        key = _limit_key(limit, sight.plan.alerts)
        value, stable = (of(limit.metric, limit.name) for of in (sight.canary, sight.stable))
        if value is None or (limit.of_stable and stable is None):
            unknown.add(key)
        elif how := _broken(limit, value, stable or 0.0):
            broken.append(
                Raised(
                    key=key,
                    severity=Severity.WARNING,
                    title=f"{limit.name or limit.metric} of the canary is {how}",
                    text=f"Stable has {stable:g}." if stable is not None else "",
                    after_s=limit.duration_s,
                )
            )
    return broken, frozenset(unknown)


def _limit_key(limit: Limit, limits: Sequence[Limit]) -> str:
    """By the metric; where a plan has several limits on it, each has a key of its own."""
    key = f"limit:{limit.metric}{f':{limit.name}' if limit.name else ''}"
    of_it = [one for one in limits if (one.metric, one.name) == (limit.metric, limit.name)]
    if len(of_it) == 1:
        return key
    bounds = [("max", limit.max), ("min", limit.min)]
    parts = [f"{word}-{bound:g}" for word, bound in bounds if bound is not None]
    parts += ["of-stable"] if limit.of_stable else []
    parts += [f"for-{limit.duration}"] if limit.duration_s else []
    return f"{key}:{'-'.join(parts)}"


def _broken(limit: Limit, value: float, stable: float) -> str:
    """In words how the value breaks the limit; "" if it does not."""
    scale = stable / 100 if limit.of_stable else 1.0
    has, of = partial(said, limit.metric), ""
    if limit.of_stable:
        of = f" ({{0:g}} % of stable's {has(stable)})"
    if limit.max is not None and value > limit.max * scale:
        return f"{has(value)}, above {has(limit.max * scale)}{of.format(limit.max)}"
    if limit.min is not None and value < limit.min * scale:
        return f"{has(value)}, below {has(limit.min * scale)}{of.format(limit.min)}"
    return ""


def _gates(sight: Sight) -> Iterator[Raised]:
    """Gates that wait: those for people at once, the others when they wait long."""
    for gate in sight.gates:
        if gate.is_open:
            continue
        is_window = gate.kind is GateKind.WINDOW
        waited = sight.now - (gate.since or sight.now)
        is_long = waited > (LONG_WINDOW if is_window else LONG_WAIT)
        if is_long or gate.kind in (GateKind.APPROVAL, GateKind.CHECKLIST):
            yield Raised(
                key=f"gate:{gate.kind}:{gate.name}:{gate.weight}",
                severity=Severity.WARNING if is_long else Severity.INFO,
                title=f"the release {'has long waited' if is_long else 'waits'} at a gate",
                text=f"It waits for {gate.waits_for}",
            )


def _webhooks(sight: Sight) -> Iterator[Raised]:
    for question in sight.questions:
        call = call_of(question, sight.calls)
        if call is not None and is_silent(question, sight.calls):
            yield Raised(
                key=f"webhook:{question.name}",
                severity=Severity.WARNING,
                title=f"webhook {question.name!r} does not answer",
                text=f"It was asked {SILENT_TRIES} times or more: {call.text}. "
                + ("The release waits for it." if question.may_refuse else "It was not told."),
            )


def _mesh(sight: Sight) -> Iterator[Raised]:
    mesh, service = sight.mesh, sight.policy.service_key
    if mesh.trouble and mesh.exceeds:
        yield Raised(
            key="mesh:held",
            severity=Severity.CRITICAL,
            title="the mesh may give the canary more than the release does",
            text=f"{_sentence(mesh.trouble)} It is tried again every few seconds; canaryctl render "
            f"istio {service} writes the routes as they should be.",
            after_s=MESH_EXCEEDS_S,
        )
    elif mesh.trouble:
        yield Raised(
            key="mesh:held",
            severity=Severity.WARNING,
            title="the mesh cannot be brought in step with the release",
            text=f"{_sentence(mesh.trouble)} The release is not raised until it can.",
            after_s=MESH_S,
        )
    if mesh.drift:
        yield Raised(
            key="mesh:drift",
            severity=Severity.WARNING,
            title="somebody else changed the mesh's routes",
            text=_sentence(mesh.drift),
        )


def _sentence(text: str) -> str:
    """Words as a sentence of their own."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _percent(share: int) -> str:
    return f"{share * 100 / BUCKETS:g}"
