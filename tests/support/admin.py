"""A client of the admin API for tests, with the change's who and why filled in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from canary.admin.v1 import admin_pb2 as pb
from canary.admin.v1 import admin_pb2_grpc
from canary_documents import to_message
from dev_stack.stack import CANARY, CANARY_UPSTREAM, SERVICE_KEY, STABLE

DEADLINE_S = 60.0


class Admin:
    """Calls by name with plain documents: ``admin("AddRule", rule={...})``."""

    def __init__(self, channel: grpc.Channel, service_key: str) -> None:
        self._stub = admin_pb2_grpc.AdminServiceStub(channel)
        self.service_key = service_key

    def __call__(self, method: str, **fields: Any) -> Any:
        """Make a call; writes get a Change unless ``fields`` has one."""
        request_class = getattr(pb, f"{method}Request")
        if "change" in request_class.DESCRIPTOR.fields_by_name:
            fields.setdefault(
                "change",
                {"service_key": self.service_key, "actor": "tester", "reason": "test"},
            )
        return getattr(self._stub, method)(to_message(fields, request_class), timeout=DEADLINE_S)

    def release(self, percentage: float, **fields: Any) -> int:
        """Register the two sample versions and start releasing the second."""
        self("RegisterVersion", version={"version": STABLE, "status": "stable"})
        self(
            "RegisterVersion",
            version={"version": CANARY, "backend": {"upstream": CANARY_UPSTREAM}},
        )
        # A test before may have rolled it back.
        fields.setdefault("despite_rollback", "another test")
        started = self("StartRelease", version=CANARY, percentage=percentage, **fields)
        return int(started.revision)

    def end(self) -> None:
        """Abandon the release if there is one in progress, and remove rules and segments."""
        for service in self("ListServices").services:
            if service.service_key == self.service_key:
                if service.release.status in (1, 2):
                    self("MoveRelease", move="abandon")
                self._clear()

    def _clear(self) -> None:
        """Leave no rule and no segment to the next test."""
        policy = self("GetPolicy", service_key=self.service_key).policy
        self("SetRules", rules=[])
        for segment in policy.segments:
            self("RemoveSegment", name=segment.name)


@contextmanager
def admin_of(address: str, service_key: str = SERVICE_KEY) -> Iterator[Admin]:
    """A client of the admin API at ``address``."""
    with grpc.insecure_channel(address) as channel:
        yield Admin(channel, service_key)
