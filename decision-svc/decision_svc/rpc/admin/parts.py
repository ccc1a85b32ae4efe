"""What the calls of the AdminService are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from decision_svc.baselines import Baselines
from decision_svc.changes import Edit
from decision_svc.decider import Decider
from decision_svc.editor import Editor, Who
from decision_svc.outcomes.protocol import Outcomes
from decision_svc.snapshot import Snapshot
from decision_svc.store.protocol import MemberEdit, PeopleStore, PolicyStore

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Who does the work."""

    editor: Editor
    policies: PolicyStore
    people: PeopleStore
    snapshot: Snapshot
    baselines: Baselines
    decider: Decider
    outcomes: Outcomes


class Calls:
    """Some of the AdminService's methods."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def _change(
        self, request: Any, edit: Edit, summary: str, members: Sequence[MemberEdit] = ()
    ) -> int:
        """Make a change; the new revision."""
        change = request.change
        expected = change.expected_revision if change.HasField("expected_revision") else None
        who = Who(actor=change.actor, reason=change.reason)
        return await self._parts.editor.change(
            change.service_key, expected, who, summary, edit, members
        )
