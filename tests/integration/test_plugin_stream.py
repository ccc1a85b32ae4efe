"""Questions over one stream: whatever the service does, each gets exactly one answer, in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
from canary.decision.v1 import decision_pb2 as pb
from canary_plugin.deciders.breaker import MAX_FAILURES, PROBE_EVERY_S
from canary_plugin.deciders.protocol import Undecided
from canary_plugin.deciders.service import Service
from canary_plugin.deciders.stream import METHOD, DecideStream
from canary_plugin.troubles import Troubles
from support.raw_grpc import serving
from support.service import NOWHERE
from support.spy import Spy, spying
from support.waiting import until

Answers = list[Any]


@asynccontextmanager
async def streaming(*addresses: str) -> AsyncIterator[tuple[DecideStream, Troubles]]:
    service, troubles = Service(addresses), Troubles(monotonic)
    stream = DecideStream(service.stubs, troubles)
    task = asyncio.create_task(stream.run())
    try:
        await until(lambda: stream.is_open)
        yield stream, troubles
    finally:
        task.cancel()
        await asyncio.wait([task])
        await service.close()


@pytest.fixture
async def spy() -> AsyncIterator[Spy]:
    async with spying(NOWHERE) as (spying_there, _):
        spying_there.decide = echo
        yield spying_there


async def echo(request: pb.DecideRequest, _: Any) -> pb.DecideResponse:
    response = pb.DecideResponse()
    response.resend.reads.digest = request.service_key
    return response


async def never(_: pb.DecideRequest, __: Any) -> pb.DecideResponse:
    await asyncio.Event().wait()
    raise AssertionError


def ask(stream: DecideStream, names: list[str], within_s: float) -> dict[str, Answers]:
    found: dict[str, Answers] = {name: [] for name in names}
    ends = monotonic() + within_s
    for name in names:
        stream.ask(pb.DecideRequest(service_key=name), ends, found[name].append)
    return found


def names(count: int) -> list[str]:
    return [f"question-{number}" for number in range(count)]


def causes(found: dict[str, Answers]) -> list[list[str]]:
    return [[getattr(a, "cause", "answered") for a in answers] for answers in found.values()]


async def test_all_questions_of_one_moment_travel_as_one_message(spy: Spy) -> None:
    async with streaming(spy.address) as (stream, _):
        found = ask(stream, names(200), 20)
        await until(lambda: all(found.values()))
        assert spy.batches == [200]
        for name, answers in found.items():
            assert [answer.resend.reads.digest for answer in answers] == [name]


async def test_answers_out_of_order_reach_those_who_asked(spy: Spy) -> None:
    last = asyncio.Event()

    async def backwards(request: pb.DecideRequest, forward: Any) -> pb.DecideResponse:
        if request.service_key != "question-9":
            await last.wait()
        last.set()
        return await echo(request, forward)

    spy.decide = backwards
    async with streaming(spy.address) as (stream, _):
        found = ask(stream, names(10), 20)
        await until(lambda: all(found.values()))
        assert [answers[0].resend.reads.digest for answers in found.values()] == names(10)


async def test_a_thousand_questions_to_a_mute_service_all_end_in_time_and_once(spy: Spy) -> None:
    spy.decide = never
    async with streaming(spy.address) as (stream, _):
        started = monotonic()
        found = ask(stream, names(1_000), 0.1)
        await until(lambda: all(found.values()))
        assert monotonic() - started >= 0.1
        assert causes(found) == [["timeout"]] * 1_000


async def test_there_is_one_timer_and_it_is_set_to_the_first_deadline(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy.decide = never
    async with streaming(spy.address) as (stream, _):
        loop = asyncio.get_running_loop()
        real, timers = loop.call_later, []

        def counted(delay: float, callback: Any, *args: Any, **kw: Any) -> asyncio.TimerHandle:
            if getattr(callback, "__self__", None) is stream:
                timers.append(delay)
            return real(delay, callback, *args, **kw)

        monkeypatch.setattr(loop, "call_later", counted)
        patient = ask(stream, names(100), 1_000)
        assert len(timers) == 1
        hasty = ask(stream, names(100), 0.05)
        assert len(timers) == 2
        await until(lambda: all(hasty.values()))
        assert not any(patient.values())
    assert causes(patient) == [["unavailable"]] * 100


async def test_the_breaker_opens_probes_and_closes(spy: Spy) -> None:
    spy.decide = never
    async with streaming(spy.address) as (stream, _):
        late = ask(stream, names(MAX_FAILURES), 0.02)
        await until(lambda: all(late.values()))
        ask(stream, ["probe"], 0.02)
        broken = ask(stream, names(50), PROBE_EVERY_S)
        assert sum(bool(answers) for answers in broken.values()) >= 49, "answered at once"
        spy.decide = echo

        async def told_two_who_ask_at_once() -> list[list[str]]:
            await asyncio.sleep(0)
            found = ask(stream, names(2), 20)
            await until(lambda: all(found.values()))
            return causes(found)

        async with asyncio.timeout(20):
            # While the breaker is open, one of them is refused, if not both.
            while await told_two_who_ask_at_once() != [["answered"]] * 2:
                pass
        found = ask(stream, names(50), 20)
        await until(lambda: all(found.values()))
        assert causes(found) == [["answered"]] * 50


async def test_late_answers_do_not_close_the_breaker(spy: Spy) -> None:
    gate = asyncio.Event()

    async def late(request: pb.DecideRequest, forward: Any) -> pb.DecideResponse:
        await gate.wait()
        return await echo(request, forward)

    spy.decide = late
    async with streaming(spy.address) as (stream, _):
        found = ask(stream, names(MAX_FAILURES), 0.02)
        await until(lambda: all(found.values()))
        gate.set()
        await until(lambda: stream._has_heard)
        assert stream.breaker.is_open
        assert causes(found) == [["timeout"]] * MAX_FAILURES


async def test_when_the_stream_breaks_every_question_gets_one_answer_and_others_go_on(
    spy: Spy,
) -> None:
    spy.decide = never
    async with spying(NOWHERE) as (other, second), streaming(spy.address, second) as (stream, _):
        other.decide = echo
        found = ask(stream, names(100), 20)
        await until(lambda: len(spy.asked) == 100)
        await spy.stop()
        await until(lambda: all(found.values()))
        assert causes(found) == [["unavailable"]] * 100
        await until(lambda: stream.is_open)
        again = ask(stream, names(10), 20)
        await until(lambda: all(again.values()))
        assert causes(again) == [["answered"]] * 10
        await spy.start()


async def test_a_whole_baseline_begins_a_message_of_its_own(spy: Spy) -> None:
    async with streaming(spy.address) as (stream, _):
        ends, answers = monotonic() + 20, Answers()
        for number in range(6):
            baseline = pb.Baseline(hash="h") if number % 3 == 1 else None
            stream.ask(pb.DecideRequest(baseline=baseline), ends, answers.append)
        await until(lambda: len(answers) == 6)
        assert spy.batches == [1, 3, 2]


async def test_answers_that_cannot_be_read_break_the_stream_and_it_comes_back() -> None:
    async def garbage(messages: AsyncIterator[bytes], context: Any) -> None:
        await context.send_initial_metadata(())
        async for _ in messages:
            await context.write(b"\xff\xff\xff")

    async with serving(garbage, method=METHOD) as (_, where), streaming(where) as (stream, said):
        for number in range(1, 4):
            await until(lambda: stream.is_open)
            found = ask(stream, names(3), 20)
            await until(lambda: all(found.values()))  # noqa: B023 - awaited here
            assert causes(found) == [["unavailable"]] * 3
            await until(lambda: said.counts["decide-stream"] == number)  # noqa: B023


async def test_of_a_name_with_two_addresses_the_one_that_answers_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def mute(messages: AsyncIterator[bytes], context: Any) -> None:
        await context.send_initial_metadata(())
        async for _ in messages:
            pass

    async def resend(messages: AsyncIterator[bytes], context: Any) -> None:
        await context.send_initial_metadata(())
        async for message in messages:
            asked = pb.DecideStreamRequest.FromString(message).requests
            answers = [pb.NumberedResponse(id=a.id, response=pb.DecideResponse()) for a in asked]
            ready = pb.DecideStreamResponse(responses=answers)
            await context.write(ready.SerializeToString())

    async with serving(mute, method=METHOD) as (_, where):
        port = int(where.rpartition(":")[2])
        async with serving(resend, f"127.0.0.2:{port}", method=METHOD):

            async def both(*_: Any, **__: Any) -> Any:
                return [(2, 1, 6, "", (ip, port)) for ip in ("127.0.0.1", "127.0.0.2")]

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
            async with streaming(f"decision:{port}") as (stream, _):

                def is_answered() -> bool:
                    found = ask(stream, names(MAX_FAILURES), 0.05)
                    answered.append(found)
                    return any(["answered"] in causes(each) for each in answered)

                answered: list[dict[str, Answers]] = []
                await until(is_answered)


async def test_an_asker_that_fails_does_not_cost_the_others_their_answers(spy: Spy) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("an asker's bug")

    async with streaming(spy.address) as (stream, troubles):
        stream.ask(pb.DecideRequest(), monotonic() + 20, fail)
        found = ask(stream, names(10), 20)
        await until(lambda: all(found.values()))
        assert causes(found) == [["answered"]] * 10
        assert troubles.counts == {"plugin-error": 1}


async def test_a_cancelled_stream_leaves_no_task_and_no_timer(spy: Spy) -> None:
    spy.decide = never
    async with streaming(spy.address) as (stream, _):
        found = ask(stream, names(10), 1_000)
    assert causes(found) == [["unavailable"]] * 10
    assert stream._timer is None
    left = {str(task.get_coro()) for task in asyncio.all_tasks()}
    assert not any("DecideStream._" in name for name in left)


async def test_a_dead_address_is_never_open_and_pauses_are_jittered_and_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    real = asyncio.sleep

    async def noted(pause_s: float) -> None:
        pauses.append(pause_s)
        await real(0)

    monkeypatch.setattr("canary_plugin.deciders.stream.asyncio.sleep", noted)
    service, troubles = Service([NOWHERE]), Troubles(monotonic)
    stream = DecideStream(service.stubs, troubles)
    task = asyncio.create_task(stream.run())
    async with asyncio.timeout(20):
        while len(pauses) < 12:
            await real(0.001)
    task.cancel()
    await asyncio.wait([task])
    await service.close()
    assert not stream.opened.is_set()
    assert max(pauses) <= 1.0
    assert len(set(pauses)) > 1
    answers = ask(stream, ["one"], 20)
    assert isinstance(answers["one"][0], Undecided)


def test_no_address_is_refused_with_a_clear_message() -> None:
    with pytest.raises(ValueError, match="no address of a decision service"):
        Service([])
