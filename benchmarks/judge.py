"""Four judges on the same simulated releases: who rolls back what, how soon, at whose cost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from time import perf_counter
from typing import Any

import numpy as np
from canary_engine.judge.measures import Measure, measures
from harness.results import RESULTS, Goal, Row, report
from judging import engine, others, ours
from judging.streams import DOUBLED, Cell, Stream, draw, late_share
from numpy.typing import NDArray

RELEASES = int(os.environ.get("JUDGE_RELEASES", "2000"))
PART = 125
PROVEN = 2
"""So many releases of every cell are judged by the engine itself as well."""
SEED = 5
OURS = "ours"
WALD_REQUESTS = 2_148
"""Expected by Wald's test of 0.5 % against 1 %, both known, with errors of 1 % and 5 %."""

_DOUBLE = "errors doubled"
_SLOW = "latency doubled"
CELLS = (
    *(
        Cell(name=f"healthy, {rate * 100:g} % errors", requests=requests, rate=rate)
        for rate in (0.001, 0.005, 0.01, 0.05)
        for requests in (20, 200, 2_000, 20_000)
    ),
    Cell(name="healthy, steady", requests=50, is_plain=True),
    Cell(name="healthy", requests=50),
    Cell(name="healthy", requests=200, weights=(1.0,)),
    Cell(name="healthy", requests=2_000, weights=(50.0,)),
    Cell(name="healthy, walking", requests=200, weights=(1.0, 5.0, 10.0, 25.0, 50.0)),
    Cell(name="healthy, metrics dead after 5 checks", requests=200, dead_from=5),
    Cell(name="errors 5 % more", requests=20_000, risk=1.05),
    Cell(name="errors 10 % more", requests=20_000, risk=1.1),
    *(
        Cell(name=_DOUBLE, requests=2_000, risk=2, weights=(weight,))
        for weight in (1.0, 10.0, 25.0, 50.0)
    ),
    Cell(name=_DOUBLE, requests=200, risk=2),
    *(
        Cell(name=f"{_DOUBLE} from {rate * 100:g} %", requests=2_000, risk=2, rate=rate)
        for rate in (0.001, 0.01, 0.05)
    ),
    *(
        Cell(name=_SLOW, requests=requests, slower=DOUBLED, weights=(weight,))
        for requests, weight in ((20, 10.0), (200, 10.0), (2_000, 10.0), (2_000, 50.0))
    ),
    Cell(name="healthy, errors in threes", requests=2_000, tries=3),
    Cell(name="healthy, errors in threes, attempts 3", requests=2_000, tries=3, clump=3.0),
    Cell(name="errors doubled, in threes, attempts 3", requests=2_000, tries=3, clump=3.0, risk=2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What came of some releases: per judge, -1 or requests until the rollback, and harm."""

    until: dict[str, NDArray[np.int64]]
    harmed: dict[str, NDArray[np.float64]]


def main() -> None:
    """Simulate, prove, report."""
    started, found = perf_counter(), {}
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        for index, cell in enumerate(CELLS):
            numbers = range(RELEASES // PART)
            parts = list(pool.map(_part, repeat(index), numbers))
            found[_title(cell)] = _summary(parts)
            print(f"{perf_counter() - started:6.0f} s  {_title(cell)}")
            print("\n".join(_lines(found[_title(cell)])), flush=True)
            _write(found)
    _report(found)


def _write(found: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"releases_a_cell": RELEASES, "cells": found}, indent=2) + "\n"
    (RESULTS / "judge-cells.json").write_text(text)


def _report(found: dict[str, Any]) -> None:
    notes = [
        f"{RELEASES:,} releases a cell; each cell's judges side by side in judge-cells.json",
        f"{PROVEN} releases of each cell judged by the engine as well, every second the same",
    ]
    report("judge", list(_rows(found)), notes)


def _part(index: int, number: int) -> Part:
    """Some releases of a cell; the first of them are judged by the engine as well."""
    cell, random = CELLS[index], np.random.default_rng([SEED, index, number])
    stream, by = draw(cell, PART, random), measures(clump=cell.clump)
    kept = PROVEN if number == 0 else 0
    looks = ours.watch(stream, by, kept)
    for release in range(kept):
        _prove(stream, by, release, looks)
    at_s = {OURS: looks.at_s, **others.watch(stream)}
    return Part(
        until={name: _requests(stream, when) for name, when in at_s.items()},
        harmed={name: _harmed(stream, when) for name, when in at_s.items()},
    )


def _prove(stream: Stream, by: tuple[Measure, ...], release: int, looks: ours.Looks) -> None:
    at_s, e_values = engine.watch(stream, by, release)
    if at_s != looks.at_s[release] or not np.allclose(
        e_values, looks.e_values[release], rtol=1e-6, atol=0
    ):
        raise SystemExit(f"{stream.cell}: the simulation's judge is not the engine's")


def _requests(stream: Stream, at_s: NDArray[np.int64]) -> NDArray[np.int64]:
    """The canary's requests until the rollback, -1 without."""
    so_far = stream.canary.requests.cumsum(axis=1)
    return np.where(at_s < 0, -1, so_far[np.arange(len(at_s)), at_s])


def _harmed(stream: Stream, at_s: NDArray[np.int64]) -> NDArray[np.float64]:
    """Requests that stable would have served well, until the rollback or the end."""
    cell = stream.cell
    counted = stream.canary.requests if cell.slower else stream.canary.errors
    part = (
        late_share(0.95, cell.slower) - late_share(0.95, 0)
        if cell.slower
        else (cell.risk - 1) / cell.risk
    )
    return part * counted.cumsum(axis=1)[np.arange(len(at_s)), at_s]


def _summary(parts: Sequence[Part]) -> dict[str, dict[str, Any]]:
    summary = {}
    for name in parts[0].until:
        until = np.concatenate([part.until[name] for part in parts])
        harmed = np.concatenate([part.harmed[name] for part in parts])
        rolled = until[until >= 0]
        summary[name] = {
            "rolled_back_percent": round(100 * len(rolled) / len(until), 2),
            "requests_median": round(float(np.median(rolled))) if len(rolled) else None,
            "requests_mean": round(float(rolled.mean())) if len(rolled) else None,
            "harmed_mean": round(float(harmed.mean()), 1),
        }
    return summary


def _lines(summary: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, one in summary.items():
        median, mean = one["requests_median"], one["requests_mean"]
        after = f"after {median:,.0f} median, {mean:,.0f} mean" if median is not None else ""
        harmed = f"harmed {one['harmed_mean']:,.1f}"
        yield f"          {name:14} {one['rolled_back_percent']:7.2f} % {harmed:16} {after}"


def _title(cell: Cell) -> str:
    weights = "-".join(f"{weight:g}" for weight in cell.weights)
    return f"{cell.name}: {cell.requests:,} a check, weight {weights} %"


def _rows(found: dict[str, dict[str, dict[str, Any]]]) -> Iterator[Row]:
    for cell in CELLS:
        title, summary = _title(cell), found[_title(cell)]
        rolled = {name: one["rolled_back_percent"] for name, one in summary.items()}
        goal = _goal_of_rollbacks(cell)
        for name in summary:
            if name != OURS:
                yield Row(
                    name=title,
                    value=rolled[OURS],
                    unit="% rolled back",
                    baseline=name,
                    baseline_value=rolled[name],
                    goal=goal,
                )
        limit = _limit_of_requests(cell)
        if limit:
            yield Row(
                name=title,
                value=summary[OURS]["requests_mean"] or float("inf"),
                unit="requests, mean",
                goal=Goal(of="value", limit=limit, at_most=True),
            )


def _goal_of_rollbacks(cell: Cell) -> Goal | None:
    if cell.dead_from is not None:
        return Goal(of="value", limit=0, at_most=True)
    # Errors that come in threes and are taken for three break what the test assumes.
    is_promised = cell.is_healthy and cell.clump >= cell.tries
    return Goal(of="value", limit=1, at_most=True) if is_promised else None


def _limit_of_requests(cell: Cell) -> float | None:
    """At most so many of the canary's requests until it is found."""
    if cell.name == _DOUBLE and cell.requests >= 2_000:
        weight = cell.weights[0]
        return 2 * (WALD_REQUESTS if weight <= 10 else two_sample_bound(cell))
    return 1_000 if cell.name == _SLOW and cell.requests >= 200 else None


def two_sample_bound(cell: Cell) -> float:
    """Requests that Wald's test needs on average that knows only how the traffic is split.

    Given an error, it is the canary's with a chance of s without and 2 s / (1 + s) with the
    regression; Wald, "Sequential Analysis", 1947, section 3.4, with errors of 1 % and 5 %.
    """
    weight = cell.weights[0]
    control = min(cell.control_times, (100 - weight) / weight)
    share = 1 / (1 + control)
    owned = cell.risk * share / (cell.risk * share + 1 - share)
    nats = owned * np.log(owned / share) + (1 - owned) * np.log((1 - owned) / (1 - share))
    needed = 0.95 * np.log(0.95 / 0.01) + 0.05 * np.log(0.05 / 0.99)
    return float(needed / (nats * cell.rate * (cell.risk + control)))


if __name__ == "__main__":
    main()
