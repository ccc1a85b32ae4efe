"""What the store knows of users, in the gateway: heard over real streams, kept through outages."""

from __future__ import annotations

import asyncio
import hmac
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
from canary.decision.v1 import decision_pb2 as pb
from canary_engine.model import Decision, Request
from canary_plugin.deciders.breaker import MAX_FAILURES, PROBE_EVERY_S
from canary_plugin.deciders.protocol import Decider, Question
from canary_plugin.troubles import Troubles
from support import calls
from support.deciders import deciders
from support.kong_side import KEY, Kong
from support.operators import Admin, administering
from support.plugin_stage import PATIENT, stage
from support.service_process import PORTS, address_of, started
from support.spy import Forward, Spy
from support.waiting import until

LISTED = [{"x-user-id": f"listed-{number}"} for number in range(20)]
OTHERS = [{"x-user-id": f"other-{number}"} for number in range(20)]
# A thousand requests, each with its calls over sockets.
MANY_ROUNDS_S = 120.0
PREMIUM = {"name": "vip", "canary_eligible": False, "criteria": {"tiers": ["premium"]}}
EARLY = {"name": "early", "canary_eligible": True, "listed": True}

Staged = tuple[Kong, Spy, Admin, Troubles, int]


async def prepare(admin: Admin) -> None:
    """A release for the listed members of a segment, and for nobody else."""
    await admin.release(0)
    await admin.do("PutSegment", segment=EARLY)
    await admin.do("PutSegment", segment=PREMIUM)
    users = [user["x-user-id"] for user in LISTED]
    await admin.do("AddMembers", segment="early", users=users)


@asynccontextmanager
async def staged(decider: str, **config: Any) -> AsyncIterator[Staged]:
    """A plugin that has heard of a policy with segments, and an instance of it."""
    async with stage(spread=20, decider=decider) as (kong, spy, admin, troubles):
        await prepare(admin)
        instance = await kong.start(PATIENT | config)
        # All of it: what is learnt of a user before the last change is of no use after it.
        await spy.heard(await admin.revision())
        yield kong, spy, admin, troubles, instance


async def variants(kong: Kong, instance: int, users: list[dict[str, str]]) -> list[str]:
    events = await asyncio.gather(*(kong.access(instance, user) for user in users))
    return [event.variant for event in events]


async def until_variant(kong: Kong, instance: int, user: dict[str, str], variant: str) -> None:
    async def is_so() -> bool:
        return (await kong.access(instance, user)).variant == variant

    await calls.until(is_so)


async def until_copies_are_known(kong: Kong, spy: Spy, instance: int) -> None:
    """Wait until the plugin goes by a policy that reads persons, asking for somebody else."""
    async with asyncio.timeout(20):
        while not spy.asked[-1].copy_epoch:
            await kong.access(instance, OTHERS[-1])


def is_alone(troubles: Troubles) -> bool:
    return any(cause.startswith("alone-") for cause in troubles.counts)


BOTH = pytest.mark.parametrize("decider", ["remote", "local"])
AS_LISTED = ["canary"] * len(LISTED) + [""] * len(OTHERS)


@BOTH
async def test_listed_users_keep_their_variant_when_the_service_dies_under_questions(
    decider: str,
) -> None:
    async with staged(decider) as (kong, spy, _, troubles, instance):
        assert await variants(kong, instance, LISTED + OTHERS) == AS_LISTED
        rounds, wrong = [0], []
        is_over = asyncio.Event()

        async def ask(user: dict[str, str], expected: str) -> None:
            while not is_over.is_set():
                found = (await kong.access(instance, user)).variant
                rounds[0] += 1
                if found != expected:
                    wrong.append((user, found))

        async with asyncio.TaskGroup() as asking:
            for user, expected in zip(LISTED + OTHERS, AS_LISTED, strict=True):
                asking.create_task(ask(user, expected))
            await until(lambda: rounds[0] > 100)
            await spy.stop()
            before = rounds[0]
            await until(lambda: rounds[0] > before + 1_000, within_s=MANY_ROUNDS_S)
            await until(lambda: troubles.counts["policy-stream"] >= 3)
            before = rounds[0]
            await until(lambda: rounds[0] > before + 100)
            await spy.start()
            before = rounds[0]
            await until(lambda: rounds[0] > before + 1_000, within_s=MANY_ROUNDS_S)
            is_over.set()
        assert wrong == []
        assert is_alone(troubles) == (decider == "remote")


