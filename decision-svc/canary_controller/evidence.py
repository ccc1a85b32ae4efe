"""What was seen of a release so far, and how a restart goes on with it.

Evidence is kept in the record about once a minute; what came since then is asked for again from
the service, which keeps outcomes for hours. So whoever goes on has seen exactly the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from canary_engine.errors import InvalidEvidence
from canary_engine.judge.slots import SLOT_S, Side, Slot, side
from canary_engine.model import BUCKETS, Cohort, Release
from canary_engine.outcomes import Outcomes, requests_of
from canary_engine.plan import Plan

from canary_controller import judging
from canary_controller.judging import Judge, Known
from canary_controller.slots import Sides, Slots, first_slot, newest_complete

VERSION = 1
AHEAD_SLOTS = 6
"""Replicas' clocks may be a minute apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen up to and including ``slot``.

    ``judged_since`` is since when outcomes count, ``weight_since`` since when ``samples``, the
    canary's requests, are counted. ``heard`` is the last slot in which there were any outcomes,
    ``missing_since`` since when a metric that the plan needs could not be had.
    """

    release_id: str
    judged_since: datetime
    weight_since: datetime
    slot: int
    known: Known
    samples: int = 0
    heard: int = 0
    missing_since: datetime | None = None


def begin(release: Release, plan: Plan, judge: Judge, now: datetime) -> Seen:
    """Nothing seen yet."""
    since = release.judged_since or release.started_at or now
    return Seen(
        release_id=release.id,
        judged_since=since,
        weight_since=release.weight_since or since,
        slot=first_slot(since) - 1,
        known=judge.begin(plan),
    )


def renewed(seen: Seen, release: Release, plan: Plan, judge: Judge, now: datetime) -> Seen:
    """The same, or from the beginning if a person had it judged anew or by another comparison.

    What a clock that was ahead has seen of the future is nothing to go on with.
    """
    fresh = begin(release, plan, judge, now)
    if is_ahead(seen, now):
        return replace(fresh, slot=max(fresh.slot, newest_complete(now)))
    if (seen.release_id, seen.judged_since) != (fresh.release_id, fresh.judged_since):
        return fresh
    if seen.known.evidence.measures != fresh.known.evidence.measures:
        return fresh
    if seen.weight_since != fresh.weight_since:
        return replace(seen, weight_since=fresh.weight_since, samples=0)
    return seen


def is_ahead(seen: Seen, now: datetime) -> bool:
    """Whether it was seen by a clock that has been set back since."""
    return seen.slot > newest_complete(now) + AHEAD_SLOTS


def gathered(seen: Seen, slots: Slots, judge: Judge, mix: Mix, until: int) -> Seen:
    """What was seen, with the slots up to ``until``."""
    if until <= seen.slot:
        return seen
    known, samples, heard = seen.known, seen.samples, seen.heard
    counted_from = first_slot(seen.weight_since)
    for number, sides in slots.between(seen.slot, until):
        known = judge.add(known, slot_in(number, sides, mix))
        heard = number
        if number >= counted_from and (drawn := sides.get(Cohort.DRAWN)) is not None:
            samples += requests_of(drawn.statuses)
    return replace(seen, slot=until, known=known, samples=samples, heard=heard)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Which shares of the draw canary and control have had, and since when; of BUCKETS."""

    share: int
    control: int
    since: datetime

    def expected(self, number: int) -> float | None:
        """The canary's part of the requests of both in a slot; None if it cannot be told."""
        control = min(self.control, BUCKETS - self.share)
        if number < first_slot(self.since + timedelta(seconds=SLOT_S)) or not self.share:
            return None
        return self.share / (self.share + control) if control else None


def slot_in(number: int, sides: Sides, mix: Mix) -> Slot:
    """The two sides of a slot as the judge wants them."""
    return Slot(
        start_s=number * SLOT_S,
        canary=_side(sides.get(Cohort.DRAWN)),
        control=_side(sides.get(Cohort.CONTROL)),
        expected=mix.expected(number),
    )


class Growing:
    """Slots as the judge wants them, each made once for as long as it is as it was."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Sides, Mix, Slot]] = {}

    def made(self, found: Sequence[tuple[int, Sides]], mix: Mix) -> Sequence[Slot]:
        """These slots; all others are forgotten."""
        before, self._made = self._made, {}
        for number, sides in found:
            known = before.get(number)
            if known is None or known[0] is not sides or known[1] is not mix:
                known = (sides, mix, slot_in(number, sides, mix))
            self._made[number] = known
        return [slot for _, _, slot in self._made.values()]


def text(seen: Seen) -> str:
    """What was seen, as it is kept in the record."""
    missing = seen.missing_since
    document = {
        "version": VERSION,
        "release_id": seen.release_id,
        "judged_since": seen.judged_since.isoformat(),
        "weight_since": seen.weight_since.isoformat(),
        "slot": seen.slot,
        "samples": seen.samples,
        "heard": seen.heard,
        "missing_since": missing.isoformat() if missing is not None else None,
        "known": judging.written(seen.known),
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def read(kept: str, plan: Plan) -> Seen | None:
    """What was seen; None if that was by another plan or another version of the controller."""
    try:
        document: Mapping[str, Any] = json.loads(kept)
        if document["version"] != VERSION:
            return None
        missing = document["missing_since"]
        return Seen(
            release_id=str(document["release_id"]),
            judged_since=datetime.fromisoformat(document["judged_since"]),
            weight_since=datetime.fromisoformat(document["weight_since"]),
            slot=int(document["slot"]),
            samples=int(document["samples"]),
            heard=int(document["heard"]),
            missing_since=datetime.fromisoformat(missing) if missing else None,
            known=judging.read(plan, document["known"]),
        )
    except (ValueError, KeyError, TypeError, InvalidEvidence):
        return None


def _side(outcomes: Outcomes | None) -> Side:
    return side(outcomes) if outcomes is not None else Side()
