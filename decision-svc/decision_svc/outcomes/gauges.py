"""The latest latencies for Prometheus, computed a few times between two scrapes.

Of what this replica was told: every replica shows its own, and asking Redis for everybody's every
two seconds would cost more than deciding.
"""

from __future__ import annotations

import asyncio

import structlog

from decision_svc.metrics import Metrics
from decision_svc.outcomes.memory import Slots

log = structlog.get_logger()

WINDOW_S = 60
EVERY_S = 2.0


async def refresh_for_ever(told: Slots, metrics: Metrics) -> None:
    """Keep the gauges at the last minute's latencies, until cancelled."""
    while True:
        try:
            for service_key in told.service_keys():
                metrics.outcomes.show_latencies(service_key, told.read(service_key, WINDOW_S))
                await asyncio.sleep(0)  # decisions are waiting
        except Exception:  # the gauges must go on once the trouble is over
            log.exception("latencies could not be computed")
        await asyncio.sleep(EVERY_S)
