"""Whatever happens to the decision service, requests are served, and alike where possible."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_plugin.config import read
from canary_plugin.deciders.breaker import MAX_FAILURES
from canary_plugin.deciders.person_calls import PersonCalls
from canary_plugin.deciders.persons import Persons
from canary_plugin.deciders.policies import KnownPolicies
from canary_plugin.deciders.policy_stream import PolicyStream
from canary_plugin.deciders.protocol import Question
from canary_plugin.deciders.remote import RemoteDecider
from canary_plugin.deciders.service import Service
from canary_plugin.handler import MAX_QUESTIONS
from canary_plugin.troubles import Troubles
from support import calls
from support.kong_side import KEY, SERVICE, Event, Kong
from support.operators import Admin, administering
from support.plugin_stage import PATIENT, QUICK, SEED, answered, plugin, stage
from support.service import NOWHERE, running_service
from support.spy import Forward, Refusal, spying
from support.waiting import WITHIN_S, until

TEST_HEADER = {"x-canary-test": "true"}
FORGED = {"x-canary-variant": "canary"}
# They say that they broke, whatever becomes of the requests.
# What is told of decisions made alone cannot be told either.
STREAMS = {"policy-stream", "decide-stream", "outcomes-unsent"}
USERS = [{"x-user-id": f"user-{number}"} for number in range(500)]


async def variants(kong: Kong, instance: int, requests: list[dict[str, str]]) -> list[Any]:
    """What each request is told and logged, all asked for at once."""
    events = await asyncio.gather(*(kong.access(instance, headers) for headers in requests))
    return [(event.variant, event.upstream, event.logged, event.cookies) for event in events]


async def known_alone(kong: Kong, instance: int, troubles: Troubles, headers: Any) -> Event:
    """The first decision that was made without the service."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            before = troubles.counts.copy()
            event = await kong.access(instance, headers)
            if any(cause.startswith("alone-") for cause in troubles.counts - before):
                return event


async def test_without_a_service_every_request_is_stable_and_one_line_tells_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with plugin(NOWHERE, **QUICK) as (kong, troubles):
        instance = await kong.start(SEED)
        for _ in range(30):
            event = await kong.access(instance, TEST_HEADER | FORGED)
            assert (event.upstream, event.cleared, event.end) == ("", list(FORGED), "ret")
        assert {c: n for c, n in troubles.counts.items() if c not in STREAMS} == {"unavailable": 30}
        told = [record.args[0] for record in caplog.records if record.name == "canary_plugin"]  # type: ignore[index]
        assert len(told) == len(set(told)) <= 3
        assert not any("\n" in record.getMessage() for record in caplog.records)


