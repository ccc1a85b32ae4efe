"""The page of all metrics says what the programs show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_metrics_is_what_the_programs_show(tmp_path: Path) -> None:
    made = tmp_path / "metrics.md"
    generator = ROOT / "deploy" / "prometheus" / "metrics_page.py"
    subprocess.run([sys.executable, str(generator), str(made)], check=True)
    expected = (ROOT / "docs" / "metrics.md").read_text()
    assert made.read_text() == expected, "run: .venv/bin/python deploy/prometheus/metrics_page.py"
