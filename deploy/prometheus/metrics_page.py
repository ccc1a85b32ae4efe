"""Makes docs/metrics.md from the registries of the programs themselves.

Usage: python deploy/prometheus/metrics_page.py [OUT]; OUT is docs/metrics.md unless given.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from canary_controller.metrics import Metrics as ControllerMetrics
from canary_plugin.app import show_gauges
from canary_plugin.metrics import Metrics as PluginMetrics
from canary_plugin.troubles import Troubles
from decision_svc.metrics import Metrics as DecisionMetrics
from prometheus_client import CollectorRegistry

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "metrics.md"
HEAD = """# Metrics

Every metric that a program of this product shows to Prometheus. This page is made by
`python deploy/prometheus/metrics_page.py`; a test holds it to the programs.

Counters end in `_total` where Prometheus reads them; of a histogram it reads `_bucket`, `_sum` and
`_count`. Times are seconds.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program, where it shows its metrics, and how."""

    name: str
    where: str
    registry: CollectorRegistry


def programs() -> list[Program]:
    """All programs that show metrics."""
    plugin = PluginMetrics(Troubles(time.monotonic))
    nobody: Any = SimpleNamespace(policies=(), age_s=0.0)
    show_gauges(plugin, nobody, (), ())
    return [
        Program(
            name="Decision service",
            where="`canary-decision-svc --metrics-listen`, 127.0.0.1:9464 by default",
            registry=DecisionMetrics().registry,
        ),
        Program(
            name="Plugin server",
            where="`canary-plugin-server --metrics-listen`, 127.0.0.1:9465 by default",
            registry=plugin.registry,
        ),
        Program(
            name="Controller",
            where="`canary-controller --metrics-listen`, 127.0.0.1:9466 by default",
            registry=ControllerMetrics().registry,
        ),
    ]


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for program in programs():
        lines = [
            f"## {program.name}",
            "",
            f"At {program.where}.",
            "",
            "| metric | type | labels | what |",
            "|---|---|---|---|",
            *_rows(program.registry),
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _rows(registry: CollectorRegistry) -> Iterator[str]:
    labels = dict(_labels(registry))
    for family in sorted(registry.collect(), key=lambda family: family.name):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        named = ", ".join(f"`{label}`" for label in labels[family.name])
        yield f"| `{name}` | {family.type} | {named} | {family.documentation} |"


def _labels(registry: CollectorRegistry) -> Iterator[tuple[str, Iterable[str]]]:
    """Label names of every family: of the collector, or of the family where one makes several."""
    for collector in list(registry._collector_to_names):
        for family in collector.collect():
            own = getattr(collector, "_labelnames", None)
            yield family.name, own if own is not None else getattr(family, "_labelnames", ())


def main() -> None:
    """Write the page."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    out.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
