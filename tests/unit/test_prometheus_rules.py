"""Prometheus accepts scrape configs and rules; each alert fires when it should, with a runbook."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.manifests import NAMESPACE, pods

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yml"))
CASES = sorted((FOLDER / "tests").glob("*.yml"))
OURS = re.compile(r"\bcanary_[a-z0-9_]+")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules of a kind: alert or record."""
    return [
        rule
        for file in RULES
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if kind in rule
    ]


def test_prometheus_accepts_the_rules() -> None:
    done = promtool("check", "rules", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_config_of_compose_and_finds_the_rules_beside_it() -> None:
    done = promtool("check", "config", FOLDER / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rule files found" in done.stdout


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_rules_do_what_their_cases_say(case: Path) -> None:
    done = promtool("test", "rules", case)
    assert done.returncode == 0, done.stdout + done.stderr


def firing() -> Iterator[str]:
    for case in CASES:
        for test in yaml.safe_load(case.read_text())["tests"]:
            for expected in test.get("alert_rule_test", []):
                if expected["exp_alerts"]:
                    yield expected["alertname"]


def test_a_case_shows_each_alert_firing() -> None:
    assert sorted({rule["alert"] for rule in rules("alert")} - set(firing())) == []


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as they are made of their words."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_every_alert_has_a_severity_a_summary_and_a_runbook_that_is_there(
    rule: dict[str, Any],
) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"]
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in anchors(page)


def shown() -> set[str]:
    """Every metric that a program shows, by the names that Prometheus reads."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    found = re.findall(r"^\| `(\w+)` \| (\w+)", page, re.MULTILINE)
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + part for name, kind in found for part in parts.get(kind, ("",))}


def test_rules_ask_only_for_metrics_that_a_program_shows() -> None:
    recorded = {rule["record"] for rule in rules("record")}
    known = shown() | {name.split(":")[1] for name in recorded}
    asked = {name for r in rules("alert") + rules("record") for name in OURS.findall(r["expr"])}
    assert asked - known == set()
    used = " ".join(r["expr"] for r in rules("alert") + rules("record"))
    assert [name for name in recorded if name not in used and not is_drawn(name)] == []


def is_drawn(name: str) -> bool:
    """Whether a dashboard shows a recorded series."""
    return any(name in file.read_text() for file in (ROOT / "deploy/grafana").rglob("*.json"))


def discovered() -> list[dict[str, Any]]:
    """The targets that Prometheus makes of the production overlay's pods: one for each port."""
    return [
        {
            "targets": [f"{name}:{port['containerPort']}"],
            "labels": {
                "__meta_kubernetes_pod_name": name,
                "__meta_kubernetes_pod_label_app_kubernetes_io_name": found.labels.get(
                    "app.kubernetes.io/name", ""
                ),
                "__meta_kubernetes_pod_container_port_name": port["name"],
                "__meta_kubernetes_pod_phase": phase,
            },
        }
        for name, found in pods("production").items()
        for container in found.containers
        for port in container.get("ports", [])
        for phase in ("Running", "Succeeded")
    ]


def test_in_kubernetes_each_job_keeps_just_the_ports_of_its_program(tmp_path: Path) -> None:
    document = yaml.safe_load((FOLDER / "kubernetes.yml").read_text())
    told = tmp_path / "told.json"
    told.write_text(json.dumps(discovered()))
    for job in document["scrape_configs"]:
        # Debian's Prometheus cannot ask Kubernetes: it gets what it would have been told.
        (asked,) = job.pop("kubernetes_sd_configs")
        assert asked == {"role": "pod", "namespaces": {"names": [NAMESPACE]}}
        job["file_sd_configs"] = [{"files": [str(told)]}]
    document["rule_files"] = [str(file) for file in RULES]
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(document))
    assert promtool("check", "config", config).returncode == 0
    jobs = [job["job_name"] for job in document["scrape_configs"]]
    with ThreadPoolExecutor(len(jobs)) as at_once:
        kept = dict(zip(jobs, at_once.map(partial(scraped, config), jobs), strict=True))
    assert kept == {
        "canary-decision-svc": [("decision-svc", "decision-svc:9464")],
        "canary-plugin-server": [("kong", "kong:9465")],
        "canary-controller": [("controller", "controller:9466")],
    }


def scraped(config: Path, job: str) -> list[tuple[str, str]]:
    # It always looks for as long as it is told to, and says what it has found by then.
    found = json.loads(
        promtool("check", "service-discovery", "--timeout", "5s", config, job).stdout
    )
    return [(t["labels"]["pod"], t["labels"]["instance"]) for t in found if t["labels"]]


def test_compose_and_kubernetes_name_the_jobs_alike() -> None:
    def jobs(file: str) -> list[str]:
        document = yaml.safe_load((FOLDER / file).read_text())
        return [job["job_name"] for job in document["scrape_configs"]]

    assert jobs("prometheus.yml") == jobs("kubernetes.yml")
    named = set(re.findall(r'job="([\w-]+)"', " ".join(r["expr"] for r in rules("alert"))))
    assert named == set(jobs("prometheus.yml"))
