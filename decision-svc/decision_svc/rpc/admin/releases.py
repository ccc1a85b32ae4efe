"""Versions and releases."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canary.admin.v1 import admin_pb2 as pb
from canary_documents import to_document
from canary_engine import parse
from canary_engine.model import Strategy
from canary_engine.reading import Node

from decision_svc import changes
from decision_svc.errors import BadRequest
from decision_svc.rpc.admin.parts import Calls, Context


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
        share = _share(request.percentage)
        strategy = _strategy(to_document(request))
        edit = self._parts.editor.start_release(request.version, share, strategy, request.salt)
        summary = f"start release of {request.version} at {parse.percentage(share)} %"
        return pb.StartReleaseResponse(revision=await self._change(request, edit, summary))

    async def SetPercentage(self, request: pb.SetPercentageRequest, context: Context) -> Any:
        share = _share(request.percentage)
        summary = f"set percentage to {parse.percentage(share)} %"
        edit = self._parts.editor.set_percentage(share)
        return pb.SetPercentageResponse(revision=await self._change(request, edit, summary))

    async def EndRelease(self, request: pb.EndReleaseRequest, context: Context) -> Any:
        status = to_document(request).get("status", "unspecified")
        edit = self._parts.editor.end_release(status)
        revision = await self._change(request, edit, f"end release: {status}")
        return pb.EndReleaseResponse(revision=revision)


def _share(value: float) -> int:
    complaints: list[str] = []
    share = Node({"percentage": value}, "", complaints).share("percentage")
    if share is None:
        raise BadRequest(*complaints)
    return share


def _strategy(document: Mapping[str, Any]) -> Strategy:
    complaints: list[str] = []
    strategy = Node(document, "", complaints).word("strategy", Strategy, Strategy.COMBINED)
    if complaints:
        raise BadRequest(*complaints)
    return strategy
