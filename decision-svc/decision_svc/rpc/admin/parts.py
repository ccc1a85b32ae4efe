"""What the calls of the AdminService are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import grpc
from canary_engine.guards import Despite
from canary_engine.model import Policy, Release

from decision_svc.audit import Audit
from decision_svc.baselines import Baselines
from decision_svc.changes import Edit
from decision_svc.decider import Decider
from decision_svc.documents import stored_policy
from decision_svc.editor import Editor, Who
from decision_svc.errors import NotFound
from decision_svc.exposure.collector import Collector
from decision_svc.exposure.protocol import ExposureStore
from decision_svc.following import Following
from decision_svc.leases.protocol import LeaseStore
from decision_svc.outcomes.protocol import Outcomes
from decision_svc.overrides import Signer
from decision_svc.records.protocol import RecordStore
from decision_svc.reported.protocol import ReportedStore
from decision_svc.snapshot import Snapshot
from decision_svc.store.protocol import AuditStore, MemberEdit, PeopleStore, PolicyStore

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
    audit: Audit
    links: AuditStore
    exposure: Collector
    exposed: ExposureStore
    reported: ReportedStore
    leases: LeaseStore
    records: RecordStore
    following: Following
    signer: Signer | None = None

    async def current(self, service_key: str) -> tuple[Policy | None, bool]:
        """The policy, None if there is none, and whether the store has lost it.

        One that the store has lost is memory's, which goes on ruling.
        """
        held = self.snapshot.get(service_key)
        document = await self.policies.load(service_key)
        if document is None:
            return held, held is not None
        return stored_policy(service_key, document), False

    async def check_known(self, service_key: str) -> None:
        """Raise NotFound unless it has a policy, or a gateway in contact declares it."""
        if self.baselines.declares(service_key):
            return
        if (await self.current(service_key))[0] is None:
            raise NotFound(
                f"service_key: {service_key!r} has no policy, and no gateway in contact declares it"
            )

    def latest_release(self, service_key: str) -> Release:
        """The release that is in force, or was last. Raises NotFound, NotReady."""
        self.snapshot.check_loaded()
        policy = self.snapshot.get(service_key)
        if policy is None:
            raise NotFound(f"there is no policy of {service_key!r}")
        if policy.release is None:
            raise NotFound(f"no release of {service_key!r} was ever started")
        return policy.release


class Calls:
    """Some of the AdminService's methods."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def _who(self, said: Any) -> Who:
        """Who makes the call and why, from a message that has an actor and a reason."""
        key = getattr(said, "idempotency_key", "")
        fence = getattr(said, "fencing_token", 0)
        return Who(actor=said.actor, reason=said.reason, key=key, fence=fence)

    async def _change(
        self,
        request: Any,
        edit: Edit,
        summary: str,
        members: Sequence[MemberEdit] = (),
        despite: frozenset[Despite] = frozenset(),
        expected: int | None = None,
    ) -> int:
        """Make a change; the new revision. ``expected``: that of the request, unless given."""
        change = request.change
        if expected is None and change.HasField("expected_revision"):
            expected = change.expected_revision
        who = self._who(change)
        if who.key:
            who = replace(who, digest=digest_of(request, who.actor))
        return await self._parts.editor.change(
            change.service_key, expected, who, summary, edit, members, despite
        )


def digest_of(request: Any, actor: str) -> str:
    """What stands for all that the request asks for, and for who asks."""
    written = request.SerializeToString(deterministic=True)
    start = f"{request.DESCRIPTOR.full_name}\0{actor}\0"
    return sha256(start.encode() + written).hexdigest()
