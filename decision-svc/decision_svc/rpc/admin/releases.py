"""Versions and releases."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canary.admin.v1 import admin_pb2 as pb
from canary_documents import to_document
from canary_engine import parse
from canary_engine.guards import Despite
from canary_engine.model import Strategy
from canary_engine.plan_reading import LONGEST_S
from canary_engine.reading import Node
from canary_engine.release import Move

from decision_svc import changes
from decision_svc.access import caller
from decision_svc.access.caller import Role
from decision_svc.editor import MAX_TEXT
from decision_svc.errors import BadRequest
from decision_svc.halting import Halting
from decision_svc.rpc.admin.parts import Calls, Context

MOVES = {
    pb.MOVE_PAUSE: Move.PAUSE,
    pb.MOVE_RESUME: Move.RESUME,
    pb.MOVE_HALT: Move.HALT,
    pb.MOVE_PROMOTE: Move.PROMOTE,
    pb.MOVE_ROLL_BACK: Move.ROLL_BACK,
    pb.MOVE_ABANDON: Move.ABANDON,
    pb.MOVE_KEEP: Move.KEEP,
}
MAX_DELAY_S = LONGEST_S
"""No less than a plan may say, or the controller's rollback would be refused for ever."""
_AGAINST = {Despite.INCOMPATIBLE: "incompatible", Despite.ROLLBACK: "rolled back"}


class ReleaseCalls(Calls):
    """The life of versions and releases."""

    async def RegisterVersion(self, request: pb.RegisterVersionRequest, context: Context) -> Any:
        version = to_document(request.version)
        return pb.RegisterVersionResponse(
            revision=await self._change(
                request,
                changes.register_version(version),
                f"register version {request.version.version}",
            )
        )

    async def DeprecateVersion(self, request: pb.DeprecateVersionRequest, context: Context) -> Any:
        edit = changes.deprecate_version(request.version)
        revision = await self._change(request, edit, f"deprecate version {request.version}")
        return pb.DeprecateVersionResponse(revision=revision)

    async def RemoveVersion(self, request: pb.RemoveVersionRequest, context: Context) -> Any:
        edit = changes.remove_version(request.version)
        revision = await self._change(request, edit, f"remove version {request.version}")
        return pb.RemoveVersionResponse(revision=revision)

    async def StartRelease(self, request: pb.StartReleaseRequest, context: Context) -> Any:
        share = share_of(request.percentage)
        strategy = _strategy(to_document(request))
        despite = _despite(request)
        edit = self._parts.editor.start_release(request.version, share, strategy, _salt(request))
        summary = "; ".join(
            [
                f"start release of {request.version} at {parse.percentage(share)} %",
                *(f"although {_AGAINST[what]}: {why}" for what, why in despite.items()),
            ]
        )
        revision = await self._change(request, edit, summary, despite=frozenset(despite))
        return pb.StartReleaseResponse(revision=revision)

    async def SetPercentage(self, request: pb.SetPercentageRequest, context: Context) -> Any:
        share, summary = share_of(request.percentage), "set percentage to "
        summary += f"{parse.percentage(share)} %"
        control = None
        if request.HasField("control"):
            control = share_of(request.control, "control")
            summary += f", control to {parse.percentage(control)} %"
        edit = self._parts.editor.set_percentage(share, control)
        return pb.SetPercentageResponse(revision=await self._change(request, edit, summary))

    async def MoveRelease(self, request: pb.MoveReleaseRequest, context: Context) -> Any:
        move = MOVES.get(request.move)
        if move is None:
            raise BadRequest(f"move: give one of {', '.join(MOVES.values())}")
        if request.delay_s and move is not Move.ROLL_BACK:
            raise BadRequest("delay_s: only a rollback can be put off; leave it out")
        if request.delay_s > MAX_DELAY_S:
            raise BadRequest(f"delay_s: at most {MAX_DELAY_S:,}")
        edit, summary = self._parts.editor.move_release(move), f"{move.replace('-', ' ')} release"
        if request.delay_s:
            edit = self._parts.editor.roll_back_later(request.change.reason, request.delay_s)
            summary += f" in {request.delay_s} s unless it is kept"
        return pb.MoveReleaseResponse(revision=await self._change(request, edit, summary))

    async def TickChecklist(self, request: pb.TickChecklistRequest, context: Context) -> Any:
        editor, item = self._parts.editor, request.item
        by = request.change.actor.strip()
        edit = editor.untick(item) if request.untick else editor.tick(item, by)
        summary = f"{'untick' if request.untick else 'tick'} {item!r} of the checklist"
        return pb.TickChecklistResponse(revision=await self._change(request, edit, summary))

    async def HaltAll(self, request: pb.HaltAllRequest, context: Context) -> Any:
        parts = self._parts
        halting = Halting(parts.editor, parts.policies, parts.snapshot)
        asking = caller.current()
        found = await halting.halt_all(
            self._who(request), lambda service_key: asking.may(Role.OPERATOR, service_key)
        )
        return pb.HaltAllResponse(
            services=[
                pb.Halted(service_key=h.service_key, revision=h.revision, trouble=h.trouble)
                for h in found
            ]
        )

    async def Revert(self, request: pb.RevertRequest, context: Context) -> Any:
        if request.revision < 1:
            raise BadRequest("revision: give the number of an earlier revision, 1 or above")
        edit = await self._parts.editor.revert(request.change.service_key, request.revision)
        summary = f"revert to revision {request.revision}"
        # The reason of going back is the reason why what was rolled back is released again.
        despite = frozenset({Despite.ROLLBACK})
        return pb.RevertResponse(
            revision=await self._change(request, edit, summary, despite=despite)
        )


def share_of(value: float, name: str = "percentage") -> int:
    """A percentage as a share of BUCKETS. Raises BadRequest."""
    complaints: list[str] = []
    share = Node({name: value}, "", complaints).share(name)
    if share is None:
        raise BadRequest(*complaints)
    return share


def _salt(request: pb.StartReleaseRequest) -> str:
    """The salt to reuse; empty for the release's own."""
    complaints: list[str] = []
    salt = Node({"salt": request.salt}, "", complaints).name("salt") if request.salt else ""
    if complaints:
        raise BadRequest(*complaints)
    return salt


def _despite(request: pb.StartReleaseRequest) -> dict[Despite, str]:
    """What speaks against the start and is overruled, and why. Raises BadRequest."""
    found = {what: getattr(request, f"despite_{what}") for what in Despite}
    complaints = [
        f"despite_{what}: say why, in 1 to {MAX_TEXT:,} characters"
        for what, why in found.items()
        if why and not 0 < len(why.strip()) <= MAX_TEXT
    ]
    if complaints:
        raise BadRequest(*complaints)
    return {what: why.strip() for what, why in found.items() if why}


def _strategy(document: Mapping[str, Any]) -> Strategy:
    complaints: list[str] = []
    strategy = Node(document, "", complaints).word("strategy", Strategy, Strategy.COMBINED)
    if complaints:
        raise BadRequest(*complaints)
    return strategy
