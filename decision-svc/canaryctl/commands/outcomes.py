"""``outcomes``: what became of the latest requests, by version."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2

from canaryctl import answer_tables, render
from canaryctl.options import Verb, reads
from canaryctl.session import Session


@click.command(cls=Verb)
@reads
@click.option(
    "--window",
    "window_s",
    type=click.IntRange(1, 14_400),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How far to look back, at most 900 where the service has no Redis.",
)
def outcomes(session: Session, service: str, window_s: int) -> None:
    """Show what became of the latest requests: errors and latencies by version.

    Only labelled requests are counted: those to the canary, those that stand for stable in
    comparisons with it, and all where the plugin's config says label_stable.
    """
    request = admin_pb2.ListOutcomesRequest(service_key=service, window_s=window_s)
    found = session.call(session.admin.ListOutcomes, request).outcomes
    session.show(
        {
            "service_key": service,
            "window_s": window_s,
            "outcomes": render.documents(found),
        },
        lambda: [answer_tables.outcomes(service, window_s, found)],
    )
