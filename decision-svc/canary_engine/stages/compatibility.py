"""Stage 4: the canary cannot serve the API version that the client speaks."""

from __future__ import annotations

from datetime import datetime

from canary_engine.api_version import place_words, version_reader
from canary_engine.model import Answer, Compatibility, Person, Reason, Request, Variant
from canary_engine.stages.stage import Stage
from canary_engine.verdicts import Verdicts


def compatibility_stage(verdicts: Verdicts, compatibility: Compatibility, canary: str) -> Stage:
    """Keeps clients on stable whose API version ``canary`` cannot serve."""
    version_of, places = version_reader(compatibility), place_words(compatibility)
    refused = {
        rule.source: verdicts.plain(
            Variant.STABLE, Reason.COMPATIBILITY, f"{rule.source} to {rule.to}"
        )
        for rule in compatibility.rules
        if rule.to == canary and not rule.compatible
    }

    def decide(request: Request, person: Person | None, now: datetime) -> Answer | None:
        return refused.get(version_of(request))

    def find(request: Request, person: Person, now: datetime) -> str:
        version = version_of(request)
        if not version:
            return f"the request names no API version ({places})"
        can = "cannot" if version in refused else "can"
        return f"{canary} {can} serve API version {version!r}"

    return Stage(Reason.COMPATIBILITY, decide, find)