async def test_listed_users_keep_their_variant_when_the_service_is_late() -> None:
    async with staged("remote") as (kong, spy, _, troubles, instance):
        assert await variants(kong, instance, LISTED + OTHERS) == AS_LISTED

        async def never(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
            await asyncio.Event().wait()
            raise AssertionError

        spy.decide = never
        hasty = await kong.start({"deadline_ms": 5})
        assert await variants(kong, hasty, LISTED + OTHERS) == AS_LISTED
        assert troubles.counts["alone-timeout"] == len(AS_LISTED)


async def test_a_person_is_wanted_until_there_is_a_valid_copy_and_told_where_one_is_read() -> None:
    async with staged("remote") as (kong, spy, admin, _, instance):
        answers = []

        async def noted(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
            answers.append(await forward(request))
            return answers[-1]

        spy.decide = noted
        for _ in range(3):
            await kong.access(instance, LISTED[0])
        assert [asked.want_person for asked in spy.asked] == [True, False, False]
        epoch = (await admin.policy()).membership_epoch
        assert [asked.copy_epoch for asked in spy.asked] == [0, epoch, epoch]
        assert [answer.HasField("person") for answer in answers] == [True, False, False]
        assert spy.persons == []
        spy.asked.clear()
        await kong.access(instance, {"cookie": "canary_id=anonymous"})
        assert [asked.want_person for asked in spy.asked] == [False]
        await admin.do("RemoveSegment", name="early")
        await admin.do("RemoveSegment", name="vip")
        await spy.heard(await admin.revision())
        answers.clear()
        await kong.access(instance, OTHERS[0])
        assert [answer.HasField("person") for answer in answers] == [False]


async def test_what_a_newer_policy_gave_a_user_stays_before_the_gateway_has_heard_of_it() -> None:
    """The policy stream lags, the service answers, and then it answers no more."""
    async with staged("remote") as (kong, spy, admin, troubles, instance):
        user = OTHERS[0]
        assert await variants(kong, instance, [user]) == [""]  # and so much is known of them
        spy.is_mute = True
        await admin.do("AddMembers", segment="early", users=[user["x-user-id"]])
        assert await variants(kong, instance, [user]) == ["canary"]
        await spy.stop()
        assert await variants(kong, instance, [user] * 3) == ["canary"] * 3
        assert is_alone(troubles)


async def test_who_is_in_the_first_segment_is_known_before_the_gateway_has_heard_of_it() -> None:
    async with stage(decider="remote") as (kong, spy, admin, troubles):
        await admin.release(0)
        await spy.heard(await admin.revision())
        instance = await kong.start(PATIENT)
        assert await variants(kong, instance, LISTED[:2]) == ["", ""]
        held = asyncio.Event()
        spy.hold = held.wait
        await admin.do("PutSegment", segment=EARLY)
        await admin.do("AddMembers", segment="early", users=[LISTED[0]["x-user-id"]])
        assert await variants(kong, instance, LISTED[:2]) == ["canary", ""]
        held.set()
        await spy.heard(await admin.revision())
        await until_copies_are_known(kong, spy, instance)
        await spy.stop()
        assert await variants(kong, instance, LISTED[:2]) == ["canary", ""]
        assert is_alone(troubles)


async def test_a_service_that_does_not_know_a_user_is_not_believed_where_the_gateway_does() -> None:
    """Its store is late, and it has just been started: it knows nobody."""
    async with staged("remote") as (kong, spy, _, troubles, instance):
        assert await variants(kong, instance, LISTED[:1]) == ["canary"]

        async def degraded(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
            answer: pb.DecideResponse = await forward(request)
            stable = (await forward(pb.DecideRequest(service_key=KEY))).decision
            answer.ClearField("person")
            answer.decision.CopyFrom(stable)
            answer.decision.degraded = True
            return answer

        spy.decide = degraded
        assert await variants(kong, instance, LISTED[:2]) == ["canary", ""]
        assert troubles.counts == {"alone-degraded": 1}


def of_another_user(person: pb.GetPersonResponse) -> None:
    person.user = OTHERS[0]["x-user-id"]


def of_nobody(person: pb.GetPersonResponse) -> None:
    person.is_known = False


def garbage(person: pb.GetPersonResponse) -> None:
    person.profile.registered_at.seconds = 1 << 60


@pytest.mark.parametrize("spoil", [of_another_user, of_nobody, garbage])
async def test_a_person_that_is_not_the_one_wanted_is_not_kept_and_costs_nothing(
    spoil: Any,
) -> None:
    async with staged("remote") as (kong, spy, _, troubles, instance):

        async def spoiled(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
            answer: pb.DecideResponse = await forward(request)
            spoil(answer.person)
            return answer

        spy.decide = spoiled
        for _ in range(2):
            assert (await kong.access(instance, LISTED[0])).variant == "canary"
        assert [asked.want_person for asked in spy.asked] == [True, True]
        assert troubles.counts == ({"bad-person": 2} if spoil is garbage else {})
        await spy.stop()
        # Nobody is known, and the policy protects a segment.
        assert await variants(kong, instance, [LISTED[0], OTHERS[0]]) == ["", ""]


@BOTH
async def test_members_who_are_added_and_removed_are_so_at_once_and_after_the_service(
    decider: str,
) -> None:
    async with staged(decider) as (kong, spy, admin, _, instance):
        assert await variants(kong, instance, [LISTED[0], OTHERS[0]]) == ["canary", ""]
        await admin.do("AddMembers", segment="early", users=[OTHERS[0]["x-user-id"]])
        await until_variant(kong, instance, OTHERS[0], "canary")
        await admin.do("RemoveMembers", segment="early", users=[LISTED[0]["x-user-id"]])
        await until_variant(kong, instance, LISTED[0], "")
        # Asked once more by the policy of the last change, so that the copies are its own.
        await spy.heard(await admin.revision())
        assert await variants(kong, instance, [LISTED[0], OTHERS[0]]) == ["", "canary"]
        await spy.stop()
        for _ in range(5):
            assert await variants(kong, instance, [LISTED[0], OTHERS[0]]) == ["", "canary"]


@BOTH
async def test_a_profile_that_changes_is_asked_for_anew_and_others_are_not(decider: str) -> None:
    async with staged(decider) as (kong, spy, admin, _, instance):
        asked = spy.persons if decider == "local" else spy.asked

        def wanted() -> list[str]:
            if decider == "local":
                return [request.user for request in spy.persons]
            return [q.headers["x-user-id"] for q in spy.asked if q.want_person]

        assert await variants(kong, instance, LISTED[:2]) == ["canary"] * 2
        asked.clear()
        await admin.profile("listed-0", tier="premium")
        await until(lambda: any("listed-0" in m.outdated_users for m in spy.told))
        await until_variant(kong, instance, LISTED[0], "")
        await variants(kong, instance, LISTED[:2] * 3)
        assert wanted() == ["listed-0"]
        await spy.stop()
        assert await variants(kong, instance, LISTED[:2] * 3) == ["", "canary"] * 3


@BOTH
async def test_what_changed_while_the_policy_stream_was_broken_is_heard_after_it(
    decider: str,
) -> None:
    async with staged(decider) as (kong, spy, admin, troubles, instance):
        assert await variants(kong, instance, LISTED[:2]) == ["canary"] * 2
        is_back = asyncio.Event()
        watch = spy.watch

        async def later() -> None:
            await is_back.wait()

        spy.watch = later
        spy.cut_streams()
        await until(lambda: troubles.counts["policy-stream"])
        await admin.profile("listed-0", tier="premium")
        await admin.do("RemoveMembers", segment="early", users=["listed-1"])
        spy.watch = watch
        is_back.set()
        for user in LISTED[:2]:
            await until_variant(kong, instance, user, "")


@BOTH
async def test_what_changed_while_the_service_was_gone_is_heard_when_it_is_back(
    decider: str,
) -> None:
    async with staged(decider) as (kong, spy, admin, _, instance):
        assert await variants(kong, instance, LISTED[:3]) == ["canary"] * 3
        await spy.stop()
        await admin.profile("listed-0", tier="premium")
        await admin.do("RemoveMembers", segment="early", users=["listed-1"])
        assert await variants(kong, instance, LISTED[:3]) == ["canary"] * 3
        await spy.start()
        for user in LISTED[:2]:
            await until_variant(kong, instance, user, "")
        await until_variant(kong, instance, LISTED[2], "canary")


async def test_a_user_is_named_by_the_policy_in_force_even_to_a_plugin_that_never_heard_of_it() -> (
    None
):
    hashed = hmac.digest(b"key", b"ann@example.com", "sha256").hex()
    async with stage(is_mute=True) as (kong, spy, admin, troubles):
        await prepare(admin)
        await admin.do("SetIdentity", identity={"user_id_header": "x-account"})
        await admin.do("AddMembers", segment="early", users=[hashed])
        instance = await kong.start(PATIENT | {"user_id_hash_key": "key"})
        event = await kong.access(instance, {"x-account": "ann@example.com"})
        assert (event.variant, event.logged["reason"]) == ("canary", "segment")
        assert spy.asked[-1].headers["x-account"] == hashed
        assert not any(b"ann@example.com" in asked.SerializeToString() for asked in spy.asked)
        assert troubles.counts == {}


async def answer(decider: Decider, user: str, deadline_s: float) -> Decision:
    return (await answer_and_wait(decider, user, deadline_s))[0]


async def answer_and_wait(decider: Decider, user: str, deadline_s: float) -> tuple[Decision, bool]:
    """The answer, and whether it had to be waited for."""
    question = Question(
        service_key=KEY,
        request=Request(headers={"x-user-id": user}),
        baseline=None,
        digest=decider.projection(KEY, None).digest,
        ends=monotonic() + deadline_s,
    )
    found = decider.decide(question)
    is_waited_for = isinstance(found, Awaitable)
    answered = await found if isinstance(found, Awaitable) else found
    assert isinstance(answered, Decision)
    return answered, is_waited_for


async def test_a_service_that_hangs_costs_the_local_decider_some_deadlines_and_no_more() -> None:
    async with started(*PORTS) as process:
        running = await address_of(process)
        async with administering(running) as admin:
            await prepare(admin)
        async with deciders(running.decision_address) as both:
            local, pid = both.local, process.process.pid
            assert (await answer(local, "listed-0", 20)).matched == "early"
            both.persons["local"].outdate_all()
            os.kill(pid, signal.SIGSTOP)
            try:
                began = monotonic()
                for number in range(MAX_FAILURES):
                    await answer(local, f"stranger-{number}", 0.05)
                assert monotonic() - began >= MAX_FAILURES * 0.05
                began, paid = monotonic(), 0
                for number in range(1_000):
                    found, is_paid = await answer_and_wait(local, f"stranger-{number}", 0.05)
                    paid += is_paid
                    assert (found.variant, found.degraded) == ("stable", True)
                assert paid <= 1 + (monotonic() - began) / PROBE_EVERY_S
                assert (await answer(local, "listed-0", 0.05)).matched == "early"
            finally:
                os.kill(pid, signal.SIGCONT)

            async def is_heard() -> bool:
                return (await answer(local, "listed-1", 1)).matched == "early"

            await calls.until(is_heard)


async def test_of_two_addresses_the_one_that_hangs_is_soon_left() -> None:
    async with started(*PORTS) as hanging, started(*PORTS) as process:
        first, second = await address_of(hanging), await address_of(process)
        for running in (first, second):
            async with administering(running) as admin:
                await prepare(admin)
        async with deciders(first.decision_address, second.decision_address) as both:
            os.kill(hanging.process.pid, signal.SIGSTOP)
            try:
                # The second may ask before the first has heard that it was in vain. The others
                # are soon answered, but by a process that a busy machine may let wait.
                deadlines_s = (0.5, 0.5, 20, 20, 20)
                found = [
                    await answer(both.local, f"listed-{number}", deadline_s)
                    for number, deadline_s in enumerate(deadlines_s)
                ]
            finally:
                os.kill(hanging.process.pid, signal.SIGCONT)
            assert found[0].degraded
            assert [decision.matched for decision in found[2:]] == ["early"] * 3


@BOTH
async def test_what_changes_before_the_policy_stream_stands_is_not_kept(decider: str) -> None:
    """A copy that was made between the asking for the stream and its standing is not valid."""
    async with staged(decider) as (kong, spy, admin, _, instance):
        user = LISTED[0]["x-user-id"]
        asked, stands = asyncio.Event(), asyncio.Event()

        async def later() -> None:
            asked.set()
            await stands.wait()

        watch, spy.watch = spy.watch, later
        spy.cut_streams()
        await asyncio.wait_for(asked.wait(), 20)
        assert await variants(kong, instance, LISTED[:1]) == ["canary"]
        await admin.profile(user, tier="premium")
        spy.watch = watch
        stands.set()
        await until_variant(kong, instance, LISTED[0], "")
