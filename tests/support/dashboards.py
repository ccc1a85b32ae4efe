"""What the dashboards of deploy/grafana ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query of one panel."""

    dashboard: str
    panel: str
    text: str
    legend: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.text}"


def read(file: Path) -> dict[str, Any]:
    """A dashboard."""
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def queries() -> Iterator[Asked]:
    """Every query of every panel, as it stands in the files."""
    for file in FILES:
        for panel in read(file)["panels"]:
            for target in panel["targets"]:
                yield Asked(
                    dashboard=file.stem,
                    panel=panel["title"],
                    text=target["expr"],
                    legend=target["legendFormat"],
                )


def variables() -> Iterator[tuple[str, dict[str, Any]]]:
    """By dashboard, its variables that Prometheus is asked for."""
    for file in FILES:
        for variable in read(file)["templating"]["list"]:
            if variable["type"] == "query":
                yield file.stem, variable
