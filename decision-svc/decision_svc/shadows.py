"""How decisions by a shadow differ from those in force, counted by this replica."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from canary_engine.model import Decision, Reason, Variant


class Pair(NamedTuple):
    """What was said in force, and what the shadow says."""

    in_force: Variant
    in_force_reason: Reason
    shadow: Variant
    shadow_reason: Reason


class Shadows:
    """Counts by service key; they begin anew with another shadow, told by when it expires."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[datetime, Counter[Pair]]] = {}

    def count(
        self, service_key: str, expires_at: datetime, real: Decision, other: Decision
    ) -> None:
        """Count one request."""
        pair = Pair(real.variant, real.reason, other.variant, other.reason)
        self.add(service_key, expires_at, pair, 1)

    def add(self, service_key: str, expires_at: datetime, pair: Pair, requests: int) -> None:
        """Count requests."""
        found = self._counts.get(service_key)
        if found is None or found[0] != expires_at:
            found = self._counts[service_key] = (expires_at, Counter())
        found[1][pair] += requests

    def counts(self, service_key: str, expires_at: datetime) -> Mapping[Pair, int]:
        """What was counted under the shadow that expires then."""
        found = self._counts.get(service_key)
        return found[1] if found is not None and found[0] == expires_at else {}
