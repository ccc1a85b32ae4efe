"""``metrics``: how the sides of a release compare, and numbers that only others know."""

from __future__ import annotations

import uuid

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from canary.record.v1 import record_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from canaryctl import comparison
from canaryctl.errors import Refusal
from canaryctl.options import Noun, reads
from canaryctl.session import Session
from canaryctl.values import DURATION, MOMENT, SETTING, choice, value_of

MAX_COUNT = 10**9


@click.group(cls=Noun)
def metrics() -> None:
    """Metrics: see how a release fares, and report what gateways do not know."""


@metrics.command("compare")
@reads
@click.option(
    "--window",
    "window_s",
    type=DURATION,
    default="5m",
    show_default=True,
    metavar="DURATION",
    help="How far to look back, at most 4h.",
)
def compare(session: Session, service: str, window_s: int) -> None:
    """Show the metrics of the latest release: its canary beside control.

    Canary are the users whom the draw gave it, control those of the same draw who stand for
    stable. Chosen are the users who got the canary by rule, whitelist, segment or flag: they are
    not like the others, and compared with nobody. What the controller asked Prometheus for is as
    it noted it last.
    """
    request = admin_pb2.GetMetricsRequest(service_key=service, window_s=window_s)
    answer = session.call(session.admin.GetMetrics, request)
    noted = _noted(session, service, answer.release_id)
    session.show(
        comparison.document(service, window_s, answer, noted),
        lambda: comparison.tables(service, window_s, answer, noted),
    )


def _noted(session: Session, service: str, release_id: str) -> record_pb2.Point | None:
    """What a controller noted last of the release; None: nothing."""
    if not release_id:
        return None
    request = admin_pb2.GetRecordRequest(service_key=service, release_id=release_id)
    try:
        points = session.call(session.admin.GetRecord, request).record.points
    except Refusal as refusal:
        if refusal.code == "not-found":
            return None
        raise
    return points[-1] if points else None


@metrics.command("report")
@reads
@click.option("--version", required=True, help="The version that it is about.")
@click.option(
    "--metric", type=choice(policy_pb2.Metric.DESCRIPTOR), required=True, help="Which metric."
)
@click.option("--name", default="", help="Name of a custom metric, or of a feature.")
@click.option("--value", type=float, required=True, help="The number.")
@click.option(
    "--count",
    type=click.IntRange(1, MAX_COUNT),
    default=1,
    show_default=True,
    help="How many observations it stands for.",
)
@click.option(
    "--dimension",
    "dimensions",
    type=SETTING,
    multiple=True,
    metavar="NAME=VALUE",
    help="Words that tell it apart, e.g. region=eu; again for more.",
)
@click.option("--at", type=MOMENT, help="When it was observed, at most 15 minutes ago. [now]")
@click.option("--report-id", default="", help="Repeated under this id, it counts once. [random]")
def report(
    session: Session,
    service: str,
    version: str,
    metric: str,
    name: str,
    value: float,
    count: int,
    dimensions: tuple[tuple[str, str], ...],
    at: Timestamp | None,
    report_id: str,
) -> None:
    """Report a number about one version of SERVICE.

    Critical errors, revenue, feature usage, feedback and complaints are added up; everything else
    is averaged.
    """
    told = admin_pb2.ReportedMetric(
        metric=value_of(policy_pb2.Metric.DESCRIPTOR, metric),
        name=name,
        version=version,
        value=value,
        count=count,
        dimensions=dict(dimensions),
        at=at,
    )
    request = admin_pb2.ReportMetricsRequest(
        service_key=service, metrics=[told], report_id=report_id or uuid.uuid4().hex
    )
    answer = session.call(session.admin.ReportMetrics, request)
    said = f"reported {metric} of {version}" if answer.accepted else "it was reported before"
    session.show({"service_key": service, "accepted": answer.accepted}, lambda: [said])
