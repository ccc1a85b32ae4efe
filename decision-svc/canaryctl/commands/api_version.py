"""``api-version``: what clients of each version of the API are told, one by one."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from canaryctl import policy_tables, render
from canaryctl.errors import Refusal
from canaryctl.options import Noun, reads, writes
from canaryctl.session import Session
from canaryctl.values import MOMENT


@click.group("api-version", cls=Noun)
def api_version() -> None:
    """API versions that clients speak: which are deprecated, and until when they work."""


@api_version.command("list")
@reads
def show(session: Session, service: str) -> None:
    """List what is known of API versions."""
    policy = session.policy(service)
    document = {
        "service_key": service,
        "revision": policy.revision,
        "api_versions": render.documents(policy.compatibility.api_versions),
    }
    session.show(document, lambda: [policy_tables.api_versions(policy)])


@api_version.command("put")
@writes
@click.argument("version")
@click.option("--deprecated", is_flag=True, help="Clients are told to leave it.")
@click.option("--since", type=MOMENT, help="Since when it is deprecated.")
@click.option("--sunset", type=MOMENT, help="When it stops working.")
@click.option("--breaking-change", multiple=True, help="What clients must change; repeat for more.")
@click.option("--guide", default="", help="Where to read how: a URL, or a path of the API's host.")
def put(
    session: Session,
    change: admin_pb2.Change,
    version: str,
    deprecated: bool,
    since: Timestamp | None,
    sunset: Timestamp | None,
    breaking_change: tuple[str, ...],
    guide: str,
) -> None:
    """Say what is known of VERSION, in place of what was said before."""
    found = _current(session, change)
    given = policy_pb2.ApiVersion(
        version=version,
        deprecated=deprecated or since is not None,
        deprecated_at=since,
        sunset_date=sunset,
        breaking_changes=breaking_change,
        migration_guide=guide,
    )
    kept = [given if known.version == version else known for known in found.api_versions]
    _set(session, change, found, kept if given in kept else [*kept, given], f"put {version}")


@api_version.command("remove")
@writes
@click.argument("version")
def remove(session: Session, change: admin_pb2.Change, version: str) -> None:
    """Forget what is known of VERSION."""
    found = _current(session, change)
    kept = [known for known in found.api_versions if known.version != version]
    if len(kept) == len(found.api_versions):
        names = render.listed(known.version for known in found.api_versions) or "none"
        raise Refusal(
            "not-found",
            f"nothing is known of API version {version!r}; known are: {names}",
            f"canaryctl api-version list {change.service_key}",
        )
    _set(session, change, found, kept, f"forgot {version}")


def _current(session: Session, change: admin_pb2.Change) -> policy_pb2.Compatibility:
    """As it is, and ``change`` made for the revision that it was read from."""
    policy = session.policy(change.service_key)
    if not change.HasField("expected_revision"):
        change.expected_revision = policy.revision
    return policy.compatibility


def _set(
    session: Session,
    change: admin_pb2.Change,
    found: policy_pb2.Compatibility,
    versions: list[policy_pb2.ApiVersion],
    said: str,
) -> None:
    del found.api_versions[:]
    found.api_versions.extend(versions)
    request = admin_pb2.SetCompatibilityRequest(change=change, compatibility=found)
    answer = session.call(session.admin.SetCompatibility, request)
    session.tell_written(answer, change, said)
