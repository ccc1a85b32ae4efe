"""What every decider must do, checked alike over each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from time import monotonic
from typing import Any

import pytest
from canary_engine import parse, reads
from canary_engine.decide import CompiledPolicy
from canary_engine.decide import decide as engine_decide
from canary_engine.model import Decision, PersonNeeded, Policy, Request
from canary_plugin.config import Baseline
from canary_plugin.deciders.person_calls import PersonCalls
from canary_plugin.deciders.persons import Persons
from canary_plugin.deciders.policies import KnownPolicies
from canary_plugin.deciders.protocol import Decider, Projection, Question, Undecided
from canary_plugin.deciders.remote import RemoteDecider
from canary_plugin.deciders.service import Service
from canary_plugin.deciders.stream import DecideStream
from canary_plugin.troubles import Troubles
from decision_svc.store.redis import RedisStore
from redis.asyncio import Redis
from support.deciders import Deciders, deciders
from support.golden import THEMES, decision_document, golden
from support.golden_store import cases, know, save, user_of
from support.redis_server import RedisServer
from support.service import NOWHERE, running_service

Opens = Callable[[], AbstractAsyncContextManager[Decider]]


@asynccontextmanager
async def remote() -> AsyncIterator[Decider]:
    """Asks a running service."""
    async with (
        running_service() as service,
        deciders(service.decision_address) as both,
    ):
        yield both.remote


@asynccontextmanager
async def local() -> AsyncIterator[Decider]:
    """Decides by what a running service streams."""
    async with (
        running_service() as service,
        deciders(service.decision_address) as both,
    ):
        yield both.local


@asynccontextmanager
async def alone() -> AsyncIterator[Decider]:
    """Its service is gone; what that said last is known."""
    policies = KnownPolicies()
    policies.heard("shop", None)
    troubles, service = Troubles(lambda: 0.0), Service([NOWHERE])
    stream, persons = DecideStream(service.stubs, troubles), Persons(PersonCalls([]).person)
    yield RemoteDecider(stream, policies, persons, troubles)
    await service.close()


async def answer_of(decider: Decider, asked: Question) -> Decision | Projection:
    """The answer, whether it can be had at once or not."""
    found = decider.decide(asked)
    return found if isinstance(found, Decision | Projection) else await found


@pytest.fixture(params=[remote, local, alone], ids=lambda opens: opens.__name__)
async def decider(request: pytest.FixtureRequest) -> AsyncIterator[Decider]:
    opens: Opens = request.param
    async with opens() as opened:
        yield opened


def baseline(document: dict[str, Any]) -> Baseline:
    policy = parse.policy(document)
    return Baseline(policy=policy, hash=parse.content_hash(parse.document(policy)))


def request_of(document: dict[str, Any]) -> Request:
    return Request(**{**document, "flags": tuple(document.get("flags", ()))})


def question(
    request: Request, declared: Baseline | None, digest: str = "", service_key: str = "shop"
) -> Question:
    return Question(
        service_key=service_key,
        request=request,
        baseline=declared,
        digest=digest,
        ends=monotonic() + 20,
    )


def projected(request: Request, policy: Policy) -> Request:
    """The request without what the policy does not read."""
    wanted = reads.of(policy)
    return Request(
        headers={k: v for k, v in request.headers.items() if k in wanted.headers},
        cookies={k: v for k, v in request.cookies.items() if k in wanted.cookies},
        client_ip=request.client_ip if wanted.client_ip else "",
        path=request.path if wanted.path else "",
        consumer=request.consumer if wanted.consumer else "",
        flags=request.flags,
        fallback_key=request.fallback_key,
    )


def needs_a_person(theme: str, case: dict[str, Any]) -> bool:
    policy = parse.policy(golden(theme)["policies"][case["policy"]])
    now = datetime.fromisoformat(golden(theme)["now"])
    answer = engine_decide(CompiledPolicy(policy), request_of(case["request"]), None, now)
    return "person" in case or isinstance(answer, PersonNeeded)


def depends_on_today(policy: Policy) -> bool:
    """Whether a segment goes by the days since registration: deciders have a clock of their own."""
    criteria = [segment.criteria for segment in policy.segments if segment.criteria]
    return any(c.registered and c.registered.last_days for c in criteria)


@pytest.mark.parametrize("theme", THEMES)
async def test_golden_cases_are_decided_as_they_say(decider: Decider, theme: str) -> None:
    declared = {name: baseline(d) for name, d in golden(theme)["policies"].items()}
    wrong = {}
    for case in golden(theme)["cases"]:
        own = declared[case["policy"]]
        if needs_a_person(theme, case) or depends_on_today(own.policy):
            continue
        request = request_of(case["request"])
        for facts in (request, projected(request, own.policy)):
            answer = await answer_of(decider, question(facts, own))
            assert isinstance(answer, Decision)
            if decision_document(answer) != case["decision"]:
                wrong[case["name"]] = decision_document(answer)
    assert wrong == {}


async def test_the_projection_is_what_the_declared_policy_reads(decider: Decider) -> None:
    for document in golden("rules")["policies"].values():
        own = baseline(document)
        wanted = reads.of(own.policy)
        assert decider.projection("shop", own)[:2] == (wanted, reads.digest(wanted))


async def test_without_any_policy_nothing_is_read_and_stable_is_the_answer(
    decider: Decider,
) -> None:
    projection = decider.projection("shop", None)
    assert projection.reads == reads.NOTHING
    answer = await answer_of(decider, question(Request(), None, projection.digest))
    assert isinstance(answer, Decision)
    assert decision_document(answer) == {
        "variant": "stable", "version": "", "reason": "no-release",
        "matched": "", "release_id": "", "policy_revision": 0,
    }  # fmt: skip


async def test_facts_chosen_by_a_projection_get_the_decision_of_all_facts(
    decider: Decider,
) -> None:
    for theme in ("rules", "hash-keys", "whitelist"):
        for case in golden(theme)["cases"]:
            own = baseline(golden(theme)["policies"][case["policy"]])
            facts = projected(request_of(case["request"]), own.policy)
            digest = decider.projection("shop", own).digest
            answer = await answer_of(decider, question(facts, own, digest))
            assert isinstance(answer, Decision)
            assert decision_document(answer) == case["decision"]


async def test_facts_chosen_by_another_policy_get_no_decision(decider: Decider) -> None:
    own = baseline(golden("whitelist")["policies"]["people"])
    asked = question(Request(), own, "0123456789abcdef")
    try:
        answer = await answer_of(decider, asked)
    except Undecided:
        return
    assert answer == decider.projection("shop", own)


async def test_questions_asked_at_once_get_their_own_answers(decider: Decider) -> None:
    own = baseline(golden("percentage")["policies"]["50"])
    requests = [Request(headers={"x-user-id": f"user-{n}"}) for n in range(100)]
    one_by_one = [await answer_of(decider, question(request, own)) for request in requests]
    at_once = await asyncio.gather(*(answer_of(decider, question(r, own)) for r in requests))
    assert at_once == one_by_one
    assert len({answer.bucket for answer in at_once if isinstance(answer, Decision)}) > 90


async def answer_or_cause(
    decider: Decider, asked: Question
) -> tuple[Decision | Projection | None, str]:
    try:
        return await answer_of(decider, asked), ""
    except Undecided as trouble:
        return None, trouble.cause


async def test_a_question_without_time_left_is_answered_at_once_or_not_at_all(
    decider: Decider,
) -> None:
    own = baseline(golden("whitelist")["policies"]["people"])
    asked = question(Request(headers={"x-user-id": "ann"}), own)
    asked.ends = monotonic()
    async with asyncio.timeout(20):
        answer, cause = await answer_or_cause(decider, asked)
    if answer is None:
        assert cause == "timeout"
        return
    assert isinstance(answer, Decision)
    assert answer.variant == "canary"


STORED = [t for t in THEMES if any(needs_a_person(t, case) for case in golden(t)["cases"])]


@asynccontextmanager
async def stored(
    redis_server: RedisServer, theme: str
) -> AsyncIterator[tuple[Deciders, AsyncIterator[tuple[dict[str, Any], str]]]]:
    """Both deciders at a service that has the theme's policies; a case's person is known when
    the case and its service key come.
    """
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
    store = RedisStore.connect(redis_server.url, timeout_s=60)
    told = [
        (service_key, case)
        for service_key, case in cases(theme)
        if not depends_on_today(parse.policy(golden(theme)["policies"][case["policy"]]))
    ]
    for service_key, case in told:
        await save(store, service_key, theme, case)

    async def one_by_one() -> AsyncIterator[tuple[dict[str, Any], str]]:
        for service_key, case in told:
            await know(store, case, user_of(theme, case))
            yield case, service_key

    never = {"person_max_age_s": 0, "person_deadline_ms": 10_000, "store_deadline_ms": 10_000}
    async with (
        running_service(redis_url=redis_server.url, **never) as service,
        deciders(service.decision_address) as both,
    ):
        yield both, one_by_one()
    await store.aclose()


@pytest.mark.parametrize("theme", STORED)
async def test_golden_cases_with_a_person_are_decided_alike_by_remote_and_local(
    redis_server: RedisServer, theme: str
) -> None:
    wrong = {}
    async with stored(redis_server, theme) as (both, told):
        async for case, service_key in told:
            expected = case["decision"] | {"policy_revision": 1}
            for decider in (both.remote, both.local):
                digest = decider.projection(service_key, None).digest
                asked = question(request_of(case["request"]), None, digest, service_key)
                answer = await answer_of(decider, asked)
                assert isinstance(answer, Decision)
                if decision_document(answer) != expected:
                    wrong[case["name"], type(decider).__name__] = decision_document(answer)
    assert wrong == {}


@pytest.mark.parametrize("theme", STORED)
async def test_golden_cases_with_a_person_stay_as_they_are_when_the_service_is_late(
    redis_server: RedisServer, theme: str
) -> None:
    wrong = {}
    async with stored(redis_server, theme) as (both, told):
        async for case, service_key in told:
            for decider in (both.remote, both.local):
                digest = decider.projection(service_key, None).digest
                asked = question(request_of(case["request"]), None, digest, service_key)
                before = await answer_of(decider, asked)
                asked.ends = monotonic()
                if await answer_of(decider, asked) != before:
                    wrong[case["name"], type(decider).__name__] = before
    assert wrong == {}
    assert set(both.troubles.counts) == {"alone-timeout"}
