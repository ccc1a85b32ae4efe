"""``bucketing``, ``identity`` and ``compatibility``: how requests are read; replaced whole."""

from __future__ import annotations

from typing import Any

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from google.protobuf.message import Message

from canaryctl import policy_tables, render
from canaryctl.errors import Misuse
from canaryctl.files import read_one
from canaryctl.options import Noun, file_option, reads, writes
from canaryctl.session import Session
from canaryctl.values import SETTING, choice, value_of


@click.group(cls=Noun)
def bucketing() -> None:
    """Bucketing: how the hash key of a request is found."""


@click.group(cls=Noun)
def identity() -> None:
    """Identity: how the user and their attributes are read from a request."""


@click.group(cls=Noun)
def compatibility() -> None:
    """Compatibility: which version can serve clients of which API version."""


def _document(policy: policy_pb2.Policy, noun: str) -> dict[str, Any]:
    return {
        "service_key": policy.service_key,
        "revision": policy.revision,
        noun: render.document(getattr(policy, noun)),
    }


@bucketing.command("show")
@reads
def show_bucketing(session: Session, service: str) -> None:
    """Show how hash keys are found."""
    policy = session.policy(service)
    session.show(_document(policy, "bucketing"), lambda: [policy_tables.bucketing(policy)])


@identity.command("show")
@reads
def show_identity(session: Session, service: str) -> None:
    """Show how users are recognised."""
    policy = session.policy(service)
    session.show(_document(policy, "identity"), lambda: [policy_tables.identity(policy)])


@compatibility.command("show")
@reads
def show_compatibility(session: Session, service: str) -> None:
    """Show the API compatibility rules, and what is known of API versions."""
    policy = session.policy(service)
    session.show(
        _document(policy, "compatibility"),
        lambda: [policy_tables.compatibility(policy), policy_tables.api_versions(policy)],
    )


@bucketing.command("set")
@writes
@click.option(
    "--hash-on",
    multiple=True,
    metavar="SOURCE[:KEY]",
    help="header:NAME, cookie:NAME, ip or consumer; repeat, the first found wins.",
)
@click.option(
    "--anonymous", type=choice(policy_pb2.Anonymous.DESCRIPTOR), help="What if none is found."
)
@click.option("--cookie", default="", help="Name of the cookie that is issued. [canary_id]")
@file_option("The bucketing, instead of the options")
def set_bucketing(
    session: Session,
    change: admin_pb2.Change,
    hash_on: tuple[str, ...],
    anonymous: str | None,
    cookie: str,
    path: str | None,
) -> None:
    """Replace the bucketing whole. Users may change their variant."""
    given = policy_pb2.Bucketing(
        hash_on=[_hash_key(text) for text in hash_on],
        anonymous=value_of(policy_pb2.Anonymous.DESCRIPTOR, anonymous),
        cookie=cookie,
    )
    _check_given(path, given)
    chosen = read_one(path, "bucketing", policy_pb2.Bucketing) if path is not None else given
    request = admin_pb2.SetBucketingRequest(change=change, bucketing=chosen)
    answer = session.call(session.admin.SetBucketing, request)
    session.tell_written(answer, change, "set the bucketing")


def _hash_key(text: str) -> policy_pb2.HashKey:
    source, _, key = text.partition(":")
    known = render.words_by_value(policy_pb2.Source.DESCRIPTOR).values()
    if source not in known:
        raise Misuse(
            f"--hash-on: {source!r} is none of {render.listed(known)}",
            next_step="write e.g. --hash-on header:x-user-id --hash-on ip",
        )
    return policy_pb2.HashKey(source=value_of(policy_pb2.Source.DESCRIPTOR, source), key=key)


@identity.command("set")
@writes
@click.option("--user-id-header", default="", help="Header with the user id. [x-user-id]")
@click.option(
    "--attribute", type=SETTING, multiple=True, help="Attribute and its header, tier=x-user-tier."
)
@click.option("--flags-header", default="", help="Header in which a request names flags.")
@file_option("The identity, instead of the options")
def set_identity(
    session: Session,
    change: admin_pb2.Change,
    user_id_header: str,
    attribute: tuple[tuple[str, str], ...],
    flags_header: str,
    path: str | None,
) -> None:
    """Replace the identity whole."""
    given = policy_pb2.Identity(
        user_id_header=user_id_header,
        attribute_headers=dict(attribute),
        flags_header=flags_header,
    )
    _check_given(path, given)
    chosen = read_one(path, "identity", policy_pb2.Identity) if path is not None else given
    request = admin_pb2.SetIdentityRequest(change=change, identity=chosen)
    answer = session.call(session.admin.SetIdentity, request)
    session.tell_written(answer, change, "set the identity")


@compatibility.command("set")
@writes
@click.option(
    "-f",
    "--file",
    "path",
    metavar="FILE",
    required=True,
    help="Places, rules and API versions (- is stdin).",
)
def set_compatibility(session: Session, change: admin_pb2.Change, path: str) -> None:
    """Replace the places, the compatibility rules and the API versions by those in FILE."""
    chosen = read_one(path, "compatibility", policy_pb2.Compatibility)
    request = admin_pb2.SetCompatibilityRequest(change=change, compatibility=chosen)
    answer = session.call(session.admin.SetCompatibility, request)
    session.tell_written(
        answer, change, f"set {render.counted(len(chosen.rules), 'compatibility rule')}"
    )


def _check_given(path: str | None, given: Message) -> None:
    is_described = bool(given.ListFields())
    if is_described == (path is not None):
        raise click.UsageError("say what to set, by options or with --file (one of the two)")
