"""The latest latencies for Prometheus, computed a few times between two scrapes."""

from __future__ import annotations

import asyncio

import structlog

from decision_svc.metrics import Metrics
from decision_svc.outcomes.protocol import Outcomes

log = structlog.get_logger()

WINDOW_S = 60
EVERY_S = 2.0


async def refresh_for_ever(outcomes: Outcomes, metrics: Metrics) -> None:
    """Keep the gauges at the last minute's latencies, until cancelled."""
    while True:
        try:
            for service_key in await outcomes.service_keys():
                metrics.show_latencies(service_key, await outcomes.read(service_key, WINDOW_S))
        except Exception:  # the gauges must go on once the trouble is over
            log.exception("latencies could not be computed")
        await asyncio.sleep(EVERY_S)
