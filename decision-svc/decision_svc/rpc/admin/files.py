"""Files: the policy is made what a file says, or it is said what would change."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from canary.admin.v1 import admin_pb2 as pb
from canary_documents import to_document
from canary_engine import guards, parse
from canary_engine.diff import Difference
from canary_engine.model import Policy

from decision_svc import apply
from decision_svc.apply import ReleaseMoves
from decision_svc.errors import BadRequest
from decision_svc.rpc.admin.parts import Calls, Context
from decision_svc.store.protocol import LostRace

MAX_TRIES = 10


class FileCalls(Calls):
    """Whole policies at once."""

    async def Apply(self, request: pb.ApplyRequest, context: Context) -> Any:
        key = request.change.service_key
        if request.policy.service_key not in ("", key):
            raise BadRequest(f"policy.service_key: it is {request.policy.service_key!r}, not {key}")
        document = {**to_document(request.policy), "service_key": key}
        file = apply.wanted(document, request.fields, prune=request.prune)
        editor = self._parts.editor
        moves = ReleaseMoves(start=editor.start_release, set_percentage=editor.set_percentage)
        edit = apply.edit(file, moves)
        for attempt in range(MAX_TRIES):
            before, is_lost = await self._current(key)
            after = parse.policy(edit(parse.document(before)))
            found = apply.differences(before, after)
            made_for = _made_for(request, before, is_idle=not found)
            if (found or is_lost) and not request.dry_run:
                members, summary = apply.dropped_members(before, after), apply.summary(found)
                try:
                    revision = await self._change(
                        request, edit, summary, members, expected=made_for
                    )
                except LostRace:
                    # Nobody said which revision the file is for: it may still apply to the next.
                    if _names_revision(request) or attempt == MAX_TRIES - 1:
                        raise
                    continue
                return _answer(revision, found)
            if made_for != before.revision:
                raise LostRace(key, made_for, before.revision)
            if found:
                actor, now = request.change.actor, self._parts.decider.now()
                guards.passed(before, after, actor=actor, now=now)
            return _answer(before.revision, found)
        raise AssertionError("the last try returns or raises")

    async def _current(self, service_key: str) -> tuple[Policy, bool]:
        policy, is_lost = await self._parts.current(service_key)
        return policy or parse.policy({"service_key": service_key}), is_lost


def _names_revision(request: pb.ApplyRequest) -> bool:
    return request.change.HasField("expected_revision") or request.policy.revision != 0


def _made_for(request: pb.ApplyRequest, current: Policy, *, is_idle: bool) -> int:
    """The revision that the file is for.

    The one that it was exported at is no obstacle where there is nothing to change: a file that was
    applied may be applied again.
    """
    if request.change.HasField("expected_revision"):
        return request.change.expected_revision
    return current.revision if is_idle else request.policy.revision or current.revision


def _answer(revision: int, found: Sequence[Difference]) -> pb.ApplyResponse:
    return pb.ApplyResponse(
        revision=revision,
        changes=[pb.FieldChange(path=d.path, before=d.before, after=d.after) for d in found],
    )
