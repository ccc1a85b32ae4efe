"""Stage 1: no release takes traffic."""

from __future__ import annotations

from datetime import datetime

from canary_engine.model import Answer, Person, Reason, Release, Request, Variant
from canary_engine.stages.stage import Stage
from canary_engine.verdicts import Verdicts


def no_release_stage(verdicts: Verdicts, release: Release | None) -> Stage:
    """Always stable; the only stage of a policy whose release takes no traffic."""
    decision = verdicts.plain(Variant.STABLE, Reason.NO_RELEASE)

    def decide(request: Request, person: Person | None, now: datetime) -> Answer:
        return decision

    def find(request: Request, person: Person, now: datetime) -> str:
        if release is None:
            return "there is no release"
        state = "halted" if release.is_in_force else str(release.status)
        return f"release {release.id} is {state}"

    return Stage(Reason.NO_RELEASE, decide, find)
