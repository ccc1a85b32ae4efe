"""What a controller writes: its moves, and what it notes of each release.

A move is a compare-and-set with the revision that was looked at and the token of the lease. What it
did is noted after it, so a record may lack an event but never tells of one that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog
from canary_engine.record import Event
from canary_engine.step import Action, Do

from canary_controller import evidence
from canary_controller.admin import Admin, Write
from canary_controller.errors import AdminError, LostRace, Refused, Unreachable
from canary_controller.metrics import Metrics
from canary_controller.watched import Refusal, Watched

log = structlog.get_logger()

DONE = {
    Do.RAISE: "raised",
    Do.WIDEN: "control-widened",
    Do.PROMOTE: "promoted",
    Do.PAUSE: "paused",
    Do.HALT: "halted",
    Do.ROLL_BACK: "rolled-back",
    Do.ROLL_BACK_LATER: "rollback-due",
}


class Writes:
    """Writes for whoever may act."""

    def __init__(self, admin: Admin, metrics: Metrics) -> None:
        self._admin, self._metrics = admin, metrics

    async def act(
        self, w: Watched, token: int, may_act: Callable[[], bool], now: datetime
    ) -> int | None:
        """Make the release's move; its revision, None if it was not made or that is not known.

        What it did is seen at the next tick.
        """
        action = w.action
        if action is None or not may_act():
            return None
        write = Write(
            service_key=w.service_key, revision=w.policy.revision, action=action, token=token
        )
        try:
            revision = await self._admin.write(write)
        except LostRace:
            self._metrics.wrote(action.do, "lost-race")
        except Unreachable:
            self._metrics.wrote(action.do, "unknown")
        except Refused as refusal:
            self._refuse(w, action, str(refusal), now)
        else:
            self._did(w, action, revision, now)
            return revision
        return None

    async def save(
        self, w: Watched, token: int, may_act: Callable[[], bool], now: datetime
    ) -> None:
        """Write the record."""
        if not may_act():
            return
        record = replace(
            w.record,
            written_at=now,
            fence=token,
            evidence=evidence.text(w.seen),
            findings=w.findings(),
        )
        try:
            await self._admin.put_record(record)
        except AdminError as error:
            self._metrics.noted("failed")
            log.warning("a record was not written", service_key=w.service_key, error=str(error))
        else:
            self._metrics.noted("done")
            w.saved = w.record = record

    def _did(self, w: Watched, action: Action, revision: int, now: datetime) -> None:
        self._metrics.wrote(action.do, "done")
        w.note(Event(at=now, what=DONE[action.do], why=action.why, revision=revision))
        log.info(
            DONE[action.do],
            service_key=w.service_key,
            release=w.release.id,
            revision=revision,
            why=action.why,
        )

    def _refuse(self, w: Watched, action: Action, why: str, now: datetime) -> None:
        self._metrics.wrote(action.do, "refused")
        w.refusal = Refusal(do=action.do, at=now, why=f"{action.do} was refused: {why}")
        w.record = replace(w.record, waits_for=w.refusal.why)
        log.warning("a move was refused", service_key=w.service_key, do=action.do, why=why)
