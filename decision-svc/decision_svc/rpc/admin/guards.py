"""Guards and approvals: what stands between a person and a move."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from typing import Any

from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_documents import to_document
from canary_engine import parse
from canary_engine.model import ApprovedMove

from decision_svc import changes
from decision_svc.errors import BadRequest
from decision_svc.rpc.admin.parts import Calls, Context
from decision_svc.rpc.admin.releases import share_of

DAY_S = 86_400
MAX_VALID_S = 30 * DAY_S

MOVES = {
    policy_pb2.APPROVED_MOVE_START: ApprovedMove.START,
    policy_pb2.APPROVED_MOVE_RAISE: ApprovedMove.RAISE,
    policy_pb2.APPROVED_MOVE_PROMOTE: ApprovedMove.PROMOTE,
    policy_pb2.APPROVED_MOVE_WIDEN: ApprovedMove.WIDEN,
}


class GuardCalls(Calls):
    """Freezes, and the consent of a second person."""

    async def SetGuards(self, request: pb.SetGuardsRequest, context: Context) -> Any:
        edit = changes.replace("guards", to_document(request.guards))
        revision = await self._change(request, edit, _summary(request.guards))
        return pb.SetGuardsResponse(revision=revision)

    async def Approve(self, request: pb.ApproveRequest, context: Context) -> Any:
        _check(request)
        move, share = MOVES[request.move], share_of(request.percentage)
        edit, id_ = self._parts.editor.approve(
            move, request.version, share, self._who(request.change), request.valid_s or DAY_S
        )
        limit = f" up to {parse.percentage(share)} %" if move.has_share else ""
        summary = f"approve {id_}: {move} {request.version}{limit}"
        return pb.ApproveResponse(revision=await self._change(request, edit, summary), id=id_)

    async def WithdrawApproval(self, request: pb.WithdrawApprovalRequest, context: Context) -> Any:
        edit = changes.withdraw_approval(request.id)
        revision = await self._change(request, edit, f"withdraw approval {request.id}")
        return pb.WithdrawApprovalResponse(revision=revision)


def _summary(guards: policy_pb2.Guards) -> str:
    names = ", ".join(freeze.name for freeze in guards.freezes)
    return f"set guards; freezes: {names or 'none'}"


def _check(request: pb.ApproveRequest) -> None:
    complaints = []
    if request.move not in MOVES:
        complaints.append(f"move: give one of {', '.join(MOVES.values())}")
    if request.move == policy_pb2.APPROVED_MOVE_PROMOTE and request.percentage:
        complaints.append("percentage: a promotion gives the version to everybody; give none")
    if request.move == policy_pb2.APPROVED_MOVE_WIDEN and request.percentage:
        complaints.append("percentage: nobody can tell how many a rule reaches; give none")
    if request.valid_s > MAX_VALID_S:
        complaints.append(f"valid_s: give at most {MAX_VALID_S:,}, which is 30 days")
    if complaints:
        raise BadRequest(*complaints)
