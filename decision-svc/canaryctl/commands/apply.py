"""``diff``, ``apply`` and ``export``: policies as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import yaml
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from canary_engine import diff as engine_diff

from canaryctl import render
from canaryctl.errors import Refusal, Trouble, as_text
from canaryctl.files import PolicyFile, read_policies
from canaryctl.options import Verb, expected_revision_option, reads, reason_option
from canaryctl.session import Session
from canaryctl.written import Told, documents, line, lines

MAX_TOLD = 20
"""How many of the differences since a file was exported are told."""

files_option = click.option(
    "-f",
    "--file",
    "paths",
    metavar="FILE",
    multiple=True,
    required=True,
    help="YAML or JSON, or a directory of such files (- is stdin); repeat for more.",
)
prune_option = click.option(
    "--prune",
    is_flag=True,
    help="Remove rules, segments, flags and versions that the file's lists do not name.",
)


@click.command(cls=Verb)
@files_option
@prune_option
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there is any difference.")
@click.pass_obj
def diff(session: Session, paths: tuple[str, ...], prune: bool, exit_code: bool) -> None:
    """Show what applying FILE would change; the service is asked and changes nothing."""

    def ask(file: PolicyFile) -> admin_pb2.ApplyResponse:
        request = _request(session, file, "", None, prune=prune)
        request.dry_run = True
        # However old the file is, the difference is to what is there now.
        request.policy.ClearField("revision")
        return session.call(session.admin.Apply, request)

    changed = _each(session, read_policies(paths), ask, done="to make")
    if exit_code and changed:
        raise click.exceptions.Exit(1)


@click.command(cls=Verb)
@files_option
@prune_option
@reason_option
@expected_revision_option
@click.option("--dry-run", is_flag=True, help="Say what would change and whether it is allowed.")
@click.option(
    "--any-revision",
    is_flag=True,
    help="Apply even though the policy was changed since the file was exported.",
)
@click.pass_obj
def apply(
    session: Session,
    paths: tuple[str, ...],
    prune: bool,
    reason: str,
    expected_revision: int | None,
    dry_run: bool,
    any_revision: bool,
) -> None:
    """Make policies what FILE says.

    Only what the file has is touched; each document is applied whole or not at all. Applying it
    again changes nothing. A file with a revision is refused when the policy was changed since.
    """
    files = read_policies(paths)
    if expected_revision is not None and len(files) > 1:
        raise click.UsageError("--expected-revision is for one document, and here are several")

    def ask(file: PolicyFile) -> admin_pb2.ApplyResponse:
        request = _request(session, file, reason, expected_revision, prune=prune)
        request.dry_run = dry_run
        if any_revision or expected_revision is not None:
            request.policy.ClearField("revision")
        try:
            return session.call(session.admin.Apply, request)
        except Refusal as refusal:
            raise _explained(session, refusal, request) from refusal

    if dry_run:
        _each(session, files, ask, done="to make")
    else:
        _each(session, files, ask, done="made", reason=reason)


def _request(
    session: Session, file: PolicyFile, reason: str, expected: int | None, *, prune: bool
) -> admin_pb2.ApplyRequest:
    key = file.policy.service_key
    change = admin_pb2.Change(
        service_key=key, actor=session.actor, reason=reason, expected_revision=expected
    )
    return admin_pb2.ApplyRequest(
        change=change, policy=file.policy, prune=prune, fields=file.fields
    )


def _each(
    session: Session,
    files: Sequence[PolicyFile],
    ask: Callable[[PolicyFile], admin_pb2.ApplyResponse],
    done: str,
    reason: str = "",
) -> bool:
    """Ask for each document and tell of all; whether there was any change. One that is refused
    does not keep the others from being applied. With a ``reason`` it was done."""
    told: list[dict[str, Any]] = []
    blocks: list[str] = []
    troubles: list[Trouble] = []
    for file in files:
        head = {"file": file.where, "service_key": file.policy.service_key}
        try:
            answer = ask(file)
        except Trouble as trouble:
            if len(files) == 1:
                raise
            troubles.append(trouble)
            error = {"code": trouble.code, "message": trouble.message, "next": trouble.next_step}
            told.append({**head, "error": error})
            blocks.append(f"{head['service_key']}: refused, {file.where}")
            click.echo(f"{file.where}: {as_text(trouble)}", err=True)
        else:
            changes = [_change(change) for change in answer.changes]
            made = admin_pb2.Change(service_key=head["service_key"], reason=reason)
            did = session.did(answer, made, is_alone=False) if reason and changes else Told()
            told.append({**head, "revision": answer.revision, "changes": changes, **documents(did)})
            blocks.append("\n".join([_page(head["service_key"], answer, done), *lines(did)]))
    session.show({"documents": told}, lambda: blocks)
    if troubles:
        raise click.exceptions.Exit(troubles[0].exit_code)
    return any(document["changes"] for document in told)


def _change(change: admin_pb2.FieldChange) -> dict[str, Any]:
    sides = (("before", change.before), ("after", change.after))
    return {"path": change.path, **{name: json.loads(text) for name, text in sides if text}}


def _page(service_key: str, answer: admin_pb2.ApplyResponse, done: str) -> str:
    head = f"{service_key}, revision {answer.revision}"
    if not answer.changes:
        return f"{head}: nothing to change"
    counted = render.counted(len(answer.changes), "change")
    found = (line(c.path, c.before, c.after) for c in answer.changes)
    return "\n".join([f"{head}: {counted} {done}", *found])


def _explained(session: Session, refusal: Refusal, request: admin_pb2.ApplyRequest) -> Refusal:
    """A lost race with what changed since the file was exported, as far as that is known."""
    base = request.policy.revision or request.change.expected_revision
    if refusal.code != "aborted" or not base:
        return refusal
    key = request.change.service_key
    try:
        then, now = session.policy(key, base), session.policy(key)
    except Trouble:
        return refusal
    found = engine_diff.differences(render.document(then), render.document(now))
    told = [line(*difference) for difference in found[:MAX_TOLD]]
    if len(found) > MAX_TOLD:
        told.append(f"and {render.counted(len(found) - MAX_TOLD, 'more change')}")
    message = "\n".join([refusal.message, f"changed since revision {base}:", *told])
    return Refusal(
        refusal.code,
        message,
        f"export again (canaryctl export {key}) and make your changes there, or give "
        "--any-revision to apply the file to what is there now",
    )


# What a file says, in the order in which people read it; the rest befalls a policy.
_EXPORTED = (
    "service_key", "revision", "versions", "release", "plan", "rules", "compatibility",
    "whitelist", "segments", "flags", "bucketing", "identity", "overrides", "guards",
)  # fmt: skip
_RELEASE = ("version", "percentage", "strategy")
_OVERRIDES = ("header", "cookie")
_LIFE = ("status", "release_date", "rollback_date")


@click.command(cls=Verb)
@reads
def export(session: Session, service: str) -> None:
    """Write a policy as a file that apply takes.

    Listed members of segments, approvals and what befell versions and releases are not in it.
    """
    document = exported(session.policy(service))
    if session.is_json:
        click.echo(render.as_json(document))
    else:
        click.echo(as_yaml(document), nl=False)


def exported(policy: policy_pb2.Policy) -> dict[str, Any]:
    """A policy as a file says it."""
    found = render.document(policy)
    found["versions"] = [_build(version) for version in found.get("versions", [])]
    if policy.release.status in (
        policy_pb2.RELEASE_STATUS_IN_PROGRESS,
        policy_pb2.RELEASE_STATUS_PAUSED,
    ):
        found["release"] = {"percentage": 0, **found["release"]}
        found["release"] = _only(found["release"], _RELEASE)
    else:
        found.pop("release", None)
    found["overrides"] = _only(found.get("overrides", {}), _OVERRIDES)
    return {name: value for name, value in _only(found, _EXPORTED).items() if value}


def _build(version: dict[str, Any]) -> dict[str, Any]:
    build = {name: value for name, value in version.items() if name not in _LIFE}
    return {**build, "status": "stable"} if version.get("status") == "stable" else build


def _only(document: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: document[name] for name in names if name in document}


def as_yaml(document: dict[str, Any]) -> str:
    """YAML that any reader reads alike: what looks like something else is quoted."""
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return text
