"""Questions and answers as messages; with ``remote`` the only files here that know protobuf."""

from __future__ import annotations

from datetime import UTC

from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2 as policy_pb
from canary_documents import to_document, to_message
from canary_engine import parse
from canary_engine.model import (
    Backend,
    Decision,
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


def request(question: Question, *, with_baseline: bool) -> pb.DecideRequest:
    """A question as a message."""
    facts = question.request
    baseline = question.baseline
    return pb.DecideRequest(
        service_key=question.service_key,
        headers=facts.headers,
        cookies=facts.cookies,
        client_ip=facts.client_ip,
        path=facts.path,
        consumer=facts.consumer,
        flags=facts.flags,
        fallback_key=facts.fallback_key,
        baseline_hash=baseline.hash if baseline else "",
        baseline=baseline_message(baseline) if baseline and with_baseline else None,
        reads_digest=question.digest,
    )


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
    )


def _backend(message: policy_pb.Backend) -> Backend:
    return Backend(
        upstream=message.upstream,
        host=message.host,
        port=message.port,
        host_header=message.host_header,
    )


def projection(message: policy_pb.Reads) -> Projection:
    """The reads that the service asks for."""
    wanted = Reads(
        headers=frozenset(message.headers),
        cookies=frozenset(message.cookies),
        client_ip=message.client_ip,
        path=message.path,
        consumer=message.consumer,
    )
    return Projection(wanted, message.digest)


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
