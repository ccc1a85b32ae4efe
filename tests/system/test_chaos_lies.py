"""The decision service lies under load: a gateway that knows the policy does not fall for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from dev_stack.stack import CANARY_UPSTREAM
from support.admin import admin_of
from support.chaos import Chaos, chaos_stack, stored, until_asked, users_of
from support.liar import Answers, Liar, Lie, honest, lying
from support.load import User, load, until

# Kong's deadline for a decision is 20 ms in the seed.
LATE_BY_S = 0.06
NOBODY = 1 << 40


@pytest.fixture(scope="module")
def stack() -> Iterator[Chaos]:
    with chaos_stack() as running:
        yield running


@pytest.fixture(scope="module")
def users(stack: Chaos) -> list[User]:
    with admin_of(stack.admin_address) as admin:
        return users_of(stored(admin))


@pytest.fixture(scope="module")
def liar(stack: Chaos) -> Iterator[Liar]:
    """Stands between the plugin server and the decision service."""
    with lying(stack.decision_address) as (found, address):
        stack.plugin.stop()
        stack.plugin_asks = address
        stack.start_plugin_server()
        yield found
        stack.plugin.stop()


def nothing(answers: Answers) -> Answers:
    return [pb.NumberedResponse(id=a.id, response=pb.DecideResponse()) for a in answers]


def from_the_future(answers: Answers) -> Answers:
    decision = policy_pb2.Decision(variant=77, reason=78, version="v9")  # type: ignore[arg-type]
    return [
        pb.NumberedResponse(id=a.id, response=pb.DecideResponse(decision=decision)) for a in answers
    ]


def the_baseline_for_ever(answers: Answers) -> Answers:
    resend = pb.Resend(baseline=True)
    return [
        pb.NumberedResponse(id=a.id, response=pb.DecideResponse(resend=resend)) for a in answers
    ]


def other_reads_for_ever(answers: Answers) -> Answers:
    resend = pb.Resend(reads=policy_pb2.Reads(headers=["x"], digest="of nobody"))
    return [
        pb.NumberedResponse(id=a.id, response=pb.DecideResponse(resend=resend)) for a in answers
    ]


def refusals(answers: Answers) -> Answers:
    return [pb.NumberedResponse(id=a.id, error="no") for a in answers]


def no_message(answers: Answers) -> bytes:
    return b"\xff\x00 no protobuf"


def to_nobody(answers: Answers) -> Answers:
    return [pb.NumberedResponse(id=a.id + NOBODY, response=a.response) for a in answers]


def silence(answers: Answers) -> Answers:
    return []


def to_the_next() -> Lie:
    """Every answer is the one to the question before."""
    before: list[pb.DecideResponse] = []

    def of_the_one_before(answers: Answers) -> Answers:
        said = []
        for answer in answers:
            before.append(answer.response)
            said.append(pb.NumberedResponse(id=answer.id, response=before[0]))
            del before[:-1]
        return said

    return of_the_one_before


def of_another_service(answers: Answers) -> Answers:
    """A canary of something else for everybody, sent to a backend that the gateway knows."""
    decision = policy_pb2.Decision(
        variant=policy_pb2.VARIANT_CANARY,
        reason=policy_pb2.REASON_PERCENTAGE,
        version="orders-2",
        release_id="r-orders",
        policy_revision=99,
        backend=policy_pb2.Backend(upstream=CANARY_UPSTREAM),
    )
    return [
        pb.NumberedResponse(id=a.id, response=pb.DecideResponse(decision=decision)) for a in answers
    ]


@pytest.mark.parametrize(
    ("lie", "cause"),
    [
        (nothing, "alone-garbage"),
        (from_the_future, "alone-garbage"),
        (the_baseline_for_ever, "alone-garbage"),
        (refusals, "alone-refused"),
        (no_message, "alone-unavailable"),
        (silence, "alone-timeout"),
        (to_nobody, "alone-timeout"),
        (other_reads_for_ever, ""),
        (to_the_next(), ""),
        (of_another_service, ""),
    ],
    ids=lambda value: value or "any" if isinstance(value, str) else value.__name__,
)
async def test_what_is_said_wrongly_is_decided_alone(
    stack: Chaos, users: list[User], liar: Liar, lie: Lie, cause: str
) -> None:
    async with load(stack.gateway.address, users) as found:
        await until_asked(stack, found)
        counted, undecided = stack.troubles(), stack.undecided()
        with liar.telling(lie):
            await found.round()
            # A busy machine may have kept the plugin from asking all the while, or from hearing.
            await until(lambda: liar.lies > 0, "a lie")
            if cause:
                await until(lambda: (stack.troubles() - counted)[cause] > 0, cause)
        await until_asked(stack, found)
    found.check()
    assert stack.undecided() == undecided


async def test_what_is_said_too_late_is_decided_alone(
    stack: Chaos, users: list[User], liar: Liar
) -> None:
    async with load(stack.gateway.address, users) as found:
        await until_asked(stack, found)
        counted, undecided = stack.troubles(), stack.undecided()
        with liar.telling(honest, LATE_BY_S):
            await found.round()
            await until(lambda: (stack.troubles() - counted)["alone-timeout"] > 0, "a timeout")
        await until_asked(stack, found)
    found.check()
    assert stack.undecided() == undecided
