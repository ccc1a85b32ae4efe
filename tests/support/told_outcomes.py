"""Gateways that tell a service of a release's outcomes, without any gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2 as policy_pb

from support.calls import CANARY, SHOP, STABLE, Calls


@asynccontextmanager
async def good_outcomes(calls: Calls) -> AsyncIterator[None]:
    """Both sides answer every request with 200, and that is told again and again."""
    release = (await calls.policy())["release"]["id"]

    async def tell() -> None:
        for number in count():
            await calls.decision.ReportOutcomes(_batch(number, release))
            await asyncio.sleep(0.1)  # what is simulated, not a wait for something

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


def _batch(number: int, release: str) -> pb.ReportOutcomesRequest:
    sides = (
        (CANARY, policy_pb.VARIANT_CANARY, policy_pb.COHORT_DRAWN),
        (STABLE, policy_pb.VARIANT_STABLE, policy_pb.COHORT_CONTROL),
    )
    series = [
        pb.OutcomeSeries(
            service_key=SHOP,
            version=version,
            variant=variant,
            release_id=release,
            cohort=cohort,
            statuses={200: 20},
            request=pb.LatencyHistogram(buckets=[300], counts=[20], sum_us=8_000),
        )
        for version, variant, cohort in sides
    ]
    return pb.ReportOutcomesRequest(batch_id=f"batch-{number}", series=series)
