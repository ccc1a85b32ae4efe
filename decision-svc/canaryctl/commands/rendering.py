"""``render``: a release's state in the words of Istio and Kong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import click
from canary.policy.v1 import policy_pb2
from canary_engine import parse
from canary_engine.model import Policy
from canary_engine.parse import percentage
from canary_istio.matches import LeftOut
from canary_istio.routes import Mesh, routes, taking_traffic

from canaryctl import render as say
from canaryctl.commands.apply import as_yaml
from canaryctl.errors import Misuse, Refusal
from canaryctl.kong_block import Place, block
from canaryctl.options import Noun, reads
from canaryctl.session import Session
from canaryctl.values import SETTING

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")

leave_out_option = click.option(
    "--leave-out",
    is_flag=True,
    help="Write it even though what keeps somebody on stable is not in it.",
)


@click.group("render", cls=Noun)
def render() -> None:
    """Write a release's state as files for Istio or Kong, without applying them."""


@render.command("istio")
@reads
@click.option("--host", help="The service's name in the mesh. [SERVICE]", metavar="HOST")
@click.option("--namespace", default="", help="The namespace of both objects. [none]")
@leave_out_option
def istio(
    session: Session, service: str, host: str | None, namespace: str, leave_out: bool
) -> None:
    """Write a DestinationRule and a VirtualService: who is forced first, then weights.

    A mesh draws for each request, not for each user: with weights alone nobody keeps their
    version. What the mesh cannot do is told at the top; if it keeps somebody on stable, the
    command refuses without --leave-out.
    """
    found = policy_of(session.policy(service))
    mesh = Mesh(host=_name("--host", host or service), namespace=namespace)
    if namespace:
        _name("--namespace", namespace)
    made = routes(found, mesh)
    _insist(service, "the mesh", made.unprotected, leave_out)
    document = {
        "service_key": service,
        "revision": found.revision,
        "objects": list(made.objects),
        "left_out": [_told(part) for part in made.left_out],
    }
    head = [*_head(found), "the mesh draws for each request, not for each user"]
    session.show(document, lambda: [_page([*head, *_lines(made.left_out)], made.objects)])


@render.command("kong")
@reads
@click.option("--url", required=True, metavar="URL", help="The Kong service, http://HOST:PORT.")
@click.option(
    "--path", "paths", multiple=True, required=True, metavar="PATH", help="Of the route; repeat."
)
@click.option("--strip-path", is_flag=True, help="Send requests on without the route's path.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=SETTING,
    metavar="UPSTREAM=HOST:PORT",
    help="Where an upstream is; repeat for more. [its name, on the port of --url]",
)
@click.option(
    "--baseline",
    is_flag=True,
    help="Let the gateway give the canary what it gets now, also when the release has ended.",
)
@leave_out_option
def kong(
    session: Session,
    service: str,
    url: str,
    paths: tuple[str, ...],
    strip_path: bool,
    targets: tuple[tuple[str, str], ...],
    baseline: bool,
    leave_out: bool,
) -> None:
    """Write Kong's declarative config for SERVICE: service, route, plugin and upstreams.

    Without --baseline the release alone says who gets the canary; the gateway learns of it from
    the decision service, and this file need not change when it does.
    """
    found = policy_of(session.policy(service))
    where: dict[str, list[str]] = {}
    for name, target in targets:
        where.setdefault(name, []).append(_target(target))
    place = Place(url=url, paths=paths, strip_path=strip_path, targets=where)
    made = block(found, place, with_baseline=baseline)
    _insist(service, "the baseline", made.unprotected, leave_out)
    document = {
        "service_key": service,
        "revision": found.revision,
        "config": made.document,
        "left_out": [_told(part) for part in made.left_out],
    }
    head = [*_head(found), *_lines(made.left_out)]
    session.show(document, lambda: [_page(head, [made.document])])


def policy_of(message: policy_pb2.Policy) -> Policy:
    """A policy of the API as the engine has it."""
    return parse.policy(say.document(message))


def _insist(service: str, where: str, unprotected: Sequence[LeftOut], leave_out: bool) -> None:
    if leave_out or not unprotected:
        return
    lines = [f"{part.what} keeps clients on stable: {part.why}" for part in unprotected]
    raise Refusal(
        "failed-precondition",
        "\n".join(
            [f"{service}: {where} would give the canary to some who must not get it", *lines]
        ),
        "take them out of the policy, lower the percentage to 0, or repeat with --leave-out if "
        "they may get it",
    )


def _head(policy: Policy) -> list[str]:
    """What a file was made from, in words."""
    of = f"{policy.service_key}, revision {policy.revision}"
    release = taking_traffic(policy)
    if release is None:
        return [f"{of}: no release takes traffic"]
    of_all = f"{percentage(release.share)} %"
    return [f"{of}: release {release.id} of {release.version}, {release.status}, {of_all}"]


def _lines(left_out: Iterable[LeftOut]) -> list[str]:
    return [f"left out: {part.what}: {part.why}" for part in left_out]


def _told(part: LeftOut) -> dict[str, Any]:
    return {"what": part.what, "why": part.why, "protects": part.protects}


def _page(head: Iterable[str], documents: Iterable[dict[str, Any]]) -> str:
    comments = "".join(f"# {say.cell(line)}\n" for line in head)
    return comments + "---\n".join(map(as_yaml, documents))


def _name(option: str, value: str) -> str:
    if len(value) <= 253 and _NAME.fullmatch(value):
        return value
    raise Misuse(
        f"{option}: {value!r} is no name in a cluster: lower-case letters, digits and dashes, "
        "parts of at most 63 with dots between"
    )


def _target(text: str) -> str:
    host, _, port = text.rpartition(":")
    if host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536:
        return text
    raise Misuse(f"--target: {text!r} is not HOST:PORT")
