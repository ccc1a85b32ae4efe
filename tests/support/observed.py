"""A running stack as our Prometheus sees it: with the jobs and rules of deploy/prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml
from dev_stack.stack import ROOT, Stack

from support.prometheus_server import PrometheusServer, running_prometheus

FOLDER = ROOT / "deploy" / "prometheus"
ASKED_WITHIN_S = 60.0
_SHOWN = re.compile(r"\bmetrics\W+(127\.0\.0\.1:\d+)")


class Observed:
    """Answers by the HTTP API that dashboards use."""

    def __init__(self, server: PrometheusServer) -> None:
        self.url = server.url

    def query(self, text: str) -> list[dict[str, Any]]:
        """The samples of an instant query. Raises HTTPError if it cannot be read."""
        found: list[dict[str, Any]] = self._ask("query", {"query": text})["result"]
        return found

    def label_values(self, metric: str, label: str) -> list[str]:
        """The values that a label of a metric has."""
        found: list[str] = self._ask(f"label/{label}/values", {"match[]": metric})
        return found

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with how their newest evaluation went."""
        return [rule for group in self._ask("rules", {})["groups"] for rule in group["rules"]]

    def targets(self) -> Mapping[str, str]:
        """By job, how its target is."""
        found = self._ask("targets", {})["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in found}

    def _ask(self, what: str, fields: Mapping[str, str]) -> Any:
        url = f"{self.url}/api/v1/{what}?{urlencode(fields)}"
        with urlopen(url, timeout=ASKED_WITHIN_S) as answer:
            return json.load(answer)["data"]


@contextmanager
def observing(stack: Stack) -> Iterator[Observed]:
    """Prometheus beside a stack with a controller, scraping twice a second."""
    addresses = {
        "canary-decision-svc": stack.metrics_address,
        "canary-plugin-server": shown_at(stack.plugin.output()),
        "canary-controller": shown_at(stack.controller.output()),
    }
    with running_prometheus(config=config(addresses)) as server:
        yield Observed(server)


def shown_at(output: str) -> str:
    """Where a program says that it shows its metrics."""
    found = _SHOWN.search(output)
    assert found, f"no metrics are shown:\n{output}"
    return found[1]


def config(addresses: Mapping[str, str]) -> str:
    """The config of docker-compose.yml, with other targets and less patience."""
    document = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    document["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    document["rule_files"] = [str(FOLDER / "rules" / "*.yml")]
    jobs = [job["job_name"] for job in document["scrape_configs"]]
    assert sorted(jobs) == sorted(addresses)
    document["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [addresses[job]]}]} for job in jobs
    ]
    return yaml.safe_dump(document)
