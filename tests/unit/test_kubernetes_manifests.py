"""deploy/kubernetes is valid, and its objects find each other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.manifests import (
    NAMESPACE,
    OVERLAYS,
    WORKLOADS,
    built,
    copied,
    objects,
    of_kind,
    pods,
    selects,
    validate,
)

# The first that starts sidecars before the other containers, and the newest.
VERSIONS = ("1.29", "1.37")

# The seed's, for every deployment of the API.
SEED_PROBES = {
    "livenessProbe": {
        "httpGet": {"path": "/health", "port": 1229},
        "initialDelaySeconds": 30,
        "periodSeconds": 10,
    },
    "readinessProbe": {
        "httpGet": {"path": "/ready", "port": 1229},
        "initialDelaySeconds": 10,
        "periodSeconds": 5,
    },
}
SEED: dict[str, dict[str, Any]] = {
    "stable": {
        "replicas": 10,
        "env": {"NODE_ENV": "production", "VERSION": "v1.2.3"},
        "resources": {
            "requests": {"cpu": "500m", "memory": "512Mi"},
            "limits": {"cpu": "1000m", "memory": "1Gi"},
        },
    },
    "canary": {
        "replicas": 1,
        "env": {"NODE_ENV": "production", "VERSION": "v1.3.0", "CANARY_MODE": "true"},
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "200m", "memory": "256Mi"},
        },
    },
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_the_schemas_of_the_api(overlay: str, version: str) -> None:
    assert len(objects(overlay)) > 20
    for thing in objects(overlay):
        validate(thing, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_refuse_a_field_that_the_api_does_not_know(version: str) -> None:
    wrong = copy.deepcopy(of_kind("demo", "Deployment")["kong"])
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        validate(wrong, version)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_two_objects_have_the_same_name_and_all_are_in_our_namespace(overlay: str) -> None:
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in objects(overlay)]
    assert len(set(names)) == len(names)
    for thing in objects(overlay):
        is_namespace = thing["kind"] == "Namespace"
        place = thing["metadata"]["name" if is_namespace else "namespace"]
        assert place == NAMESPACE


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_workload_selects_its_own_pods_and_nobody_else_s(overlay: str) -> None:
    for name, workload in of_kind(overlay, *WORKLOADS).items():
        selector = workload["spec"]["selector"]
        assert [p.name for p in pods(overlay).values() if selects(selector, p.labels)] == [name]


def selected(overlay: str, service: str) -> list[str]:
    selector = {"matchLabels": of_kind(overlay, "Service")[service]["spec"]["selector"]}
    return sorted(p.name for p in pods(overlay).values() if selects(selector, p.labels))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_service_leads_to_a_port_that_all_its_pods_name(overlay: str) -> None:
    for name, service in of_kind(overlay, "Service").items():
        assert selected(overlay, name)
        for port in service["spec"]["ports"]:
            for found in selected(overlay, name):
                assert port["targetPort"] in pods(overlay)[found].ports, (name, found)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_version_has_a_service_of_its_own_and_one_is_for_both(overlay: str) -> None:
    both = ["yyc3-xy-api-canary", "yyc3-xy-api-stable"]
    assert selected(overlay, "yyc3-xy-api") == both
    for name in both:
        assert selected(overlay, name) == [name]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_disruption_budget_is_for_one_workload_that_can_spare_a_pod(overlay: str) -> None:
    budgets = of_kind(overlay, "PodDisruptionBudget")
    assert {"decision-svc", "controller", "kong", "yyc3-xy-api-stable"} == set(budgets)
    for name, budget in budgets.items():
        selector = budget["spec"]["selector"]
        assert [p.name for p in pods(overlay).values() if selects(selector, p.labels)] == [name]
        # A budget in "at least" form would hold a node for ever where there is one pod alone.
        assert "maxUnavailable" in budget["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_autoscaler_alone_says_how_many_decision_services_there_are(overlay: str) -> None:
    (scaler,) = of_kind(overlay, "HorizontalPodAutoscaler").values()
    target = scaler["spec"]["scaleTargetRef"]
    workload = of_kind(overlay, target["kind"])[target["name"]]
    assert workload["metadata"]["name"] == "decision-svc"
    assert "replicas" not in workload["spec"]
    assert 2 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
    assert "cpu" in workload["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_replicas_of_a_part_keep_apart_from_each_other(overlay: str) -> None:
    for name in ("decision-svc", "controller", "kong"):
        found = pods(overlay)[name]
        anti = found.spec["affinity"]["podAntiAffinity"]
        (term,) = anti["preferredDuringSchedulingIgnoredDuringExecution"]
        assert selects(term["podAffinityTerm"]["labelSelector"], found.labels)
    for name in ("decision-svc", "kong"):
        (spread,) = pods(overlay)[name].spec["topologySpreadConstraints"]
        assert selects(spread["labelSelector"], pods(overlay)[name].labels)
    assert of_kind(overlay, "Deployment")["controller"]["spec"]["replicas"] == 2


@pytest.mark.parametrize("version", SEED)
def test_the_api_is_deployed_as_the_team_deploys_it(version: str) -> None:
    workload = of_kind("production", "Deployment")[f"yyc3-xy-api-{version}"]
    seed = SEED[version]
    labels = {"app": "yyc3-xy-api", "version": version}
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert workload["spec"]["replicas"] == seed["replicas"]
    assert workload["spec"]["selector"]["matchLabels"] == labels
    assert container["image"] == f"registry.yyc3.com/yyc3-xy-api:{seed['env']['VERSION']}"
    assert {v["name"]: v["value"] for v in container["env"]} == seed["env"]
    assert container["resources"] == seed["resources"]
    assert {name: container[name] for name in SEED_PROBES} == SEED_PROBES


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kong_starts_when_the_plugin_server_s_startup_probe_has_succeeded(overlay: str) -> None:
    (sidecar,) = pods(overlay)["kong"].spec["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("plugin-server", "Always")
    assert "startupProbe" in sidecar


def test_a_file_that_changes_replaces_the_pods_that_read_it(tmp_path: Path) -> None:
    folder = copied(tmp_path)

    def declared() -> str:
        kong = next(o for o in built(folder / "overlays/demo") if named(o, "Deployment", "kong"))
        (volume,) = (
            v for v in kong["spec"]["template"]["spec"]["volumes"] if v["name"] == "declarative"
        )
        return str(volume["configMap"]["name"])

    before = declared()
    with (folder / "base/kong.yml").open("a") as file:
        file.write("# one more line\n")
    assert declared() != before


def named(thing: dict[str, Any], kind: str, name: str) -> bool:
    return (thing["kind"], thing["metadata"]["name"]) == (kind, name)


def test_the_script_of_the_demo_s_api_is_the_example() -> None:
    (found,) = (
        o for o in of_kind("demo", "ConfigMap").values() if "sample_upstream.py" in o["data"]
    )
    root = Path(__file__).resolve().parents[2]
    assert found["data"]["sample_upstream.py"] == (root / "examples/sample_upstream.py").read_text()
    for version in SEED:
        mounted = pods("demo")[f"yyc3-xy-api-{version}"].volume("app")
        assert mounted["configMap"]["name"] == found["metadata"]["name"]


def test_the_base_is_no_place_to_deploy_from() -> None:
    folder = Path(__file__).resolve().parents[2] / "deploy/kubernetes/base"
    kinds = {thing["kind"] for thing in built(folder)}
    assert "Secret" not in kinds
    assert yaml.safe_load((folder / "kustomization.yaml").read_text())["namespace"] == NAMESPACE
