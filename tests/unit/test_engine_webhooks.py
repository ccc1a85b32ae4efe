"""Webhooks: each is asked once for a move, a no halts, silence is never a no."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from canary_engine.model import Policy, Release, ReleaseStatus
from canary_engine.plan import Gate, GateKind, Occasion, Plan, PlanStep, Webhook
from canary_engine.record import PROMOTION, Answer, WebhookCall
from canary_engine.webhooks import (
    MAX_TEXT,
    MOST_TELLS,
    SILENT_TRIES,
    Question,
    is_silent,
    noted,
    questions_after,
    questions_before,
    refusal,
    unanswered,
)

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
SINCE = NOW - timedelta(hours=1)
EVERYWHERE = Webhook(name="all", url="https://all/", occasions=tuple(Occasion))
GATE = Gate(kind=GateKind.WEBHOOK, url="https://gate/")
PLAN = Plan(
    steps=(PlanStep(weight=5_000), PlanStep(weight=25_000, gates=(GATE,))), webhooks=(EVERYWHERE,)
)


def policy(share: int = 5_000, status: ReleaseStatus = ReleaseStatus.IN_PROGRESS) -> Policy:
    release = Release(
        id="r1", version="2.0", status=status, share=share, salt="s", weight_since=SINCE
    )
    return Policy(service_key="shop", release=release)


def ask(weight: int = 25_000) -> Question:
    return questions_before(policy(), PLAN, weight)[0]


def heard(*answers: Answer) -> tuple[WebhookCall, ...]:
    calls: tuple[WebhookCall, ...] = ()
    for answer in answers:
        calls = noted(calls, ask(), answer, "text", NOW)
    return calls


@pytest.mark.parametrize(
    ("share", "weight", "occasion"),
    [
        (0, 5_000, Occasion.START),
        (5_000, 25_000, Occasion.RAISE),
        (25_000, PROMOTION, Occasion.PROMOTE),
    ],
)
def test_the_move_says_which_occasion_it_is(share: int, weight: int, occasion: Occasion) -> None:
    question = questions_before(policy(share), PLAN, weight)[0]
    assert (question.occasion, question.weight, question.may_refuse) == (occasion, weight, True)


def test_a_steps_own_gate_is_asked_beside_the_plans_webhooks() -> None:
    asked = questions_before(policy(), PLAN, 25_000)
    assert [(q.name, q.url) for q in asked] == [
        ("all", "https://all/"),
        ("gate https://gate/", "https://gate/"),
    ]
    assert [q.name for q in questions_before(policy(0), PLAN, 5_000)] == ["all"]


@pytest.mark.parametrize("status", list(ReleaseStatus))
def test_whoever_wants_to_know_is_told_of_the_end(status: ReleaseStatus) -> None:
    told = {
        ReleaseStatus.COMPLETED: (Occasion.AFTER, PROMOTION),
        ReleaseStatus.ROLLED_BACK: (Occasion.ROLLBACK, 0),
    }
    found = [(q.occasion, q.weight) for q in questions_after(policy(0, status), PLAN)]
    assert found == ([told[status]] if status in told else [])
    assert not any(q.may_refuse for q in questions_after(policy(0, status), PLAN))


def test_nobody_is_asked_about_a_release_that_has_ended() -> None:
    assert questions_before(policy(0, ReleaseStatus.COMPLETED), PLAN, 25_000) == ()


def test_a_yes_or_no_is_asked_for_once() -> None:
    assert unanswered([ask()], ()) == (ask(),)
    for answer in Answer:
        is_final = answer in (Answer.YES, Answer.NO)
        assert unanswered([ask()], heard(answer)) == (() if is_final else (ask(),))


def test_a_raise_or_a_resume_makes_it_a_question_anew() -> None:
    calls = heard(Answer.NO)
    again = replace(ask(), since=NOW + timedelta(seconds=1))
    assert refusal([ask()], calls) is not None
    assert refusal([again], calls) is None
    assert unanswered([again], calls) == (again,)
    assert again.id != ask().id
    assert unanswered([again], noted(calls, again, Answer.YES, "", NOW)) == ()


def test_only_a_clear_no_is_a_refusal() -> None:
    for answer in Answer:
        assert (refusal([ask()], heard(answer)) is not None) is (answer is Answer.NO)


def test_a_no_of_one_who_is_only_told_refuses_nothing() -> None:
    (told,) = questions_after(policy(0, ReleaseStatus.ROLLED_BACK), PLAN)
    calls = noted((), told, Answer.NO, "", NOW)
    assert refusal([told], calls) is None
    assert unanswered([told], calls) == ()


def test_tries_are_counted_and_what_was_heard_is_not_forgotten() -> None:
    (one,) = heard(Answer.SILENCE, Answer.NOT_YET, Answer.YES, Answer.SILENCE)
    assert (one.tries, one.answer, one.at) == (3, Answer.YES, NOW)


def test_who_is_silent_is_told_of_and_asked_on_if_they_may_refuse() -> None:
    few = heard(*[Answer.SILENCE] * (SILENT_TRIES - 1))
    many = heard(*[Answer.SILENCE] * MOST_TELLS)
    assert (is_silent(ask(), ()), is_silent(ask(), few), is_silent(ask(), many)) == (
        False,
        False,
        True,
    )
    assert unanswered([ask()], many) == (ask(),)


def test_who_is_only_told_is_left_alone_after_some_tries() -> None:
    (told,) = questions_after(policy(0, ReleaseStatus.ROLLED_BACK), PLAN)
    calls: tuple[WebhookCall, ...] = ()
    for count in range(1, MOST_TELLS + 1):
        calls = noted(calls, told, Answer.SILENCE, "", NOW)
        assert (unanswered([told], calls) == ()) is (count == MOST_TELLS)


def test_a_call_holds_no_more_text_than_a_line_or_two() -> None:
    assert len(noted((), ask(), Answer.YES, "x" * 10_000, NOW)[0].text) == MAX_TEXT
