"""``version``: the builds that can be released."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from canaryctl import policy_tables, render
from canaryctl.errors import Refusal
from canaryctl.options import Noun, reads, writes
from canaryctl.session import Session
from canaryctl.values import MOMENT, choice, value_of

MAX_NAMED = 10
"""Of how many versions the names are told to whoever asks for one that there is not."""


@click.group(cls=Noun)
def version() -> None:
    """Versions: the builds that can be released."""


@version.command("list")
@reads
def list_versions(session: Session, service: str) -> None:
    """List the versions."""
    policy = session.policy(service)
    document = {
        "service_key": service,
        "revision": policy.revision,
        "versions": render.documents(policy.versions),
    }
    session.show(document, lambda: [policy_tables.versions(policy)])


@version.command("show")
@reads
@click.argument("name", metavar="VERSION")
def show(session: Session, service: str, name: str) -> None:
    """Show all of one version."""
    policy = session.policy(service)
    found = next((v for v in policy.versions if v.version == name), None)
    if found is None:
        names = render.listed(v.version for v in policy.versions[:MAX_NAMED]) or "none"
        more = ", …" if len(policy.versions) > MAX_NAMED else ""
        raise Refusal(
            "not-found",
            f"there is no version {name!r}; there is: {names}{more}",
            f"canaryctl version list {service}",
        )
    document = {
        "service_key": service,
        "revision": policy.revision,
        "version": render.document(found),
    }
    session.show(document, lambda: [policy_tables.version(found)])


@version.command("register")
@writes
@click.argument("name", metavar="VERSION")
@click.option(
    "--status", type=choice(policy_pb2.VersionStatus.DESCRIPTOR), help="stable: everybody has it."
)
@click.option("--build-number", default="", help="Number given by the build system.")
@click.option("--git-commit", default="", help="Commit the build was made from.")
@click.option("--build-date", type=MOMENT, help="When it was built.")
@click.option("--upstream", default="", help="Kong upstream its requests go to.")
@click.option("--host", default="", help="Or the host its requests go to; needs --port.")
@click.option("--port", type=click.IntRange(1, 65535), default=None)
@click.option("--host-header", default="", help="Host header that it gets.")
def register(
    session: Session,
    change: admin_pb2.Change,
    name: str,
    status: str | None,
    build_number: str,
    git_commit: str,
    build_date: Timestamp | None,
    upstream: str,
    host: str,
    port: int | None,
    host_header: str,
) -> None:
    """Register a version; --status stable makes it what everybody has."""
    backend = policy_pb2.Backend(
        upstream=upstream, host=host, port=port or 0, host_header=host_header
    )
    build = policy_pb2.Version(
        version=name,
        status=value_of(policy_pb2.VersionStatus.DESCRIPTOR, status),
        build_number=build_number,
        git_commit=git_commit,
        build_date=build_date,
        backend=backend if backend.ListFields() else None,
    )
    request = admin_pb2.RegisterVersionRequest(change=change, version=build)
    answer = session.call(session.admin.RegisterVersion, request)
    session.tell_written(answer, change, f"registered {name}")


@version.command("deprecate")
@writes
@click.argument("name", metavar="VERSION")
def deprecate(session: Session, change: admin_pb2.Change, name: str) -> None:
    """Mark a version as no longer to be released."""
    request = admin_pb2.DeprecateVersionRequest(change=change, version=name)
    answer = session.call(session.admin.DeprecateVersion, request)
    session.tell_written(answer, change, f"deprecated {name}")


@version.command("remove")
@writes
@click.argument("name", metavar="VERSION")
def remove(session: Session, change: admin_pb2.Change, name: str) -> None:
    """Forget a version."""
    request = admin_pb2.RemoveVersionRequest(change=change, version=name)
    answer = session.call(session.admin.RemoveVersion, request)
    session.tell_written(answer, change, f"removed {name}")