async def test_a_late_answer_is_not_waited_for() -> None:
    async with stage(is_mute=True) as (kong, spy, _, troubles):
        release = asyncio.Event()

        async def late(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
            await release.wait()
            return await forward(request)

        spy.decide = late
        instance = await kong.start(SEED | {"deadline_ms": 40})
        events = await asyncio.gather(*(kong.access(instance, TEST_HEADER) for _ in range(30)))
        assert {(event.upstream, event.end) for event in events} == {("", "ret")}
        assert troubles.counts == {"timeout": 30}
        release.set()


async def test_a_service_that_is_late_is_done_without_once_the_policy_is_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with stage() as (kong, spy, _, troubles):
        patient, hasty = (
            await kong.start(SEED | PATIENT),
            await kong.start(SEED | {"deadline_ms": 5}),
        )
        assert (await kong.access(patient, TEST_HEADER)).variant == "canary"

        async def never(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
            await asyncio.Event().wait()
            raise AssertionError

        spy.decide = never
        event = await known_alone(kong, hasty, troubles, TEST_HEADER)
        assert event.variant == "canary"
        assert "true" not in caplog.text


async def test_all_questions_of_a_request_share_one_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[float] = []
    decide = RemoteDecider.decide

    def noted(self: RemoteDecider, question: Question) -> Any:
        ends.append(question.ends)
        return decide(self, question)

    async with stage(is_mute=True) as (kong, spy, _, troubles):
        monkeypatch.setattr(RemoteDecider, "decide", noted)

        async def something_else(request: pb.DecideRequest, _: Any) -> pb.DecideResponse:
            response = pb.DecideResponse()
            response.resend.reads.digest = f"digest {len(spy.asked)}"
            return response

        spy.decide = something_else
        instance = await kong.start(SEED | PATIENT)
        await kong.access(instance, TEST_HEADER)
        assert troubles.counts == {"changing": 1}
        assert len(spy.asked) == len(ends) == MAX_QUESTIONS
        assert len(set(ends)) == 1


def _resend_baseline() -> pb.DecideResponse:
    response = pb.DecideResponse()
    response.resend.baseline = True
    return response


def _decision(**fields: Any) -> pb.DecideResponse:
    return pb.DecideResponse(decision=policy_pb2.Decision(**fields))


GARBAGE = {
    "nothing": pb.DecideResponse(),
    "an empty decision": _decision(),
    "no variant": _decision(reason=policy_pb2.REASON_RULE),
    "no reason": _decision(variant=policy_pb2.VARIANT_CANARY),
    "a variant from the future": _decision(variant=77, reason=policy_pb2.REASON_RULE),
    "a reason from the future": _decision(variant=policy_pb2.VARIANT_CANARY, reason=77),
    "the baseline, for ever": _resend_baseline(),
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_is_no_decision(answer: pb.DecideResponse) -> None:
    async with stage(is_mute=True) as (kong, spy, _, troubles):

        async def garbage(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
            return answer

        spy.decide = garbage
        instance = await kong.start(SEED | PATIENT)
        event = await kong.access(instance, TEST_HEADER | FORGED)
        assert (event.upstream, event.cleared) == ("", list(FORGED))
        assert troubles.counts == {"garbage": 1}


@pytest.mark.parametrize(
    "backend", [None, {}, {"host": "a", "port": 0}, {"host": "a", "port": 70_000}, {"port": 80}]
)
async def test_a_canary_that_is_nowhere_is_not_gone_to(backend: Any) -> None:
    async with stage() as (kong, spy, _, troubles):

        async def decide(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
            decision = {"variant": policy_pb2.VARIANT_CANARY, "reason": policy_pb2.REASON_RULE}
            return _decision(**decision, version="v2", release_id="r", backend=backend)

        spy.decide = decide
        instance = await kong.start(SEED | PATIENT)
        event = await kong.access(instance, FORGED)
        assert (event.upstream, event.told, event.cleared) == ("", {}, list(FORGED))
        assert troubles.counts == {"no-backend": 1}


async def test_a_refusal_is_no_decision_until_the_policy_is_known() -> None:
    async with stage(is_mute=True) as (kong, spy, _, troubles):

        async def refuse(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
            raise Refusal(grpc.StatusCode.INTERNAL, "no")

        spy.decide = refuse
        instance = await kong.start(SEED | PATIENT)
        assert (await kong.access(instance, TEST_HEADER)).upstream == ""
        assert troubles.counts == {"refused": 1}
        spy.is_mute = False
        spy.cut_streams()
        event = await known_alone(kong, instance, troubles, TEST_HEADER)
        assert event.variant == "canary"
        assert troubles.counts["alone-refused"] == 1


async def test_every_user_keeps_their_variant_while_the_service_is_gone_and_after() -> None:
    async with stage(spread=50) as (kong, spy, admin, troubles):
        await admin.release(37)
        instance = await kong.start(SEED | PATIENT)
        before = await variants(kong, instance, USERS)
        assert 130 < sum(variant == "canary" for variant, *_ in before) < 240
        await spy.heard(await admin.revision())
        await spy.stop()
        await known_alone(kong, instance, troubles, USERS[0])
        assert await variants(kong, instance, USERS) == before
        assert {c for c in troubles.counts if not c.startswith("alone-")} <= STREAMS
        await spy.start()
        spy.asked.clear()
        async with asyncio.timeout(WITHIN_S):
            while not spy.asked:
                await kong.access(instance, USERS[0])
        told = troubles.counts.copy()
        assert await variants(kong, instance, USERS) == before
        assert {c for c in troubles.counts - told if c.startswith("alone-")} == set()
        assert len(spy.asked) >= 500


async def test_anonymous_clients_keep_theirs_where_segments_are_protected() -> None:
    async with stage() as (kong, spy, admin, troubles):
        await admin.release(50)
        premium = {"name": "premium", "canary_eligible": False, "criteria": {"tiers": ["premium"]}}
        await admin.do("PutSegment", segment=premium)
        instance = await kong.start(SEED | PATIENT)
        clients = [{"cookie": f"canary_id=client-{number}"} for number in range(40)]
        before = await variants(kong, instance, clients)
        assert {variant for variant, *_ in before} == {"canary", ""}
        await spy.heard(await admin.revision())
        await spy.stop()
        await known_alone(kong, instance, troubles, clients[0])
        assert await variants(kong, instance, clients) == before


async def test_a_release_that_ends_while_the_service_is_cut_off_ends_when_it_is_back() -> None:
    async with stage() as (kong, spy, admin, troubles):
        await admin.release(100)
        instance = await kong.start(PATIENT)
        assert (await kong.access(instance, USERS[0])).variant == "canary"
        await spy.heard(await admin.revision())
        await spy.stop()
        await admin.do("MoveRelease", move="roll-back")
        assert (await known_alone(kong, instance, troubles, USERS[0])).variant == "canary"
        spy.told.clear()
        await spy.start()
        await spy.heard(await admin.revision())
        await spy.stop()
        assert (await known_alone(kong, instance, troubles, USERS[0])).variant == ""


async def test_of_two_addresses_the_one_that_answers_is_used_for_questions_and_policies() -> None:
    async with (
        running_service() as service,
        spying(service.decision_address) as (spy, address),
        plugin(NOWHERE, address, spread=40) as (kong, troubles),
    ):
        instance = await kong.start(SEED | PATIENT)
        for _ in range(3):
            events = await asyncio.gather(*(kong.access(instance, TEST_HEADER) for _ in range(40)))
            assert {event.variant for event in events} == {"canary"}
        await spy.heard_all()
        await spy.stop()
        assert (await known_alone(kong, instance, troubles, TEST_HEADER)).variant == "canary"


async def test_when_one_address_hangs_all_move_to_the_other_together() -> None:
    async with (
        running_service() as service,
        spying(service.decision_address) as (hanging, first),
        spying(service.decision_address) as (spy, second),
        AsyncExitStack() as later,
    ):
        # Without a policy told, nothing can be decided alone.
        hanging.is_mute = spy.is_mute = True
        context = plugin(first, second, spread=40, **QUICK)
        kong, troubles = await later.enter_async_context(context)
        await answered(kong, hanging, troubles)

        async def never(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
            await asyncio.Event().wait()
            raise AssertionError

        hanging.decide = never
        hasty = await kong.start(SEED | {"deadline_ms": 50})
        patient = await kong.start(SEED | PATIENT)
        await asyncio.gather(*(kong.access(hasty, TEST_HEADER) for _ in range(40)))
        # Whoever asks while all move has no stream to ask on.
        assert troubles.counts["timeout"] >= MAX_FAILURES
        assert troubles.counts["timeout"] + troubles.counts["unavailable"] == 40
        await answered(kong, spy, troubles)
        asked = len(hanging.asked)
        events = await asyncio.gather(*(kong.access(patient, TEST_HEADER) for _ in range(40)))
        assert {event.variant for event in events} == {"canary"}
        assert len(hanging.asked) == asked
        assert len(spy.asked) >= 40


async def test_a_service_that_comes_back_with_an_older_policy_is_believed() -> None:
    async with AsyncExitStack() as later:
        async with running_service() as service, administering(service) as admin:
            await admin.release(0)
            await admin.do("SetPercentage", percentage=100)
            context = plugin(service.decision_address)
            kong, troubles = await later.enter_async_context(context)
            instance = await kong.start(SEED | PATIENT)
            assert (await kong.access(instance, USERS[0])).variant == "canary"
        assert (await known_alone(kong, instance, troubles, USERS[0])).variant == "canary"
        async with _again(service.decision_address) as admin:
            await admin.release(0)

            async def is_stable() -> bool:
                return not (await kong.access(instance, USERS[0])).variant

            async def is_in_contact() -> bool:
                return bool(await admin.baselines())

            await calls.until(is_stable)
            await calls.until(is_in_contact)

        async def is_stable_alone() -> bool:
            return not (await known_alone(kong, instance, troubles, USERS[0])).variant

        await calls.until(is_stable_alone)


@asynccontextmanager
async def _again(address: str) -> AsyncIterator[Admin]:
    async with running_service(listen=address) as service, administering(service) as admin:
        yield admin


async def test_a_broken_policy_stream_is_opened_again() -> None:
    async with stage() as (kong, spy, admin, troubles):
        instance = await kong.start(SEED | PATIENT)
        await kong.access(instance, TEST_HEADER)
        await until(lambda: spy.watched[-1].baselines)
        opened = len(spy.watched)
        for number in range(3):
            await until(lambda number=number: len(spy.watched) == opened + number)  # type: ignore[misc]
            await spy.heard_all()
            spy.told.clear()
            spy.cut_streams()
        await spy.heard_all()
        assert troubles.counts == {"policy-stream": 3}
        await admin.release(100)
        await until(lambda: any(message.policy.release.percentage == 100 for message in spy.told))


async def test_baselines_that_appear_together_are_all_declared() -> None:
    async with stage(spread=20) as (kong, spy, _, troubles):
        instance = await kong.start(SEED | PATIENT)
        names = {f"service-{number}" for number in range(60)}
        await asyncio.gather(
            *(kong.access(instance, get_service=SERVICE | {"name": name}) for name in names)
        )
        await until(lambda: names == {b.policy.service_key for b in spy.watched[-1].baselines})
        assert not any(watched.service_keys for watched in spy.watched)
        assert troubles.counts == {}


async def test_a_policy_that_is_not_understood_does_not_hide_the_others() -> None:
    async with stage() as (kong, spy, admin, troubles):

        def tell(message: pb.WatchPoliciesResponse) -> pb.WatchPoliciesResponse:
            if message.service_key != KEY:
                return message
            policy = policy_pb2.Policy(service_key=KEY, revision=1)
            policy.rules.add(name="from the future", variant=policy_pb2.VARIANT_CANARY)
            return pb.WatchPoliciesResponse(service_key=KEY, policy=policy)

        spy.tell = tell
        await admin.release(0)
        instance = await kong.start(SEED | PATIENT)
        for name in (KEY, "b"):
            await kong.access(instance, get_service=SERVICE | {"name": name})
        await spy.heard()
        await spy.heard_all()
        await spy.stop()
        async with asyncio.timeout(WITHIN_S):
            while not troubles.counts.keys() & {"alone-unavailable", "alone-timeout"}:
                event = await kong.access(
                    instance, TEST_HEADER, get_service=SERVICE | {"name": "b"}
                )
        assert event.variant == "canary"
        assert troubles.counts["bad-policy"] >= 1


async def test_a_policy_of_five_megabytes_is_heard() -> None:
    async with stage() as (kong, spy, admin, troubles):
        await admin.release(0)
        users = [f"{number:0120d}" for number in range(42_000)]
        await admin.do("SetWhitelist", whitelist={"users": users})
        instance = await kong.start(PATIENT)
        headers = {"x-user-id": users[-1]}
        assert (await kong.access(instance, headers)).variant == "canary"
        await until(lambda: any(message.ByteSize() > 5_000_000 for message in spy.told))
        await spy.stop()
        assert (await known_alone(kong, instance, troubles, headers)).variant == "canary"


@pytest.mark.parametrize("ticks", range(8))
async def test_a_policy_stream_ends_when_cancelled_even_while_it_is_told_to_follow_more(
    ticks: int,
) -> None:
    async with running_service() as service, spying(service.decision_address) as (spy, address):
        troubles, policies = Troubles(lambda: 0.0), KnownPolicies()
        service_at = Service([address])
        persons = Persons(PersonCalls(service_at.stubs).person)
        stream = PolicyStream(service_at.stubs, policies, persons, troubles, "test")
        task = asyncio.create_task(stream.run())
        await stream.complete.wait()
        declared = read(SEED).baseline("one")
        assert declared
        stream.declare(declared)
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=WITHIN_S)
        assert done == {task}
        assert task.cancelled()
        assert len(spy.watched) <= 2
        assert troubles.counts == {}
        await service_at.close()


async def test_a_baseline_that_the_service_refuses_does_not_hide_the_policies() -> None:
    async with stage() as (kong, spy, admin, troubles):
        spy.refuses_baselines = True
        instance = await kong.start(SEED | PATIENT)
        await kong.access(instance, TEST_HEADER)
        await until(lambda: troubles.counts["baselines-refused"])
        before = len(spy.told)
        await admin.release(100)
        await until(lambda: any(m.policy.release.percentage == 100 for m in spy.told[before:]))
        assert troubles.counts == {"baselines-refused": 1}
        assert [len(watched.baselines) for watched in spy.watched] == [0, 1, 0]


async def test_the_log_names_no_header_value(caplog: pytest.LogCaptureFixture) -> None:
    secrets = {
        "x-user-id": "s3cret-user",
        "cookie": "yyc3_canary=s3cret",
        "x-canary-test": "s3cret",
    }
    with caplog.at_level(logging.DEBUG, "canary_plugin"):
        async with stage() as (kong, spy, _, _):
            instance = await kong.start(SEED | PATIENT)
            await kong.access(instance, secrets, get_consumer={"username": "s3cret-consumer"})
            await spy.heard_all()
            await spy.stop()
            for _ in range(5):
                await kong.access(instance, secrets, get_consumer={"username": "s3cret-consumer"})
            for answers in ({"get_service": 7}, {"get_service": {"name": 7}}, {"get_consumer": 7}):
                await kong.access(instance, secrets, **answers)
    assert caplog.records
    assert "s3cret" not in caplog.text
