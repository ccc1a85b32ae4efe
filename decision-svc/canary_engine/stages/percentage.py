"""Stage 8: the sticky bucket of the hash key against the release's share."""

from __future__ import annotations

from datetime import datetime

from canary_engine.keys import Measure
from canary_engine.model import BUCKETS, Decision, Person, Reason, Request, Variant
from canary_engine.parse import percentage
from canary_engine.stages.stage import Stage
from canary_engine.verdicts import Verdicts


def percentage_stage(verdicts: Verdicts, measure: Measure, share: int, control: int) -> Stage:
    """Gives the canary below the share, and stable (by default, with its bucket) from there on.

    Of those who lose, the ``control`` farthest away stand for stable: raising the share moves
    none of them before it reaches them. At 0 nobody is measured: the next stage decides.
    """
    canary = verdicts.measured(Variant.CANARY, Reason.PERCENTAGE)
    stable = verdicts.measured(Variant.STABLE, Reason.DEFAULT)
    compared = verdicts.measured(Variant.STABLE, Reason.DEFAULT, control=True)
    first_control = max(share, BUCKETS - control)

    def decide(request: Request, person: Person | None, now: datetime) -> Decision | None:
        if not share:
            return None
        bucket, must_keep = measure(request)
        if bucket is None:
            return None
        if bucket < share:
            return canary(bucket, must_keep)
        return (stable if bucket < first_control else compared)(bucket, must_keep)

    def find(request: Request, person: Person, now: datetime) -> str:
        of_all = f"{percentage(share)} %"
        bucket, _ = measure(request)
        if bucket is None:
            return f"the request has no hash key to compare with {of_all}"
        side = "below" if bucket < share else "not below"
        compared = "; it stands for stable in comparisons" if bucket >= first_control else ""
        return f"bucket {bucket} is {side} {of_all} ({share} of {BUCKETS}){compared}"

    return Stage(Reason.PERCENTAGE, decide, find)
