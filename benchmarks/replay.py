"""Replay: lines of an access log a second, by the whole command as an operator runs it.

Beside it stands the processor time of a line, which tells more where others use the same cores:
two cores have 20 µs for each of 100,000 lines a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

from harness import logs
from harness.policies import policy
from harness.results import Goal, Row, in_rounds, report, row

LINES = 500_000
ROUNDS = 3
JOBS = 2
DEADLINE_S = 300.0
VISITS = {"visits of ten requests": 10, "nobody comes twice": 1}
SPEED = Goal(of="value", limit=100_000)
COST = Goal(of="value", limit=JOBS * 1e6 / SPEED.limit, at_most=True)


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory(prefix="canary-bench-") as name:
        folder = Path(name)
        replays, sizes = {}, []
        for kind, line in logs.FORMATS.items():
            for who, visit in VISITS.items():
                log = folder / f"{kind}-{visit}.log"
                logs.write(log, line, LINES, visit)
                replays[f"{kind}, {who}"] = Replay(command=_command(folder, log))
            sizes.append(f"{kind} {log.stat().st_size / LINES:.0f}")
        speeds = in_rounds(replays, ROUNDS)
    rows: list[Row] = []
    for name, replay in replays.items():
        rows.append(row(name, speeds[name], "lines/s", goal=SPEED))
        rows.append(row(f"{name}: processor", replay.costs, "µs/line", goal=COST))
    about = f"{LINES:,} lines, decided by two policies with {JOBS} workers, whose start is counted"
    report("replay", rows, [about, f"bytes a line: {', '.join(sizes)}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One command, and what it has cost each time: µs of processor time a line."""

    command: list[str]
    costs: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        """Lines a second, as the command says."""
        before_s = _spent_s()
        done = subprocess.run(
            self.command, capture_output=True, text=True, timeout=DEADLINE_S, check=True
        )
        self.costs.append((_spent_s() - before_s) / LINES * 1e6)
        found = json.loads(done.stdout)
        _check(found)
        return float(found["lines_per_second"])


def _command(folder: Path, log: Path) -> list[str]:
    now, proposed = _written(folder, "now", 5), _written(folder, "proposed", 20)
    command = [sys.executable, "-m", "canaryctl", "--output", "json", "replay", "--jobs", str(JOBS)]
    return [*command, "--against", now, "--policy", proposed, str(log)]


def _written(folder: Path, name: str, percentage: float) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(policy(percentage=percentage)))
    return str(path)


def _spent_s() -> float:
    """Processor time of all processes that have ended, and their workers."""
    usage = getrusage(RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _check(found: dict[str, Any]) -> None:
    """Every line must have been decided, and some people must move."""
    moved = next(w["requests"] for w in found["moved"] if w["way"] == "stable-to-canary")
    if found["requests"] != LINES or not moved:
        raise SystemExit(f"replay: not every line was decided: {found}")


if __name__ == "__main__":
    main()
