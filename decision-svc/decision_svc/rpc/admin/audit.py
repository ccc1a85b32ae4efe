"""The audit trail as it is kept."""

# ruff: noqa: N802 - the methods bear the proto's names

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from canary.admin.v1 import admin_pb2 as pb
from canary_engine import parse
from canary_engine.errors import CanaryError

from decision_svc.errors import BadRequest
from decision_svc.rpc.admin.parts import Calls, Context, Parts
from decision_svc.rpc.errors import status_of
from decision_svc.store.protocol import Document, Link, StoreError, StoreUnavailable

PAGE = 100
UNREADABLE = "unreadable"


class AuditCalls(Calls):
    """Every link of a chain, spoiled ones too: who reads them judges."""

    async def ListAudit(
        self, request: pb.ListAuditRequest, context: Context
    ) -> AsyncIterator[pb.ListAuditResponse]:
        after = request.after_sequence
        documents = _Documents(self._parts, request.service_key)
        try:
            if after < 0:
                raise BadRequest("after_sequence: give 0 or the number of an entry")
            while links := await self._parts.links.links(request.service_key, after, PAGE):
                answer = pb.ListAuditResponse()
                for link in links:
                    entry = answer.entries.add(
                        sequence=link.sequence, entry=link.entry, hash=link.hash
                    )
                    if request.with_documents:
                        entry.stored_document = await documents.hash_for(link)
                yield answer
                after = links[-1].sequence
        except CanaryError as error:
            await context.abort(*status_of(error))


class _Documents:
    """The hashes of the documents that are stored now."""

    def __init__(self, parts: Parts, service_key: str) -> None:
        self._parts, self._service_key = parts, service_key

    async def hash_for(self, link: Link) -> str:
        """That of the link's revision, "" for none.

        The newest is stored twice, and if one of the two is another, that one is told.
        """
        said = _said(link)
        revision = said.get("revision")
        if not self._service_key or not isinstance(revision, int) or not 0 < revision < 2**63:
            return ""
        kept = await self._hash(revision)
        if kept != said.get("document") or self._is_old(revision):
            return kept
        return await self._hash(None, revision) or kept

    def _is_old(self, revision: int) -> bool:
        return self._parts.snapshot.revision(self._service_key) > revision

    async def _hash(self, revision: int | None, newest: int = 0) -> str:
        try:
            document = await self._parts.policies.load(self._service_key, revision)
        except StoreUnavailable:
            raise
        except StoreError:
            return UNREADABLE
        if document is None or (newest and _revision(document) > newest):
            return ""  # A later change is not told yet: its own link will be.
        return parse.content_hash(document)


def _revision(document: Document) -> int:
    found = document.get("revision")
    return found if isinstance(found, int) else 0


def _said(link: Link) -> dict[str, Any]:
    try:
        fields = json.loads(link.entry)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
