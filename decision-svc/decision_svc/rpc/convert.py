"""Messages to the engine's values and back, for the calls where every microsecond counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import cast

from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2 as policy_pb
from canary_documents import to_document, to_message
from canary_engine import parse, reads
from canary_engine.copies import Known
from canary_engine.model import (
    Backend,
    Decision,
    Deprecation,
    Guards,
    Policy,
    Reads,
    Reason,
    Request,
    Variant,
    VersionStatus,
)
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from decision_svc.decider import Informed, Question, Resend
from decision_svc.errors import BadRequest

VARIANTS = {
    Variant.STABLE: policy_pb.VARIANT_STABLE,
    Variant.CANARY: policy_pb.VARIANT_CANARY,
}
REASONS = {reason: policy_pb.Reason.Value("REASON_" + reason.name) for reason in Reason}


def question(message: pb.DecideRequest) -> Question:
    """The facts of a request."""
    # A message has all that a request has by the same names, and is read as one: copying it
    # would take as long as deciding.
    return Question(
        message.service_key,
        cast(Request, message),
        message.baseline_hash,
        message.reads_digest,
        message.want_person,
        message.copy_epoch,
    )


def write_answer(answer: Decision | Informed | Resend, message: pb.DecideResponse) -> None:
    """Write an answer into an empty message."""
    if isinstance(answer, Decision):
        write_decision(answer, message.decision)
    elif isinstance(answer, Informed):
        write_decision(answer.decision, message.decision)
        message.person.CopyFrom(person_message(answer.user, answer.known))
    else:
        message.resend.reads.CopyFrom(reads_message(answer.reads))
        message.resend.user_id_header = answer.user_id_header
        message.resend.baseline = answer.baseline


def write_decision(value: Decision, message: policy_pb.Decision) -> None:
    """Write a decision into an empty message."""
    variant, version, backend, reason, matched, bucket, *others = value
    message.MergeFromString(_but_bucket(variant, version, backend, reason, matched, *others))
    if bucket is not None:
        message.bucket = bucket


def decision(value: Decision) -> policy_pb.Decision:
    """A decision as a message."""
    message = policy_pb.Decision()
    write_decision(value, message)
    return message


# Decisions of one policy differ in little else than the bucket.
@lru_cache(maxsize=4_096)
def _but_bucket(
    variant: Variant,
    version: str,
    backend_: Backend | None,
    reason: Reason,
    matched: str,
    release_id: str,
    policy_revision: int,
    issue_cookie: bool,
    degraded: bool,
    control: bool,
    deprecation_: Deprecation | None,
) -> bytes:
    """A decision's message without its bucket, serialized."""
    return policy_pb.Decision(
        variant=VARIANTS[variant],
        version=version,
        backend=backend(backend_) if backend_ else None,
        reason=REASONS[reason],
        matched=matched,
        release_id=release_id,
        policy_revision=policy_revision,
        issue_cookie=issue_cookie,
        degraded=degraded,
        control=control,
        deprecation=deprecation(deprecation_) if deprecation_ else None,
    ).SerializeToString()


def backend(value: Backend) -> policy_pb.Backend:
    """A backend as a message."""
    return policy_pb.Backend(
        upstream=value.upstream, host=value.host, port=value.port, host_header=value.host_header
    )


def deprecation(value: Deprecation) -> policy_pb.Deprecation:
    """What a client is told of its API version, as a message."""
    message = policy_pb.Deprecation(link=value.link)
    message.since.FromDatetime(value.since)
    if value.sunset is not None:
        message.sunset.FromDatetime(value.sunset)
    return message


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


def person_message(user: str, value: Known) -> pb.GetPersonResponse:
    """What the store knows of a user, as a message."""
    person, ways = value.person, value.ways
    document = parse.document(person.profile)
    return pb.GetPersonResponse(
        user=user,
        listed_in=sorted(person.listed_in),
        profile=to_message(document, policy_pb.Profile) if document else None,
        is_known=person.is_known,
        looked_in=sorted(ways.listed),
        membership_epoch=ways.epoch,
        is_old=value.is_old,
    )


def policy_message(value: Policy) -> policy_pb.Policy:
    """A policy as a message."""
    return to_message(parse.document(value), policy_pb.Policy)


def gateway_policy_message(value: Policy) -> policy_pb.Policy:
    """What decides of a policy, as a message: gateways need no idle versions, no plans
    and no names of people.
    """
    deciding = (VersionStatus.STABLE, VersionStatus.CANARY)
    versions = tuple(v for v in value.versions if v.status in deciding)
    return policy_message(
        replace(value, versions=versions, guards=Guards(), approvals=(), plan=None)
    )


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
