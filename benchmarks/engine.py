"""The engine alone: microseconds per decision, beside other products' Python evaluators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from canary_engine import parse
from canary_engine.decide import CompiledPolicy, decide
from canary_engine.model import NOBODY, Decision, Reason, Request, Variant
from harness.evaluators import EVALUATORS
from harness.policies import Visitor, policy, visitors
from harness.results import Goal, in_rounds, report, row

VISITORS = 500
ROUNDS = 41
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OURS = "canary_engine"


def main() -> None:
    """Measure and report."""
    people = visitors(VISITORS)
    contenders = {OURS: _ours(policy(networks=100), people)}
    for name, evaluator in EVALUATORS.items():
        is_canary, ready = evaluator()
        _check(name, is_canary, ready, people)
        contenders[name] = _timed(is_canary, [ready(visitor) for visitor in people])
    few, many = "10 CIDRs, 10 exact rules", "100,000 CIDRs, 1,000 exact rules"
    contenders[few] = _ours(policy(networks=10, exact_rules=10), people)
    contenders[many] = _ours(policy(networks=100_000, exact_rules=1_000), people)
    found = in_rounds(contenders, ROUNDS)

    limit = Goal(of="value", limit=2.0, at_most=True)
    rows = [row(f"{OURS}: a decision", found[OURS], "µs", goal=limit)]
    half = Goal(limit=0.5, at_most=True)
    rows += [
        row(f"{OURS}: a decision", found[OURS], "µs", baseline=name, against=found[name], goal=half)
        for name in EVALUATORS
    ]
    flat = Goal(limit=1.5, at_most=True)
    rows.append(row(many, found[many], "µs", baseline=few, against=found[few], goal=flat))
    report("engine", rows, [f"medians of {ROUNDS} rounds over {VISITORS} visitors"])


def _ours(document: dict[str, Any], people: Sequence[Visitor]) -> Callable[[], float]:
    compiled = CompiledPolicy(parse.policy(document))
    return _timed(lambda request: decide(compiled, request, NOBODY, NOW), _requests(people))


def _requests(people: Sequence[Visitor]) -> list[Request]:
    return [Request(headers=p.headers, cookies=p.cookies, client_ip=p.client_ip) for p in people]


def _timed(evaluate: Callable[[Any], object], asked: Sequence[Any]) -> Callable[[], float]:
    """A function that evaluates for everybody and answers microseconds each."""

    def run() -> float:
        started = perf_counter()
        for one in asked:
            evaluate(one)
        return (perf_counter() - started) / len(asked) * 1e6

    return run


def _check(
    name: str,
    is_canary: Callable[[Any], bool],
    ready: Callable[[Visitor], Any],
    people: Sequence[Visitor],
) -> None:
    """Everybody whom no hash decides must get the same variant from both."""
    compiled = CompiledPolicy(parse.policy(policy(networks=100)))
    for person, request in zip(people, _requests(people), strict=True):
        ours = decide(compiled, request, NOBODY, NOW)
        assert isinstance(ours, Decision)
        is_hashed = ours.bucket is not None or ours.reason is Reason.DEFAULT
        if not is_hashed and is_canary(ready(person)) is not (ours.variant is Variant.CANARY):
            raise SystemExit(f"{name} decides otherwise than we do ({ours.reason}) for {person}")


if __name__ == "__main__":
    main()
