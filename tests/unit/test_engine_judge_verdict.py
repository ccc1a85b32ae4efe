"""Verdicts: what of all that may be found decides, over everything that can come together."""

from __future__ import annotations

from itertools import product

import pytest
from canary_engine.judge.breaches import Breach, Reading
from canary_engine.judge.evidence import Evidence, add, begin
from canary_engine.judge.findings import Ground
from canary_engine.judge.measures import Subject
from canary_engine.judge.slots import Side, Slot
from canary_engine.judge.verdict import VERDICTS, Cause, Judgement, Look, Verdict, judge
from canary_engine.model import Cohort
from canary_engine.plan import CONDITIONS, SUCCESS, Limit, Metric

CONDITION = Limit(metric=Metric.ERROR_RATE, max=10, duration="5m")
CRITERION = Limit(metric=Metric.P95_RESPONSE_TIME, max=500)
NOW_S = 1_000.0
OLD = (Breach(limit=CONDITION, cohort=Cohort.DRAWN, since_s=NOW_S - 300, last_s=NOW_S - 0.5),)
NEW = (Breach(limit=CONDITION, cohort=Cohort.DRAWN, since_s=NOW_S - 9, last_s=NOW_S),)


def slots(canary: Side, control: Side) -> Evidence:
    return add(begin(), Slot(start_s=0, canary=canary, control=control))


CONTROL = Side(requests=40_000, errors=40)
EVIDENCE = {
    Ground.NOTHING: begin(),
    Ground.LEVEL: slots(Side(requests=10_000, errors=10), CONTROL),
    Ground.SUSPICIOUS: slots(Side(requests=10_000, errors=22), CONTROL),
    Ground.WORSE: slots(Side(requests=10_000, errors=40), CONTROL),
}


def reading(error_rate: float | None, p95_ms: float | None) -> Reading:
    values = {Metric.ERROR_RATE: error_rate, Metric.P95_RESPONSE_TIME: p95_ms}
    return lambda metric, _: values.get(metric)


def looked(
    ground: Ground = Ground.LEVEL,
    *,
    error_rate: float | None = 1.0,
    p95_ms: float | None = 100.0,
    breaches: tuple[Breach, ...] = (),
    is_silent: bool = False,
    is_counting: bool = True,
    requests: int = 10,
    chosen: Reading | None = None,
) -> Judgement:
    look = Look(
        now_s=NOW_S,
        drawn=reading(error_rate, p95_ms),
        stable=reading(None, None),
        chosen=chosen,
        success=(CRITERION,),
        conditions=(CONDITION,),
        breaches=breaches,
        silent={(Metric.ERROR_RATE, "")} if is_silent else set(),
        is_counting=is_counting,
        requests=requests,
        min_samples=10,
    )
    return judge(EVIDENCE[ground], (), look)


@pytest.mark.parametrize("ground", Ground)
def test_the_evidence_of_these_tests_is_what_they_say(ground: Ground) -> None:
    found = {one.subject: one.ground for one in looked(ground).compared}
    assert found[Subject.ERRORS] is ground


def test_the_clock_of_chosen_users_stands_still_while_none_of_them_is_there() -> None:
    chosen = (Breach(limit=CONDITION, cohort=Cohort.CHOSEN, since_s=900, last_s=NOW_S - 30),)
    assert looked(breaches=chosen, chosen=None).breaches == chosen
    (after,) = looked(breaches=chosen, chosen=reading(20.0, None)).breaches
    assert (after.since_s, after.last_s) == (900, NOW_S)


CONDITIONS_SEEN = {
    "well": (1.0, ()),
    "broken": (20.0, NEW),
    "held": (20.0, OLD),
    "unknown": (None, OLD),
}
CRITERIA_SEEN = {"well": 100.0, "broken": 600.0, "unknown": None}


EVERYTHING = list(
    product(Ground, CONDITIONS_SEEN, CRITERIA_SEEN, (False, True), (False, True), (9, 10))
)


