"""``explain``: why would this request go there, every stage listed."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from canaryctl import answer_tables, policy_tables, render
from canaryctl.options import Verb, reads
from canaryctl.session import Session
from canaryctl.values import HEADER, MOMENT, SETTING, joined


@click.command(cls=Verb)
@reads
@click.option("--header", type=HEADER, multiple=True, help="Request header; repeat for more.")
@click.option("--cookie", type=SETTING, multiple=True, help="Cookie; repeat for more.")
@click.option("--ip", default="", help="The client's address.")
@click.option("--path", default="", help="Path without the query.")
@click.option("--consumer", default="", help="Kong consumer.")
@click.option("--flag", multiple=True, help="Flag that the route names; repeat for more.")
@click.option("--fallback-key", default="", help="The gateway's key for a client without any.")
@click.option("--baseline", default="", help="Hash of a baseline: as its gateways see it.")
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
    """Say where a request would go, and what every stage says about it."""
    request = decision_pb2.DecideRequest(
        service_key=service,
        headers=joined(header, str.lower),
        cookies=dict(cookie),
        client_ip=ip,
        path=path,
        consumer=consumer,
        flags=flag,
        fallback_key=fallback_key,
        baseline_hash=baseline,
    )
    answer = session.call(session.admin.Explain, admin_pb2.ExplainRequest(request=request, at=at))
    session.show(render.document(answer), lambda: _page(answer))


def _page(answer: admin_pb2.ExplainResponse) -> list[str]:
    page = [render.cell(answer_tables.verdict(answer.decision, answer.stages))]
    if answer.decision.HasField("deprecation"):
        page.append(render.cell(policy_tables.deprecation(answer.decision.deprecation)))
    return [*page, answer_tables.stages(answer.stages), f"in force: {render.cell(answer.in_force)}"]
