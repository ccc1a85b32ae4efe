"""What the admin API knows of a release besides its record, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from canary_engine.model import Variant
from canary_report.story import Change

from canary_controller.errors import Unknown
from canary_controller.rpc.client import Client

PAGE = 1_000
MOST_PAGES = 20
_VARIANTS = {
    policy_pb2.VARIANT_STABLE: Variant.STABLE,
    policy_pb2.VARIANT_CANARY: Variant.CANARY,
}


class ApiHistories:
    """See Histories."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def exposure(self, service_key: str, release_id: str) -> Mapping[Variant, int]:
        """See Histories."""
        request = admin_pb2.GetExposureRequest(service_key=service_key, release_id=release_id)
        try:
            answer = await self._client.call(self._client.stub.GetExposure, request)
        except Unknown:
            return {}
        return {
            _VARIANTS[found.variant]: found.users
            for found in answer.exposures
            if found.variant in _VARIANTS
        }

    async def changes(self, service_key: str, since: datetime | None) -> Sequence[Change]:
        """See Histories."""
        found: list[Change] = []
        for _ in range(MOST_PAGES):
            request = admin_pb2.ListChangesRequest(
                service_key=service_key,
                before_revision=found[-1].revision if found else 0,
                limit=PAGE,
            )
            page = (await self._client.call(self._client.stub.ListChanges, request)).changes
            found += map(_change, page)
            if len(page) < PAGE or (since is not None and found[-1].at < since):
                break
        return found


def _change(message: admin_pb2.ChangeRecord) -> Change:
    return Change(
        revision=message.revision,
        actor=message.actor,
        at=message.at.ToDatetime(UTC),
        reason=message.reason,
        summary=message.summary,
    )
