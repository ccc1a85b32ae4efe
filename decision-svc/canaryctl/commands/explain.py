"""``explain``: why would this request go there, every stage listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import click
from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from canaryctl import answer_tables, baselines, policy_tables, render
from canaryctl.options import Verb, reads
from canaryctl.session import Session
from canaryctl.values import ADDRESS, HEADER, MOMENT, SETTING, joined


@click.command(cls=Verb)
@reads
@click.option("--header", type=HEADER, multiple=True, help="Request header; repeat for more.")
@click.option("--cookie", type=SETTING, multiple=True, help="Cookie; repeat for more.")
@click.option("--ip", type=ADDRESS, default="", help="The client's address.")
@click.option("--path", default="", help="Path without the query.")
@click.option("--consumer", default="", help="Kong consumer.")
@click.option("--flag", multiple=True, help="Flag that the route names; repeat for more.")
@click.option("--fallback-key", default="", help="The gateway's key for a client without any.")
@click.option(
    "--baseline",
    default="",
    metavar="HASH",
    help="As the gateways with that baseline see it. [each in contact]",
)
@click.option("--at", type=MOMENT, help="When the request is made. [now]")
def explain(
    session: Session,
    service: str,
    header: tuple[tuple[str, str], ...],
    cookie: tuple[tuple[str, str], ...],
    ip: str,
    path: str,
    consumer: str,
    flag: tuple[str, ...],
    fallback_key: str,
    baseline: str,
    at: Timestamp | None,
) -> None:
    """Say where a request would go, and what every stage says about it.

    What rules where no release does is in the gateways' own files, their baselines: those that the
    service knows are asked about, all of them. canaryctl baselines lists them.
    """
    request = decision_pb2.DecideRequest(
        service_key=service,
        headers=joined(header, str.lower),
        cookies=dict(cookie),
        client_ip=ip,
        path=path,
        consumer=consumer,
        flags=flag,
        fallback_key=fallback_key,
    )
    sides = _sides(session, service, baseline)
    seen = [_seen(session, request, at, hash_, gateways) for hash_, gateways in sides]
    if not seen[0].answer.decision.policy_revision and not seen[0].hash:
        session.check_known(service)
    session.show(_document(seen[0], seen[1:]), lambda: _page(seen[0], seen[1:]))


class Seen(NamedTuple):
    """The answer as gateways with a baseline see it; hash "": as one without any does."""

    hash: str
    gateways: tuple[str, ...]
    answer: admin_pb2.ExplainResponse


def _sides(session: Session, service: str, given: str) -> list[tuple[str, tuple[str, ...]]]:
    """Hashes and gateways of the baselines to explain by: never none."""
    if given:
        return [(given, ())]
    found = baselines.in_contact(session, service)
    return [(one.baseline.hash, tuple(one.gateways)) for one in found] or [("", ())]


def _seen(
    session: Session,
    request: decision_pb2.DecideRequest,
    at: Timestamp | None,
    hash_: str,
    gateways: tuple[str, ...],
) -> Seen:
    asked = admin_pb2.ExplainRequest(request=request, at=at)
    asked.request.baseline_hash = hash_
    return Seen(hash_, gateways, session.call(session.admin.Explain, asked))


def _document(seen: Seen, others: Sequence[Seen]) -> dict[str, Any]:
    found: dict[str, Any] = render.document(seen.answer)
    if seen.hash:
        found |= {"baseline_hash": seen.hash, "gateways": list(seen.gateways)}
    if others:
        found["others"] = [
            {
                "baseline_hash": other.hash,
                "gateways": list(other.gateways),
                "decision": render.document(other.answer.decision),
            }
            for other in others
        ]
    return found


def _page(seen: Seen, others: Sequence[Seen]) -> list[str]:
    answer = seen.answer
    page = [render.cell(answer_tables.verdict(answer.decision, answer.stages))]
    if answer.decision.HasField("deprecation"):
        page.append(render.cell(policy_tables.deprecation(answer.decision.deprecation)))
    page += [answer_tables.stages(answer.stages), f"in force: {render.cell(answer.in_force)}"]
    lines = (_whose(seen), *(_other(other, seen) for other in others))
    return [*page, "\n".join(render.cell(line) for line in lines)]


def _whose(seen: Seen) -> str:
    if not seen.hash:
        return (
            "seen by: a gateway without a baseline; none with one is in contact with this decision "
            "service (a gateway tells it with its first request)"
        )
    return f"seen by: {render.listed(seen.gateways) or 'gateways'}, with baseline {seen.hash}"


def _other(other: Seen, seen: Seen) -> str:
    who = f"{render.listed(other.gateways)}, with baseline {other.hash}"
    if other.answer.decision == seen.answer.decision:
        return f"the same for {who}"
    said = answer_tables.verdict(other.answer.decision, other.answer.stages)
    return f"but for {who}: {said}; for every stage give --baseline {other.hash}"
