"""Outcomes to the decision service: a batch a second, the same one until it is acknowledged.

A batch that failed may have been counted, so it is sent again under the same id and to the same
service; what is heard meanwhile gathers behind it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import starmap
from typing import TYPE_CHECKING

import grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2 as policy_pb
from canary_engine.histogram import Histogram

from canary_plugin.outcomes.aggregate import MAX_BATCH, Aggregate, Batch, Entry, Uncounted
from canary_plugin.outcomes.ledger import Ledger
from canary_plugin.outcomes.noted import MAX_MARKS, NOTHING, Noted, Pair, Served
from canary_plugin.troubles import Troubles

if TYPE_CHECKING:
    from canary.decision.v1.decision_pb2_grpc import DecisionServiceAsyncStub

log = logging.getLogger("canary_plugin")

EVERY_S = 1.0
DEADLINE_S = 2.0
# In one go; the rest waits for the next second.
MAX_BATCHES = 10
# A service that fails that often is given up for the next one, and its memory with it.
MAX_FAILURES = 3
# A service that has just started hears of its service keys within moments, or never.
PATIENCE_S = 30.0

# The service would say the same of the same batch for ever.
_HOPELESS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


class Sender:
    """Tells the services in turn, beginning with the first."""

    def __init__(
        self,
        stubs: Sequence[DecisionServiceAsyncStub],
        aggregate: Aggregate,
        ledger: Ledger,
        troubles: Troubles,
        gateway: str,
        noted: Noted | None = None,
        *,
        every_s: float = EVERY_S,
    ) -> None:
        self._stubs, self._aggregate, self._ledger = stubs, aggregate, ledger
        self._troubles, self._gateway, self._every_s = troubles, gateway, every_s
        self._noted = noted or Noted()
        self._at = self._failures = 0
        self._unsent: Batch | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a batch is not acknowledged yet."""
        return self._unsent is not None

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            self._ledger.expire()
            await self.flush()

    async def close(self) -> None:
        """Send what there is, and say what could not be sent."""
        self._ledger.give_up()
        await self.flush()
        left = self._unsent or self._aggregate.take()
        if left is not None:
            requests = sum(entry.tally.requests for entry in left.entries)
            log.warning("the outcomes of %d requests could not be told", requests)

    async def flush(self, deadline_s: float = DEADLINE_S) -> None:
        """Send all there is, or as much as the service takes."""
        for _ in range(MAX_BATCHES):
            batch = self._unsent or await self._next()
            if batch is None:
                return
            self._unsent = batch
            try:
                message = self._message(batch)
                response = await self._stubs[self._at].ReportOutcomes(message, timeout=deadline_s)
            except grpc.aio.AioRpcError as error:
                self._failed(batch, error)
                return
            except Exception as error:  # whatever it is, the sender must go on
                self._troubles.count("outcomes-unsent", f"{type(error).__name__}: {error}")
                return
            self._failures = 0
            self._unsent = None
            if response.unknown_service_keys:
                self._unsent = self._without(batch, frozenset(response.unknown_service_keys))
            elif len(batch.entries) < MAX_BATCH and batch.notes.users < MAX_MARKS:
                return

    async def _next(self) -> Batch | None:
        """The oldest outcomes there are, with what else was noted; None if there is nothing."""
        notes = await self._noted.take()
        batch = self._aggregate.take()
        if batch is None:
            return Batch(id=secrets.token_hex(16), notes=notes) if notes != NOTHING else None
        return replace(batch, notes=notes)

    def _without(self, batch: Batch, unknown: frozenset[str]) -> Batch:
        """The batch that was refused whole, without what the service does not know."""
        refused = [entry for entry in batch.entries if entry.labels.service_key in unknown]
        for entry in refused:
            if self._aggregate.age_s(entry) < PATIENCE_S:
                self._aggregate.give_back(entry)
            else:
                self._aggregate.drop(entry)
                self._troubles.count("outcomes-unknown", "the service knows no such service key")
        kept = tuple(entry for entry in batch.entries if entry not in refused)
        return replace(batch, id=secrets.token_hex(16), entries=kept)

    def _failed(self, batch: Batch, error: grpc.aio.AioRpcError) -> None:
        self._troubles.count("outcomes-unsent", f"{error.code().name}: {error.details()}")
        if error.code() in _HOPELESS:
            for entry in batch.entries:
                self._aggregate.drop(entry)
            self._aggregate.skip_all(batch.uncounted)
            self._noted.miss(batch.notes.users + batch.notes.unexposed)
            self._unsent = None
            return
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            self._at, self._failures = (self._at + 1) % len(self._stubs), 0

    def _message(self, batch: Batch) -> pb.ReportOutcomesRequest:
        uncounted = batch.uncounted
        return pb.ReportOutcomesRequest(
            batch_id=batch.id,
            gateway=self._gateway,
            series=map(self._series, batch.entries),
            unlabelled=uncounted.get(Uncounted.UNLABELLED, 0),
            foreign=uncounted.get(Uncounted.FOREIGN, 0),
            garbage=uncounted.get(Uncounted.GARBAGE, 0),
            dropped=uncounted.get(Uncounted.DROPPED, 0),
            served=starmap(_served, batch.notes.served),
            shadows=starmap(_shadow, batch.notes.shadows),
            unexposed=batch.notes.unexposed,
        )

    def _series(self, entry: Entry) -> pb.OutcomeSeries:
        labels, tally = entry.labels, entry.tally
        return pb.OutcomeSeries(
            service_key=labels.service_key,
            version=labels.version,
            variant=policy_pb.Variant.Value(f"VARIANT_{labels.variant.name}"),
            release_id=labels.release_id,
            age_s=int(self._aggregate.age_s(entry)),
            statuses=tally.statuses,
            request=_histogram(tally.request),
            upstream=_histogram(tally.upstream),
            lost=tally.lost,
            cohort=policy_pb.Cohort.Value(f"COHORT_{labels.cohort.upper()}"),
        )


def _served(served: Served, marks: Sequence[int]) -> pb.Served:
    return pb.Served(
        service_key=served.service_key,
        release_id=served.release_id,
        variant=policy_pb.Variant.Value(f"VARIANT_{served.variant.name}"),
        marks=marks,
    )


def _shadow(pair: Pair, requests: int) -> pb.ShadowTally:
    tally = pb.ShadowTally(
        service_key=pair.service_key,
        in_force=policy_pb.Variant.Value(f"VARIANT_{pair.in_force.name}"),
        in_force_reason=policy_pb.Reason.Value(f"REASON_{pair.in_force_reason.name}"),
        shadow=policy_pb.Variant.Value(f"VARIANT_{pair.shadow.name}"),
        shadow_reason=policy_pb.Reason.Value(f"REASON_{pair.shadow_reason.name}"),
        requests=requests,
    )
    tally.expires_at.FromDatetime(pair.expires_at)
    return tally


def _histogram(histogram: Histogram) -> pb.LatencyHistogram:
    pairs = list(histogram)
    return pb.LatencyHistogram(
        buckets=[bucket for bucket, _ in pairs],
        counts=[count for _, count in pairs],
        sum_us=histogram.sum_us,
    )
