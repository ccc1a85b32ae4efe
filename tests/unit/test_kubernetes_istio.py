"""The component that keeps a mesh in step is valid, fits each overlay, and may do no more."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest
import yaml
from canary_controller.__main__ import SERVICE_ACCOUNT, main
from canary_controller.mesh.settings import Entry, entries_in
from support.manifests import (
    FOLDER,
    NAMESPACE,
    OVERLAYS,
    ROOT,
    Object,
    Pods,
    built,
    copied,
    objects,
    pods,
    validate,
)
from support.network_policies import Peer, arrows
from support.pod_security import breaches

COMPONENT = ROOT / FOLDER / "components/istio"
WAYS = ("above", "inside")


@functools.cache
def with_istio(overlay: str, way: str) -> Sequence[Object]:
    """An overlay with the component: named in one above it, or in it itself."""
    with tempfile.TemporaryDirectory(prefix="kubernetes-") as name:
        folder = copied(Path(name))
        chosen = folder / "overlays" / (overlay if way == "inside" else "mine")
        chosen.mkdir(exist_ok=True)
        file = chosen / "kustomization.yaml"
        document = yaml.safe_load(file.read_text()) if way == "inside" else {}
        document.setdefault("resources", [f"../{overlay}"])
        document["components"] = ["../../components/istio"]
        file.write_text(yaml.safe_dump(document))
        return built(chosen)


def named(found: Sequence[Object], kind: str, name: str) -> Object:
    (thing,) = (o for o in found if (o["kind"], o["metadata"]["name"]) == (kind, name))
    return thing


def entries() -> dict[str, Entry]:
    return dict(entries_in((COMPONENT / "istio.yml").read_text()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_with_the_component_is_valid_and_as_confined_as_without(
    overlay: str, way: str
) -> None:
    found = with_istio(overlay, way)
    for thing in found:
        for version in ("1.29", "1.37"):
            validate(thing, version)
        if thing["kind"] != "Namespace":
            assert thing["metadata"]["namespace"] == NAMESPACE
    pod = named(found, "Deployment", "controller")["spec"]["template"]["spec"]
    assert list(breaches(pod)) == []
    assert pod["automountServiceAccountToken"] is False


def test_it_adds_permissions_a_file_and_a_way_and_changes_the_controller_alone() -> None:
    def keyed(found: Sequence[Object]) -> dict[tuple[str, str], Object]:
        return {(thing["kind"], thing["metadata"]["name"]): thing for thing in found}

    # Of the two overlays the one without secrets that are made anew each time.
    before, after = keyed(objects("production")), keyed(with_istio("production", "above"))
    assert sorted(kind for kind, _ in after.keys() - before.keys()) == [
        "ConfigMap", "NetworkPolicy", "NetworkPolicy", "Role", "RoleBinding",
    ]  # fmt: skip
    changed = [key for key, thing in before.items() if after.get(key) != thing]
    assert changed == [("Deployment", "controller")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_controller_reads_the_file_and_finds_what_it_shows_where_it_looks(
    overlay: str, way: str
) -> None:
    found = with_istio(overlay, way)
    pod = named(found, "Deployment", "controller")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = {v["name"]: v.get("value", "") for v in container["env"]}
    assert "istio_file" in {option.name for option in main.params}
    path = PurePosixPath(told["CANARY_CONTROLLER_ISTIO_FILE"])
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    volumes = {v["name"]: v for v in pod["volumes"]}
    shown = volumes[mounts[str(path.parent)]]["configMap"]["name"]
    file = named(found, "ConfigMap", shown)["data"][path.name]
    assert entries_in(file) == entries()
    token, authority = volumes[mounts[SERVICE_ACCOUNT]]["projected"]["sources"]
    assert token["serviceAccountToken"]["path"] == "token"
    assert [item["path"] for item in authority["configMap"]["items"]] == ["ca.crt"]
    # Whoever has it may not write, and everything else that the overlay told it is still there.
    assert "/run/secrets/controller" in mounts
    assert all(m.get("readOnly") for m in container["volumeMounts"] if m["name"] != "tmp")


def test_the_controller_s_account_may_touch_just_the_objects_that_the_file_names() -> None:
    found = with_istio("production", "above")
    role = named(found, "Role", "controller-istio")
    binding = named(found, "RoleBinding", "controller-istio")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = named(found, "Deployment", "controller")["spec"]["template"]["spec"]
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == (account["serviceAccountName"], NAMESPACE)
    by_name, create = role["rules"]
    for rule in role["rules"]:
        assert rule["apiGroups"] == ["networking.istio.io"]
        assert set(rule["resources"]) == {"virtualservices", "destinationrules"}
    assert (set(by_name["verbs"]), create["verbs"]) == ({"get", "patch"}, ["create"])
    assert by_name["resourceNames"] == [entry.mesh.name for entry in entries().values()]
    assert {entry.mesh.namespace for entry in entries().values()} == {NAMESPACE}


PROXY = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsGroup": 1337,
    "runAsUser": 1337,
    "runAsNonRoot": True,
}
"""What Istio's injection says of its containers, but for the one below."""
REDIRECTING = {
    **PROXY,
    "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
    "readOnlyRootFilesystem": False,
    "runAsGroup": 0,
    "runAsUser": 0,
    "runAsNonRoot": False,
}


