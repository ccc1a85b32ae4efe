"""A decision service that lives in seconds of its own, in each of which gateways tell it outcomes.

Its clock stands still until a line comes in: then a second passes, and outcomes of every release
have been told. So a tick of the controller finds a second of news, however busy the machine is.
A line holds the {service key: release id} to tell of, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import grpc
import structlog
import uvloop
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary.policy.v1 import policy_pb2
from canary_engine.histogram import Histogram
from decision_svc.app import running
from decision_svc.settings import Settings

ANY_PORT = "127.0.0.1:0"
STABLE, CANARY = "v1.2.3", "v1.3.0"
MOST_REQUESTS = 40
SECONDS_IN_POOL = 64
IN_BATCH = 50
ERRORS = 0.005
COHORTS = (
    (CANARY, policy_pb2.VARIANT_CANARY, policy_pb2.COHORT_DRAWN, 1),
    (STABLE, policy_pb2.VARIANT_STABLE, policy_pb2.COHORT_CONTROL, 4),
    (CANARY, policy_pb2.VARIANT_CANARY, policy_pb2.COHORT_CHOSEN, 1),
)
"""Version, variant, cohort, and how many times as many requests as the canary's there are."""


class _Clock:
    """Unix time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = time.time()

    def __call__(self) -> float:
        return self.now_s


def main() -> None:
    """Serve until the input ends."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    uvloop.run(_serve())


async def _serve() -> None:
    clock, chance = _Clock(), Random(1)
    pools = [_pool(*cohort, chance) for cohort in COHORTS]
    settings = Settings(
        insecure=True, listen=ANY_PORT, admin_listen=ANY_PORT, metrics_listen="", drain_s=0.1
    )
    async with running(settings, clock) as service:
        print(service.admin_address, flush=True)
        async with grpc.aio.insecure_channel(service.decision_address) as channel:
            stub: Any = decision_pb2_grpc.DecisionServiceStub(channel)
            while line := await asyncio.to_thread(sys.stdin.readline):
                clock.now_s += 1
                await _tell(stub, json.loads(line), f"{clock.now_s:.0f}", pools, chance)
                print("told", flush=True)


async def _tell(
    stub: Any,
    releases: Mapping[str, str],
    second: str,
    pools: Sequence[Sequence[pb.OutcomeSeries]],
    chance: Random,
) -> None:
    keys = list(releases)
    for start in range(0, len(keys), IN_BATCH):
        request = pb.ReportOutcomesRequest(batch_id=f"{second}-{start}")
        for key in keys[start : start + IN_BATCH]:
            _write(request, key, releases[key], pools, chance)
        await stub.ReportOutcomes(request)


def _write(
    request: pb.ReportOutcomesRequest,
    key: str,
    release: str,
    pools: Sequence[Sequence[pb.OutcomeSeries]],
    chance: Random,
) -> None:
    """One more second of traffic of one release."""
    for pool in pools:
        series = request.series.add()
        series.CopyFrom(pool[chance.randrange(len(pool))])
        series.service_key, series.release_id = key, release


def _pool(
    version: str, variant: Any, cohort: Any, times: int, chance: Random
) -> list[pb.OutcomeSeries]:
    """Some seconds of a cohort, each another; drawn once, for drawing takes time."""
    return [
        _second(version, variant, cohort, chance.randint(1, MOST_REQUESTS * times), chance)
        for _ in range(SECONDS_IN_POOL)
    ]


def _second(
    version: str, variant: Any, cohort: Any, requests: int, chance: Random
) -> pb.OutcomeSeries:
    request, upstream = Histogram(), Histogram()
    for _ in range(requests):
        took_us = int(chance.lognormvariate(10.5, 0.8))
        upstream.add(took_us)
        request.add(took_us + int(chance.lognormvariate(7, 0.5)))
    failed = sum(chance.random() < ERRORS for _ in range(requests))
    return pb.OutcomeSeries(
        version=version,
        variant=variant,
        cohort=cohort,
        statuses={200: requests - failed, **({500: failed} if failed else {})},
        request=_message(request),
        upstream=_message(upstream),
    )


def _message(histogram: Histogram) -> pb.LatencyHistogram:
    pairs = list(histogram)
    return pb.LatencyHistogram(
        buckets=[bucket for bucket, _ in pairs],
        counts=[count for _, count in pairs],
        sum_us=histogram.sum_us,
    )


if __name__ == "__main__":
    main()
