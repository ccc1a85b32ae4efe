"""Stage 9: everybody else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from canary_engine.keys import Measure
from canary_engine.model import NOBODY, Answer, Person, Reason, Request, Variant
from canary_engine.stages.stage import Stage
from canary_engine.verdicts import Verdicts


def default_stage(verdicts: Verdicts, measure: Measure, before: Sequence[Stage]) -> Stage:
    """Always stable.

    A key that a share was measured with in a stage ``before`` must stay: with a new one per
    request, everybody anonymous would be drawn into the canary in the end.
    """
    decision = verdicts.plain(Variant.STABLE, Reason.DEFAULT)
    issuing = verdicts.plain(Variant.STABLE, Reason.DEFAULT, issue=True)
    measuring = [stage.measures for stage in before if stage.measures is not None]
    percentage = next((stage for stage in before if stage.reason is Reason.PERCENTAGE), None)

    def decide(request: Request, person: Person | None, now: datetime) -> Answer:
        if not measuring or not request.fallback_key:
            return decision
        _, must_keep = measure(request)
        was_measured = must_keep and any(has(request, person or NOBODY, now) for has in measuring)
        return issuing if was_measured else decision

    def find(request: Request, person: Person, now: datetime) -> str:
        if percentage is None:
            return "nothing else matched"
        return f"nothing else matched, and {percentage.find(request, person, now)}"

    return Stage(Reason.DEFAULT, decide, find)
