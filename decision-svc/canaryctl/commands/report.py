"""``report``: how a release went, for people who were not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from canary.record.v1 import record_pb2
from canary_documents import to_document
from canary_engine.errors import InvalidPolicy
from canary_report.html import as_html
from canary_report.markdown import as_markdown
from canary_report.reading import last_revision, story
from canary_report.story import Story

from canaryctl import render
from canaryctl.errors import Misuse, Refusal
from canaryctl.options import Verb, reads
from canaryctl.session import Session

PAGE = 1_000
MOST_PAGES = 20
FORMS: dict[str, Callable[[Story], str]] = {"md": as_markdown, "html": as_html}


@click.command(cls=Verb)
@reads
@click.option("--release", "release_id", default="", metavar="ID", help="Which. [the latest]")
@click.option(
    "--format", "form", type=click.Choice(list(FORMS)), help="How. [as FILE's name, or md]"
)
@click.option("-o", "--file", "path", default="-", metavar="FILE", help="Where to. [here]")
def report(session: Session, service: str, release_id: str, form: str | None, path: str) -> None:
    """Tell how a release went: why it ended, on which evidence, who was exposed, who did what.

    As Markdown, or as one HTML page with plots that needs nothing else.
    """
    found = _story(session, service, release_id)
    chosen = form or ("html" if Path(path).suffix in (".html", ".htm") else "md")
    text = FORMS[chosen](found)
    about = {"service_key": service, "release_id": found.record.release_id}
    if path == "-":
        session.show({**about, "format": chosen, "report": text}, lambda: [text])
        return
    try:
        Path(path).write_text(text, "utf-8")
    except OSError as error:
        raise Misuse(f"{path}: {error.strerror}", next_step="name another file") from error
    session.show({**about, "file": path}, lambda: [render.cell(f"wrote the report to {path}")])


def _story(session: Session, service: str, release_id: str) -> Story:
    policy = session.policy(service)
    noted = _record(session, service, release_id)
    if noted is None and release_id not in ("", policy.release.id):
        raise Refusal(
            "not-found",
            f"nothing is noted of release {release_id!r} of {service}",
            f"canaryctl history {service} names its releases",
        )
    if noted is None and not policy.HasField("release"):
        raise Refusal(
            "not-found", f"{service} has no release", "start one: canaryctl release start"
        )
    of = noted.release_id if noted is not None else policy.release.id
    policy = _policy_then(session, service, policy, noted)
    try:
        return story(
            policy=to_document(policy),
            noted=to_document(noted) if noted is not None else None,
            exposures=_exposures(session, service, of),
            changes=[to_document(c) for c in _changes(session, service, policy.release)],
            made_at=datetime.now(UTC),
        )
    except InvalidPolicy as error:
        raise Misuse(
            *error.complaints, next_step="is this canaryctl older than the service?"
        ) from error


def _record(session: Session, service: str, release_id: str) -> record_pb2.ReleaseRecord | None:
    """What was noted of the release; None: nothing."""
    request = admin_pb2.GetRecordRequest(service_key=service, release_id=release_id)
    try:
        return session.call(session.admin.GetRecord, request).record
    except Refusal as refusal:
        if refusal.code == "not-found":
            return None
        raise


def _policy_then(
    session: Session,
    service: str,
    policy: policy_pb2.Policy,
    noted: record_pb2.ReleaseRecord | None,
) -> policy_pb2.Policy:
    """The policy as it was when the release ended, if another one has begun since."""
    if noted is None or noted.release_id == policy.release.id:
        return policy
    revision = last_revision(to_document(noted))
    try:
        return session.policy(service, revision) if revision else policy
    except Refusal as refusal:
        if refusal.code == "not-found":  # so long ago that it is kept no more
            return policy
        raise


def _exposures(session: Session, service: str, release_id: str) -> list[dict[str, object]]:
    request = admin_pb2.GetExposureRequest(service_key=service, release_id=release_id)
    try:
        found = session.call(session.admin.GetExposure, request).exposures
    except Refusal as refusal:
        if refusal.code == "not-found":
            return []
        raise
    return [to_document(exposure) for exposure in found]


def _changes(
    session: Session, service: str, release: policy_pb2.Release
) -> Iterator[admin_pb2.ChangeRecord]:
    """The changes since the release began, newest first."""
    before = 0
    for _ in range(MOST_PAGES):
        request = admin_pb2.ListChangesRequest(
            service_key=service, before_revision=before, limit=PAGE
        )
        page = session.call(session.admin.ListChanges, request).changes
        yield from page
        if len(page) < PAGE or page[-1].at.ToDatetime() < release.started_at.ToDatetime():
            return
        before = page[-1].revision
