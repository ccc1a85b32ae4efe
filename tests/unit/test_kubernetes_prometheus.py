"""The component for Prometheus lets it find our pods, as its config asks, and do nothing else."""

from __future__ import annotations

import pytest
import yaml
from support.manifests import NAMESPACE, OVERLAYS, ROOT, Object, above, objects, validate

COMPONENT = "components: [../../components/prometheus]"


def added(overlay: str) -> list[Object]:
    # Secrets of the demo are made anew each time.
    known = {(thing["kind"], thing["metadata"]["name"]) for thing in objects(overlay)}
    found = [o for o in above(overlay, COMPONENT) if o["kind"] != "Secret"]
    return [thing for thing in found if (thing["kind"], thing["metadata"]["name"]) not in known]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_adds_a_role_and_its_binding_that_are_valid(overlay: str) -> None:
    assert sorted(thing["kind"] for thing in added(overlay)) == ["Role", "RoleBinding"]
    for thing in added(overlay):
        assert thing["metadata"]["namespace"] == NAMESPACE
        for version in ("1.29", "1.37"):
            validate(thing, version)


def test_the_role_is_what_a_config_that_looks_for_pods_needs() -> None:
    (role,) = (thing for thing in added("production") if thing["kind"] == "Role")
    config = yaml.safe_load((ROOT / "deploy/prometheus/kubernetes.yml").read_text())
    looked_for = [
        (asked["role"], asked["namespaces"]["names"])
        for job in config["scrape_configs"]
        for asked in job["kubernetes_sd_configs"]
    ]
    assert looked_for
    assert all(what == ("pod", [NAMESPACE]) for what in looked_for)
    (rule,) = role["rules"]
    assert rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}


def test_it_is_bound_to_who_comes_from_where_the_network_lets_prometheus_come_from() -> None:
    (binding,) = (thing for thing in added("production") if thing["kind"] == "RoleBinding")
    (role,) = (thing for thing in added("production") if thing["kind"] == "Role")
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (
        "Role",
        role["metadata"]["name"],
    )
    (subject,) = binding["subjects"]
    (policy,) = (
        thing
        for thing in objects("production")
        if (thing["kind"], thing["metadata"]["name"]) == ("NetworkPolicy", "prometheus")
    )
    (peer,) = policy["spec"]["ingress"][0]["from"]
    label = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", label)
