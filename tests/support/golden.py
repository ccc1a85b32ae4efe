"""The golden cases, read once, and decisions as they write them."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from canary_engine import parse
from canary_engine.model import Decision, Deprecation

FOLDER = Path(__file__).parents[1] / "data" / "golden"
THEMES = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "buckets")


@cache
def golden(name: str) -> dict[str, Any]:
    """The file of that name."""
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return loaded


def decision_document(decision: Decision) -> dict[str, Any]:
    """The decision; ``matched`` and ``release_id`` stand even empty."""
    found: dict[str, Any] = {"variant": str(decision.variant), "version": decision.version}
    if decision.backend is not None:
        found["backend"] = parse.document(decision.backend)
    found |= {"reason": str(decision.reason), "matched": decision.matched}
    if decision.bucket is not None:
        found["bucket"] = decision.bucket
    found |= {"release_id": decision.release_id, "policy_revision": decision.policy_revision}
    found |= {
        name: True for name in ("issue_cookie", "degraded", "control") if getattr(decision, name)
    }
    if decision.deprecation is not None:
        found["deprecation"] = _deprecation(decision.deprecation)
    return found


def _deprecation(told: Deprecation) -> dict[str, str]:
    found = {"since": _text(told.since)}
    if told.sunset is not None:
        found["sunset"] = _text(told.sunset)
    return found | ({"link": told.link} if told.link else {})


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
