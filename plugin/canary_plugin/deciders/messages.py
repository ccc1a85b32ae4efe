"""Questions and answers as messages, and back."""

from __future__ import annotations

from datetime import UTC

from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2 as policy_pb
from canary_documents import to_document, to_message
from canary_engine import parse
from canary_engine.copies import Known, Ways
from canary_engine.model import (
    Backend,
    Decision,
    Deprecation,
    Person,
    Policy,
    Profile,
    Reads,
    Reason,
    Variant,
)

from canary_plugin.config import Baseline
from canary_plugin.deciders.protocol import Projection, Question, Undecided

VARIANTS = {policy_pb.Variant.Value("VARIANT_" + v.name): v for v in Variant}
REASONS = {policy_pb.Reason.Value("REASON_" + r.name): r for r in Reason}


def request(
    question: Question,
    *,
    with_baseline: bool = False,
    want_person: bool = False,
    copy_epoch: int = 0,
) -> pb.DecideRequest:
    """A question as a message."""
    facts, baseline = question.request, question.baseline
    message = pb.DecideRequest(
        service_key=question.service_key,
        headers=facts.headers,
        fallback_key=facts.fallback_key,
        reads_digest=question.digest,
    )
    # Naming a field costs as much when it is empty, and these are, most of the time.
    if facts.cookies:
        message.cookies.update(facts.cookies)
    if facts.client_ip:
        message.client_ip = facts.client_ip
    if facts.path:
        message.path = facts.path
    if facts.consumer:
        message.consumer = facts.consumer
    if facts.flags:
        message.flags.extend(facts.flags)
    if baseline is not None:
        message.baseline_hash = baseline.hash
        if with_baseline:
            message.baseline.CopyFrom(baseline_message(baseline))
    if want_person:
        message.want_person = True
    elif copy_epoch:
        message.copy_epoch = copy_epoch
    return message


def baseline_message(baseline: Baseline) -> pb.Baseline:
    """A baseline, whole."""
    document = parse.document(baseline.policy)
    return pb.Baseline(hash=baseline.hash, policy=to_message(document, policy_pb.Policy))


def decision(message: policy_pb.Decision) -> Decision:
    """A decision. Raises Undecided for an answer that names no known variant or reason."""
    variant, reason = VARIANTS.get(message.variant), REASONS.get(message.reason)
    if variant is None or reason is None:
        raise Undecided("garbage", f"variant {message.variant}, reason {message.reason}")
    return Decision(
        variant,
        message.version,
        _backend(message.backend) if message.HasField("backend") else None,
        reason,
        message.matched,
        message.bucket if message.HasField("bucket") else None,
        message.release_id,
        message.policy_revision,
        message.issue_cookie,
        message.degraded,
        message.control,
        _deprecation(message.deprecation) if message.HasField("deprecation") else None,
    )


def _backend(message: policy_pb.Backend) -> Backend:
    return Backend(
        upstream=message.upstream,
        host=message.host,
        port=message.port,
        host_header=message.host_header,
    )


def _deprecation(message: policy_pb.Deprecation) -> Deprecation | None:
    try:
        since = message.since.ToDatetime(tzinfo=UTC)
        has_sunset = message.HasField("sunset")
        sunset = message.sunset.ToDatetime(tzinfo=UTC) if has_sunset else None
    except (ValueError, OverflowError):
        return None  # a time that no calendar has; the decision is good all the same
    return Deprecation(since, sunset, message.link)


def projection(message: pb.Resend) -> Projection:
    """The reads that the service asks for, and how the policy there knows users."""
    asked = message.reads
    wanted = Reads(
        headers=frozenset(asked.headers),
        cookies=frozenset(asked.cookies),
        client_ip=asked.client_ip,
        path=asked.path,
        consumer=asked.consumer,
    )
    return Projection(wanted, asked.digest, message.user_id_header)


def known(message: pb.GetPersonResponse) -> Known:
    """What the service knows of a user, and by which ways. Raises Undecided."""
    ways = Ways(message.membership_epoch, frozenset(message.looked_in))
    try:
        return Known(person=person(message), ways=ways, is_old=message.is_old)
    except (ValueError, OverflowError) as error:  # a time that no calendar has
        raise Undecided("bad-person", str(error)) from None


def person(message: pb.GetPersonResponse) -> Person:
    """What the service's store knows of a user."""
    profile = Profile()
    if message.HasField("profile"):
        found = message.profile
        has_time = found.HasField("registered_at")
        profile = Profile(
            tier=found.tier,
            registered_at=found.registered_at.ToDatetime(tzinfo=UTC) if has_time else None,
            region=found.region,
            tags=frozenset(found.tags),
            custom=dict(found.custom),
        )
    listed_in = frozenset(message.listed_in)
    return Person(listed_in=listed_in, profile=profile, is_known=message.is_known)


def policy(message: pb.WatchPoliciesResponse) -> Policy | None:
    """The policy that the service told of; None if there is none. Raises InvalidPolicy."""
    if not message.HasField("policy"):
        return None
    return parse.policy(to_document(message.policy))
