"""The engine's own judge on releases of a stream, looking every second as the controller does."""

from __future__ import annotations

import numpy as np
from canary_engine.histogram import Histogram
from canary_engine.judge.evidence import begin, follow
from canary_engine.judge.findings import Ground, compared
from canary_engine.judge.measures import Consequence, Measure
from canary_engine.judge.slots import Side, Slot
from numpy.typing import NDArray

from judging.ours import Floats
from judging.streams import BUCKETS, SLOT_S, Sides, Stream


def watch(stream: Stream, measures: tuple[Measure, ...], release: int) -> tuple[int, Floats]:
    """When the engine rolls the release back, -1 never, and its e-values: measures x seconds."""
    cell = stream.cell
    seconds = cell.seconds if cell.dead_from is None else cell.dead_from * 60
    evidence, at_s = begin(measures), -1
    e_values = np.ones((len(measures), cell.seconds))
    for second in range(seconds):
        start = second - second % SLOT_S
        slot = Slot(
            start_s=start,
            canary=_side(stream.canary, release, slice(start, second + 1)),
            control=_side(stream.control, release, slice(start, second + 1)),
        )
        after = follow(evidence, (slot,))[-1].after
        found = compared(after)
        e_values[:, second] = [one.e_value for one in found]
        is_over = any(
            one.ground is Ground.WORSE and one.consequence is Consequence.ROLL_BACK for one in found
        )
        at_s = second if is_over and at_s < 0 else at_s
        if second % SLOT_S == SLOT_S - 1:
            evidence = after
    return at_s, e_values


def _side(side: Sides, release: int, part: slice) -> Side:
    latencies: NDArray[np.int64] = side.latencies[release, part].sum(axis=0, dtype=np.int64)
    places = zip(BUCKETS, latencies, strict=True)
    return Side(
        requests=int(side.requests[release, part].sum()),
        errors=int(side.errors[release, part].sum()),
        client_errors=int(side.client_errors[release, part].sum()),
        latency=Histogram({int(bucket): int(n) for bucket, n in places if n}),
    )