def test_the_namespace_refuses_injected_pods_unless_istio_s_cni_plugin_redirects_them() -> None:
    for found in pods("production").values():
        proxy = {"name": "istio-proxy", "securityContext": PROXY}

        def injected(first: Object, pod: Pods = found, proxy: Object = proxy) -> Object:
            return {**pod.spec, "initContainers": [first, proxy, *pod.containers]}

        with_cni = {"name": "istio-validation", "securityContext": PROXY}
        without = {"name": "istio-init", "securityContext": REDIRECTING}
        assert list(breaches(injected(with_cni))) == []
        assert list(breaches(injected(without))) == [
            "istio-init: capabilities are added",
            "istio-init: may run as root",
        ]


def test_the_file_names_a_service_key_of_the_gateway_and_a_host_with_both_versions() -> None:
    declared = yaml.safe_load((ROOT / FOLDER / "base/kong.yml").read_text())
    assert set(entries()) <= {service["name"] for service in declared["services"]}
    found = objects("production")
    for entry in entries().values():
        selector = named(found, "Service", entry.mesh.host)["spec"]["selector"]
        labels = [
            thing["spec"]["template"]["metadata"]["labels"]
            for thing in found
            if thing["kind"] == "Deployment"
        ]
        chosen = {of.get("version") for of in labels if selector.items() <= of.items()}
        assert chosen == {"stable", "canary"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_opens_the_ways_to_the_api_server_and_to_istiod_and_no_other(overlay: str) -> None:
    names = ("controller", "kong", "decision-svc")
    ours = [Peer(name=n, namespace=NAMESPACE, labels={"app.kubernetes.io/name": n}) for n in names]
    peers = [
        Peer(name="api-server", address="203.0.113.9", ports=frozenset({443, 6443})),
        Peer(
            name="istiod",
            namespace="istio-system",
            labels={"app": "istiod", "istio.io/rev": "1-29"},
            ports=frozenset({443, 15012, 15014}),
        ),
        Peer(name="mesh-gateway", namespace="istio-system", ports=frozenset({443, 15012})),
        Peer(name="api", namespace=NAMESPACE, labels={"app": "yyc3-xy-api"}),
        *ours,
    ]

    def ways(found: Sequence[Object]) -> set[tuple[str, str, int]]:
        policies = [thing for thing in found if thing["kind"] == "NetworkPolicy"]
        return arrows(policies, peers)

    added = ways(with_istio(overlay, "above")) - ways(objects(overlay))
    assert added - {("controller", "api-server", 443)} == {
        ("controller", "api-server", 6443),
        *((who, "istiod", 15012) for who in (*names, "api")),
    }
    assert ("controller", "api-server", 443) in ways(with_istio(overlay, "above"))
