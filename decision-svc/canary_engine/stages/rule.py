"""Stage 3: the first of the ordered rules that matches."""

from __future__ import annotations

from datetime import datetime

from canary_engine.model import Answer, Person, Reason, Request, Rule
from canary_engine.rules import RuleIndex
from canary_engine.stages.stage import Stage
from canary_engine.verdicts import Verdicts


def rule_stage(verdicts: Verdicts, rules: tuple[Rule, ...]) -> Stage:
    """Sends what a rule matches where the rule says."""
    first = RuleIndex(rules).first
    decisions = {rule.name: verdicts.plain(rule.variant, Reason.RULE, rule.name) for rule in rules}

    def decide(request: Request, person: Person | None, now: datetime) -> Answer | None:
        rule = first(request)
        return None if rule is None else decisions[rule.name]

    def find(request: Request, person: Person, now: datetime) -> str:
        rule = first(request)
        if rule is None:
            return f"none of {len(rules)} rules matches"
        looked_at = f"{rule.source} {rule.key}".strip()
        return f"rule {rule.name!r} on {looked_at} says {rule.variant}"

    return Stage(Reason.RULE, decide, find)
