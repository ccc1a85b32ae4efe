"""Messages to the engine's values and back, for the calls where every microsecond counts."""

from __future__ import annotations

from collections.abc import Iterator

from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2 as policy_pb
from canary_documents import to_document, to_message
from canary_engine import parse, reads
from canary_engine.model import Backend, Decision, Person, Policy, Reads, Reason, Request, Variant
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from decision_svc.decider import Question
from decision_svc.errors import BadRequest

VARIANTS = {
    Variant.STABLE: policy_pb.VARIANT_STABLE,
    Variant.CANARY: policy_pb.VARIANT_CANARY,
}
REASONS = {reason: policy_pb.Reason.Value("REASON_" + reason.name) for reason in Reason}


def question(message: pb.DecideRequest) -> Question:
    """The facts of a request."""
    return Question(
        service_key=message.service_key,
        request=Request(
            headers=message.headers,
            cookies=message.cookies,
            client_ip=message.client_ip,
            path=message.path,
            consumer=message.consumer,
            flags=tuple(message.flags),
            fallback_key=message.fallback_key,
        ),
        baseline_hash=message.baseline_hash,
        reads_digest=message.reads_digest,
    )


def decision(value: Decision) -> policy_pb.Decision:
    """A decision as a message."""
    return policy_pb.Decision(
        variant=VARIANTS[value.variant],
        version=value.version,
        backend=backend(value.backend) if value.backend else None,
        reason=REASONS[value.reason],
        matched=value.matched,
        bucket=value.bucket,
        release_id=value.release_id,
        policy_revision=value.policy_revision,
        issue_cookie=value.issue_cookie,
        degraded=value.degraded,
    )


def backend(value: Backend) -> policy_pb.Backend:
    """A backend as a message."""
    return policy_pb.Backend(
        upstream=value.upstream, host=value.host, port=value.port, host_header=value.host_header
    )


def reads_message(value: Reads) -> policy_pb.Reads:
    """What a policy reads, as a message."""
    return policy_pb.Reads(
        headers=sorted(value.headers),
        cookies=sorted(value.cookies),
        client_ip=value.client_ip,
        path=value.path,
        consumer=value.consumer,
        digest=reads.digest(value),
    )


def person_message(value: Person) -> pb.GetPersonResponse:
    """What the store knows of a user, as a message."""
    document = parse.document(value.profile)
    return pb.GetPersonResponse(
        listed_in=sorted(value.listed_in),
        profile=to_message(document, policy_pb.Profile) if document else None,
        is_known=value.is_known,
    )


def policy_message(value: Policy) -> policy_pb.Policy:
    """A policy as a message."""
    return to_message(parse.document(value), policy_pb.Policy)


def policy_document(message: policy_pb.Policy) -> dict[str, object]:
    """A policy message as the document that the engine parses. Raises BadRequest."""
    complaints = list(wrong_times(message, "policy"))
    if complaints:
        raise BadRequest(*complaints)
    return to_document(message)


def wrong_times(message: Message, path: str = "") -> Iterator[str]:
    """Complaints about timestamps that no calendar has; a document cannot say them."""
    if isinstance(message, Timestamp):
        try:
            message.ToJsonString()
        except ValueError as error:
            yield f"{path}: {error}"
        return
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        where = f"{path}.{field.name}" if path else field.name
        for index, item in enumerate(value if field.is_repeated else [value]):
            yield from wrong_times(item, f"{where}[{index}]" if field.is_repeated else where)
