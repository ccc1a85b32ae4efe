"""Webhooks over real HTTP: signed, patient, and never taking trouble for a no."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, web
from canary_controller.webhooks.caller import MAX_BYTES, MOST_AT_ONE_PLACE, Heard, Webhooks
from canary_controller.webhooks.messages import body_of, meaning
from canary_engine.plan import Occasion
from canary_engine.record import PROMOTION, Answer
from canary_engine.webhooks import Question
from support.web import Answer as Answering
from support.web import forever, serving

SECRET = b"not much of a secret"


def question(url: str, **fields: Any) -> Question:
    usual: dict[str, Any] = {
        "service_key": "shop",
        "release_id": "r1",
        "version": "2.0",
        "name": "qa",
        "occasion": Occasion.RAISE,
        "weight": 25_000,
    }
    return Question(url=url, **{**usual, **fields})


def message(of: Question) -> Callable[[], bytes]:
    return lambda: body_of(of, "the step has been held", {"error_rate": 0.5})


def answering(*answers: web.Response | Answering) -> Answering:
    """These answers in turn, the last for ever."""
    left = list(answers)

    async def answer(request: web.Request) -> web.StreamResponse:
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, web.Response):
            return web.Response(status=one.status, body=one.body, headers=one.headers)
        return await one(request)

    return answer


async def cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def huge(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b'{"answer": "no", "text": "' + b"x" * MAX_BYTES + b'"}')


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


async def heard(hooks: Webhooks, count: int = 1) -> list[Heard]:
    """The next so many answers."""
    found: list[Heard] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += hooks.heard()
            await asyncio.sleep(0)
    return found


def webhooks(session: ClientSession, **settings: Any) -> Webhooks:
    quick = {"first_pause_s": 0.001, "longest_pause_s": 0.002, "secret": SECRET}
    return Webhooks(session, **{**quick, **settings})


async def test_a_question_is_signed_and_says_what_it_is_about(session: ClientSession) -> None:
    async with serving(answering(web.Response(status=204))) as site:
        asked = question(site.url + "/hook?team=qa")
        hooks = webhooks(session, now=lambda: 1_700_000_000.9)
        hooks.ask({asked: message(asked)})
        assert await heard(hooks) == [Heard(question=asked, answer=Answer.YES, text="")]
        await hooks.close()
    ((request, body),) = site.requests
    assert (request.method, request.path_qs) == ("POST", "/hook?team=qa")
    assert json.loads(body) == {
        "id": asked.id,
        "service_key": "shop",
        "release_id": "r1",
        "version": "2.0",
        "webhook": "qa",
        "occasion": "raise",
        "percentage": 25.0,
        "may_refuse": True,
        "why": "the step has been held",
        "metrics": {"error_rate": 0.5},
    }
    stamp = request.headers["X-Canary-Timestamp"]
    expected = hmac.new(SECRET, f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert (stamp, request.headers["X-Canary-Signature"]) == ("1700000000", f"v1={expected}")
    assert request.headers["X-Canary-Id"] == asked.id


async def test_without_a_secret_nothing_pretends_to_be_signed(session: ClientSession) -> None:
    async with serving(answering(web.Response())) as site:
        hooks = webhooks(session, secret=b"")
        hooks.ask({question(site.url): message(question(site.url))})
        await heard(hooks)
        await hooks.close()
    assert "X-Canary-Signature" not in site.requests[0][0].headers


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        (web.json_response({"answer": "yes"}), Answer.YES),
        (web.json_response({"answer": "no", "text": "not on fridays"}), Answer.NO),
        (web.json_response({"answer": "not yet"}), Answer.NOT_YET),
        (web.Response(status=202), Answer.NOT_YET),
        (web.Response(status=409), Answer.NO),
        (web.Response(status=403), Answer.NO),
        (web.Response(status=429), Answer.NOT_YET),
        (web.Response(text="<html>please log in</html>"), Answer.SILENCE),
        (web.json_response({"answer": "perhaps"}), Answer.SILENCE),
        (web.json_response({"answer": None}), Answer.SILENCE),
        (web.json_response({}), Answer.SILENCE),
        (web.json_response(["no"]), Answer.SILENCE),
        (web.Response(body=b"[" * 50_000), Answer.SILENCE),
        (web.Response(body=b"\xff\xfe{"), Answer.SILENCE),
        (web.Response(status=401), Answer.SILENCE),
        (web.Response(status=404, text='{"answer": "no"}'), Answer.SILENCE),
        (web.Response(status=500, text='{"answer": "no"}'), Answer.SILENCE),
        (web.Response(status=302, headers={"Location": "/elsewhere"}), Answer.SILENCE),
    ],
)
async def test_only_a_clear_answer_is_one(
    session: ClientSession, answer: web.Response, meant: Answer
) -> None:
    async with serving(answering(answer)) as site:
        hooks = webhooks(session, first_pause_s=60)
        hooks.ask({question(site.url): message(question(site.url))})
        (found,) = await heard(hooks)
        await hooks.close()
    assert found.answer is meant
    assert bool(found.text) is (meant in (Answer.SILENCE, Answer.NO)) or answer.status == 429
    assert len(site.requests) == 1, "a redirect is not followed"


@pytest.mark.parametrize("trouble", [cut, huge, forever])
async def test_whoever_fails_is_asked_again_and_never_taken_to_refuse(
    session: ClientSession, trouble: Answering
) -> None:
    async with serving(answering(trouble, web.json_response({"answer": "yes"}))) as site:
        hooks = webhooks(session, timeout_s=0.2)
        asked = question(site.url)
        hooks.ask({asked: message(asked)})
        found = await heard(hooks, 2)
        while found[-1].answer is not Answer.YES:  # a busy machine may be late once more
            found += await heard(hooks)
        await hooks.close()
    silences = found[:-1]
    assert {silence.answer for silence in silences} == {Answer.SILENCE}
    assert all(silence.text for silence in silences)
    ids = {request.headers["X-Canary-Id"] for request, _ in site.requests}
    assert ids == {asked.id}, "the other side can tell a repetition"


async def test_whom_nobody_can_reach_is_silent_and_says_why(session: ClientSession) -> None:
    async with serving(forever) as site:
        pass
    place = site.url.split("/")[2]
    for url, why in (
        (site.url, f"it cannot be reached: {place}: Connection refused"),
        ("http://[", "cannot be reached"),
    ):
        hooks = webhooks(session)
        hooks.ask({question(url): message(question(url))})
        found = (await heard(hooks))[0]
        await hooks.close()
        assert (found.answer, why in found.text) == (Answer.SILENCE, True)


async def test_a_silent_webhook_keeps_no_other_waiting(session: ClientSession) -> None:
    async with serving(forever) as dead, serving(answering(web.Response())) as alive:
        hooks = webhooks(session, timeout_s=600)
        silent = [question(dead.url, service_key=f"shop-{n}") for n in range(200)]
        hooks.ask({q: message(q) for q in (*silent, question(alive.url))})
        (found,) = await heard(hooks)
        await dead.has_heard(MOST_AT_ONE_PLACE)
        assert found.question == question(alive.url)
        await hooks.close()


async def test_what_is_answered_is_not_asked_again_and_is_heard_until_it_is_noted(
    session: ClientSession,
) -> None:
    async with serving(answering(web.json_response({"answer": "no"}))) as site:
        hooks, asked = webhooks(session), question(site.url)
        wanted = {asked: message(asked)}
        hooks.ask(wanted)
        first = await heard(hooks)
        hooks.ask(wanted)  # the record could not be written: the answer is told once more
        assert hooks.heard() == tuple(first)
        hooks.ask({})
        assert hooks.heard() == ()
        hooks.ask(wanted)  # it is a question anew
        await site.has_heard(2)
        await hooks.close()


async def test_who_is_not_wanted_any_more_is_left_alone(session: ClientSession) -> None:
    async with serving(answering(web.Response(status=500))) as site:
        hooks, asked = webhooks(session, first_pause_s=600), question(site.url)
        hooks.ask({asked: message(asked)})
        await heard(hooks)
        hooks.ask({})
        await hooks.close()
        assert hooks.heard() == ()
    assert len(site.requests) == 1


async def test_a_message_that_cannot_be_made_is_a_silence_with_its_reason(
    session: ClientSession,
) -> None:
    async with serving(answering(web.Response())) as site:
        hooks, asked = webhooks(session), question(site.url)
        hooks.ask({asked: lambda: body_of(asked, "", {"error_rate": float("inf")})})
        found = (await heard(hooks))[0]
        await hooks.close()
    assert found.answer is Answer.SILENCE
    assert site.requests == []


def test_a_question_about_the_promotion_has_no_percentage() -> None:
    asked = question("http://x/", occasion=Occasion.PROMOTE, weight=PROMOTION)
    assert "percentage" not in json.loads(body_of(asked, "", {}))


def test_a_text_can_be_written_down_whatever_is_in_it() -> None:
    """JSON may name half of a character; no message holds that, and so no record."""
    assert meaning(409, b'{"text": "no\\ud800"}') == (Answer.NO, "no?")


def test_a_long_text_is_cut() -> None:
    said = meaning(200, json.dumps({"answer": "no", "text": "x" * 10_000}).encode())
    assert len(said.text) == 500
