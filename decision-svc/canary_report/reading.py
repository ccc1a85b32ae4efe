"""Stories from the documents that the admin API's answers are; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from canary_engine import parse
from canary_engine.model import Policy, Variant
from canary_engine.record import ReleaseRecord
from canary_engine.record_reading import record

from canary_report.story import Change, Story

_EPOCH = datetime.fromtimestamp(0, UTC)


def story(
    *,
    policy: Mapping[str, Any],
    noted: Mapping[str, Any] | None,
    exposures: Iterable[Mapping[str, Any]],
    changes: Iterable[Mapping[str, Any]],
    made_at: datetime,
) -> Story:
    """The story of the release that ``noted``, its record, is about; None: of the policy's.

    The others are a policy, the exposures and the changes, each in the form of the protos. Raises
    InvalidPolicy with every complaint about a policy or record that this build cannot read.
    """
    read = parse.fields_of(policy)
    return Story(
        record=record(noted) if noted is not None else _nothing_noted(read),
        policy=read,
        exposure={Variant(e["variant"]): int(e.get("users", 0)) for e in exposures},
        changes=tuple(map(_change, changes)),
        made_at=made_at,
    )


def last_revision(noted: Mapping[str, Any]) -> int:
    """The last revision that the record of a release tells of; 0: none."""
    return max((int(event.get("revision", 0)) for event in noted.get("events", ())), default=0)


def _nothing_noted(policy: Policy) -> ReleaseRecord:
    release_id = policy.release.id if policy.release is not None else ""
    return ReleaseRecord(service_key=policy.service_key, release_id=release_id)


def _change(document: Mapping[str, Any]) -> Change:
    at = document.get("at")
    return Change(
        revision=int(document.get("revision", 0)),
        actor=str(document.get("actor", "")),
        at=datetime.fromisoformat(at) if at else _EPOCH,
        reason=str(document.get("reason", "")),
        summary=str(document.get("summary", "")),
    )
