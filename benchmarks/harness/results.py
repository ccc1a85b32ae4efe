"""Rounds, medians, ratios and goals: written as JSON for machines and as a table for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A limit on a value, or on its ratio to the baseline."""

    limit: float
    of: str = "ratio"
    at_most: bool = False

    def holds(self, row: Row) -> bool:
        """Whether the row reaches it."""
        measured = row.value if self.of == "value" else row.ratio
        if measured is None:
            return False
        return measured <= self.limit if self.at_most else measured >= self.limit

    def __str__(self) -> str:
        return f"{self.of} {'<=' if self.at_most else '>='} {self.limit:,g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing measured, beside what it is measured against."""

    name: str
    value: float
    unit: str
    baseline: str = ""
    baseline_value: float | None = None
    ratio: float | None = None
    goal: Goal | None = None

    def as_json(self) -> dict[str, Any]:
        """The row as it is written."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "baseline": self.baseline,
            "baseline_value": self.baseline_value,
            "ratio": self.ratio,
            "goal": str(self.goal) if self.goal else "",
            "holds": self.goal.holds(self) if self.goal else None,
        }


def in_rounds(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each contender measured in each round; they take turns, so that noise hits all."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        # Every other round backwards: nobody always runs after the same neighbour.
        for name in list(contenders) if number % 2 == 0 else reversed(list(contenders)):
            found[name].append(contenders[name]())
    return found


def row(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    baseline: str = "",
    against: Sequence[float] = (),
    goal: Goal | None = None,
) -> Row:
    """Medians over rounds; the ratio is the median of the rounds' ratios."""
    return Row(
        name=name,
        value=median(values),
        unit=unit,
        baseline=baseline,
        baseline_value=median(against) if against else None,
        ratio=median(a / b for a, b in zip(values, against, strict=True)) if against else None,
        goal=goal,
    )


def report(suite: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> None:
    """Write benchmarks/results/SUITE.json and print the table."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps([row.as_json() for row in rows], indent=2) + "\n"
    (RESULTS / f"{suite}.json").write_text(text)
    lines = [("", "measured", "baseline", "", "ratio", "goal", "holds")]
    for row in rows:
        known = row.baseline_value is not None
        lines.append(
            (
                row.name,
                _quantity(row.value, row.unit),
                _quantity(row.baseline_value or 0, row.unit) if known else "",
                row.baseline,
                f"{row.ratio:.2f}" if row.ratio is not None else "",
                str(row.goal or ""),
                ("yes" if row.goal.holds(row) else "NO") if row.goal else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    for note in notes:
        print(f"note: {note}")
    sys.stdout.flush()


def _quantity(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
