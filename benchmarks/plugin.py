"""The plugin server without a gateway: events a second against kong-pdk's with an empty plugin."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

from harness.kong_side import Kong
from harness.policies import header_policy, visitors
from harness.results import Goal, Row, report, row
from harness.servers import EMPTY, empty_plugin_server, plugin_server, takes
from harness.service import service

ROUNDS = 9
SECONDS = 0.7
IN_FLIGHT = (16, 64)
GOALS = {"local": 1.1, "remote": 0.7}


def main() -> None:
    """Measure and report."""
    notes = [f"policy of 4 header and cookie rules and a percentage; {ROUNDS} rounds"]
    deciders = [name for name in GOALS if name == "remote" or takes("--decider")]
    if "local" not in deciders:
        notes.append("local left out: this plugin server has no --decider option")
    with tempfile.TemporaryDirectory(prefix="canary-bench-") as folder, ExitStack() as stack:
        run_dir = Path(folder)
        address = stack.enter_context(service(run_dir, header_policy())).address
        sockets = {EMPTY: stack.enter_context(empty_plugin_server(run_dir))}
        for name in deciders:
            sockets[name] = stack.enter_context(plugin_server(run_dir, address, name))
        _measure(sockets, notes)


def _measure(sockets: dict[str, Path], notes: list[str]) -> None:
    people = visitors(512)
    kongs = {}
    for name, path in sockets.items():
        kong = kongs[name] = Kong(path, "empty" if name == EMPTY else "canary-release", people)
        kong.start(max(IN_FLIGHT))
        kong.run(16, SECONDS)  # warm, not counted
    found: dict[tuple[str, int], list[float]] = {}
    halves: dict[str, list[float]] = {name: [] for name in kongs}
    tails: dict[str, list[float]] = {name: [] for name in kongs}
    plain: dict[str, list[tuple[float, float]]] = {name: [] for name in kongs}
    for _ in range(ROUNDS):
        for in_flight in IN_FLIGHT:
            for name, kong in kongs.items():
                rate, took, of_one_call = kong.run(in_flight, SECONDS)
                found.setdefault((name, in_flight), []).append(rate)
                if in_flight == IN_FLIGHT[0]:
                    halves[name].append(median(took) * 1_000)
                    tails[name].append(_p99(took) * 1_000)
                    plain[name].append((median(of_one_call), _p99(of_one_call)))
    rows: list[Row] = []
    for name, kong in kongs.items():
        kong.close()
        if name == EMPTY:
            continue
        for in_flight in IN_FLIGHT:
            rows.append(
                row(
                    f"{name}, {in_flight} in flight",
                    found[name, in_flight],
                    "events/s",
                    baseline=EMPTY,
                    against=found[EMPTY, in_flight],
                    goal=Goal(limit=GOALS[name]),
                )
            )
        rows.append(
            row(
                f"{name}, {IN_FLIGHT[0]} in flight, p99",
                tails[name],
                "ms",
                baseline="its p50",
                against=halves[name],
                goal=Goal(limit=2.0, at_most=True),
            )
        )
        rows.append(
            row(
                f"{name}, {IN_FLIGHT[0]} in flight, p99 of events with one call",
                [p99 * 1_000 for _, p99 in plain[name]],
                "ms",
                baseline="their p50",
                against=[p50 * 1_000 for p50, _ in plain[name]],
            )
        )
    rows.append(row(f"{EMPTY}, p99", tails[EMPTY], "ms", baseline="its p50", against=halves[EMPTY]))
    report("plugin", rows, notes)


def _p99(took: Sequence[float]) -> float:
    return quantiles(took, n=100)[98]


if __name__ == "__main__":
    main()
