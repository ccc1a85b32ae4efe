"""Stage 3: the canary cannot serve the API version that the client speaks."""

from __future__ import annotations

from datetime import datetime

from canary_engine.model import Answer, Compatibility, Person, Reason, Request, Variant
from canary_engine.stages.stage import Stage
from canary_engine.verdicts import Verdicts


def compatibility_stage(verdicts: Verdicts, compatibility: Compatibility, canary: str) -> Stage:
    """Keeps clients on stable whose API version ``canary`` cannot serve."""
    header = compatibility.header
    refused = {
        rule.source: verdicts.plain(
            Variant.STABLE, Reason.COMPATIBILITY, f"{rule.source} to {rule.to}"
        )
        for rule in compatibility.rules
        if rule.to == canary and not rule.compatible
    }

    def decide(request: Request, person: Person | None, now: datetime) -> Answer | None:
        return refused.get(request.headers.get(header, ""))

    def find(request: Request, person: Person, now: datetime) -> str:
        version = request.headers.get(header, "")
        if not version:
            return f"the request has no {header} header"
        can = "cannot" if version in refused else "can"
        return f"{canary} {can} serve API version {version!r}"

    return Stage(Reason.COMPATIBILITY, decide, find)