def test_the_worst_that_is_found_decides() -> None:
    for ground, condition, criterion, is_silent, is_counting, requests in EVERYTHING:
        error_rate, breaches = CONDITIONS_SEEN[condition]
        found = looked(
            ground,
            error_rate=error_rate,
            p95_ms=CRITERIA_SEEN[criterion],
            breaches=breaches,
            is_silent=is_silent,
            is_counting=is_counting,
            requests=requests,
        )
        causes = {
            Cause.CONDITION_HELD: condition == "held",
            Cause.WORSE_THAN_CONTROL: ground is Ground.WORSE,
            Cause.SOURCE_SILENT: is_silent or not is_counting,
            Cause.CONDITION_BROKEN: condition == "broken",
            Cause.CRITERION_BROKEN: criterion == "broken",
            Cause.CRITERION_UNKNOWN: criterion == "unknown",
            Cause.SUSPICIOUS: ground is Ground.SUSPICIOUS,
            Cause.TOO_FEW_REQUESTS: requests < 10,
        }
        if condition == "held" or ground is Ground.WORSE:
            verdict = Verdict.FAIL
        elif is_silent or not is_counting:
            verdict = Verdict.ERROR
        else:
            verdict = Verdict.INCONCLUSIVE if any(causes.values()) else Verdict.PASS
        assert {one.cause for one in found.because} == {c for c, is_so in causes.items() if is_so}
        assert found.verdict is verdict
        assert all(one.text for one in found.because)


def test_every_cause_leads_somewhere_and_none_to_a_pass() -> None:
    assert set(VERDICTS) == set(Cause)
    assert Verdict.PASS not in VERDICTS.values()


def test_a_canary_that_is_well_passes_without_a_word() -> None:
    found = looked()
    assert found.verdict is Verdict.PASS
    assert found.because == ()
    assert found.breaches == ()


def test_what_decides_comes_first() -> None:
    found = looked(Ground.WORSE, p95_ms=600.0, is_counting=False, requests=0)
    assert [one.cause for one in found.because] == [
        Cause.WORSE_THAN_CONTROL,
        Cause.SOURCE_SILENT,
        Cause.CRITERION_BROKEN,
        Cause.TOO_FEW_REQUESTS,
    ]
    assert [one.text for one in found.because][1:] == [
        "no answer about outcomes",
        "p95-response-time of the canary is 600 ms, should be at most 500 ms",
        "0 requests at this weight, 10 are asked for",
    ]


def test_a_condition_that_nobody_reports_on_stands_in_no_ones_way() -> None:
    read = reading(1.0, 100.0)
    look = Look(now_s=0.0, drawn=read, stable=read, success=SUCCESS, conditions=CONDITIONS)
    assert judge(EVIDENCE[Ground.LEVEL], (), look).verdict is Verdict.PASS


def test_a_silent_source_that_nobody_needs_is_no_error() -> None:
    read = reading(1.0, 100.0)
    silent = {(Metric.CPU, ""), (Metric.CUSTOM, "carts")}
    look = Look(now_s=0.0, drawn=read, stable=read, success=SUCCESS, silent=silent)
    assert judge(EVIDENCE[Ground.LEVEL], (), look).verdict is Verdict.PASS


def test_a_source_that_dies_midway_never_rolls_back() -> None:
    breaches: tuple[Breach, ...] = NEW
    for now_s in range(1_000, 5_000):
        look = Look(
            now_s=float(now_s),
            drawn=reading(None, None),
            stable=reading(None, None),
            success=SUCCESS,
            conditions=(CONDITION,),
            breaches=breaches,
            silent={(Metric.ERROR_RATE, "")},
            is_counting=False,
        )
        found = judge(EVIDENCE[Ground.SUSPICIOUS], (), look)
        breaches = found.breaches
        assert found.verdict is Verdict.ERROR
    assert breaches == NEW


def test_users_chosen_for_the_canary_roll_it_back_as_well() -> None:
    found = looked(
        chosen=reading(30.0, None),
        breaches=(
            Breach(
                limit=CONDITION,
                cohort=Cohort.CHOSEN,
                since_s=NOW_S - 300,
                last_s=NOW_S - 1,
            ),
        ),
    )
    assert found.verdict is Verdict.FAIL
    assert found.because[0].text == (
        "error-rate of users chosen for the canary is 30 %, should be at most 10 % (for 300 s now)"
    )


def test_client_errors_hold_the_weight() -> None:
    evidence = slots(
        Side(requests=10_000, client_errors=500), Side(requests=40_000, client_errors=500)
    )
    read = reading(1.0, 100.0)
    found = judge(evidence, (), Look(now_s=0.0, drawn=read, stable=read))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert [one.cause for one in found.because] == [Cause.SUSPICIOUS]
    assert found.because[0].text.startswith("client errors: canary 5 %")
