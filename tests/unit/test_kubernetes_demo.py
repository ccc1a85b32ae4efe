"""The demo fits on a small cluster, and its Redis refuses before it is killed."""

from __future__ import annotations

import pytest
from support.manifests import Object, containers, of_kind, pods

# A cluster of one node with four cores keeps about one for itself.
CPU, MEMORY = 2.0, 3 * 2**30
UNITS = {"m": 0.001, "Mi": 2**20, "Gi": 2**30}


def amount(quantity: str) -> float:
    """A quantity as the API writes it, in CPUs or bytes."""
    number = quantity.rstrip("miMG")
    unit = quantity.removeprefix(number)
    return float(number) * UNITS[unit] if unit else float(number)


def most(overlay: str, name: str) -> int:
    """How many pods a workload has at most, one more while a Deployment is replaced."""
    workload = of_kind(overlay, "Deployment", "StatefulSet")[name]
    scaler = of_kind(overlay, "HorizontalPodAutoscaler").get(name)
    steady = int(scaler["spec"]["maxReplicas"] if scaler else workload["spec"]["replicas"])
    return steady + 1 if workload["kind"] == "Deployment" else steady


def asked(container: Object, resource: str) -> float:
    return amount(container["resources"]["requests"][resource])


@pytest.mark.parametrize(("resource", "limit"), [("cpu", CPU), ("memory", MEMORY)])
def test_it_asks_for_no_more_than_a_laptop_s_cluster_has(resource: str, limit: float) -> None:
    total = sum(
        asked(container, resource) * most("demo", found.name)
        for found, container in containers("demo")
    )
    assert limit / 4 < total <= limit


def test_the_page_says_what_it_asks_for_at_first() -> None:
    def first(name: str) -> int:
        scaler = of_kind("demo", "HorizontalPodAutoscaler").get(name)
        workload = of_kind("demo", "Deployment", "StatefulSet")[name]["spec"]
        return int(scaler["spec"]["minReplicas"] if scaler else workload["replicas"])

    def total(resource: str) -> float:
        return sum(asked(c, resource) * first(found.name) for found, c in containers("demo"))

    assert total("cpu") < 1
    assert total("memory") < 2 * 2**30


@pytest.mark.parametrize("overlay", ["demo", "production"])
def test_nobody_asks_for_more_than_its_limit(overlay: str) -> None:
    for found, container in containers(overlay):
        for resource, limit in container["resources"]["limits"].items():
            assert asked(container, resource) <= amount(limit), found.name


def test_its_redis_is_full_before_the_container_is() -> None:
    container = pods("demo")["redis"].container("redis")
    arguments = container["args"]
    memory = arguments[arguments.index("--maxmemory") + 1]
    assert memory.endswith("mb")
    limit = amount(container["resources"]["limits"]["memory"])
    # While it rewrites its file, a copy of what changes meanwhile is there besides.
    assert int(memory.removesuffix("mb")) * 2**20 <= limit / 2
    assert arguments[arguments.index("--maxmemory-policy") + 1] == "noeviction"
