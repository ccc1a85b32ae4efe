"""What runs in the cluster is confined, and no secret is in git."""

from __future__ import annotations

import copy
import hashlib
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from decision_svc.access import credentials
from support.manifests import (
    FOLDER,
    NAMESPACE,
    OVERLAYS,
    ROOT,
    base_name,
    containers,
    copied,
    dockerfile,
    objects,
    of_kind,
    pods,
    secret,
)
from support.pod_security import breaches

Break = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_meets_the_restricted_standard_that_the_namespace_enforces(overlay: str) -> None:
    labels = of_kind(overlay, "Namespace")[NAMESPACE]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, found in pods(overlay).items():
        assert list(breaches(found.spec)) == [], name


@pytest.mark.parametrize(
    ("spoil", "breach"),
    [
        (lambda spec: spec.update(hostNetwork=True), "hostNetwork"),
        (lambda spec: spec["securityContext"].pop("runAsNonRoot"), "kong: may run as root"),
        (lambda spec: spec["securityContext"].pop("seccompProfile"), "kong: no seccomp profile"),
        (
            lambda spec: spec["securityContext"].update(
                sysctls=[{"name": "net.unix.max_dgram_qlen", "value": "4096"}]
            ),
            "sysctl net.unix.max_dgram_qlen",
        ),
        (
            lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"),
            "kong: capabilities are not dropped",
        ),
        (
            lambda spec: spec["initContainers"][0]["securityContext"].clear(),
            "plugin-server: allowPrivilegeEscalation",
        ),
        (
            lambda spec: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
            "volume host is a hostPath",
        ),
    ],
)
def test_a_pod_that_breaks_the_standard_is_found_out(spoil: Break, breach: str) -> None:
    spec = copy.deepcopy(dict(pods("demo")["kong"].spec))
    spoil(spec)
    assert breach in list(breaches(spec))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_read_only_numbered_limited_and_watched(overlay: str) -> None:
    for found, container in containers(overlay):
        context = {**found.spec["securityContext"], **container["securityContext"]}
        assert context["readOnlyRootFilesystem"] is True
        # Without a number the kubelet cannot tell that an image's user is not root.
        assert context["runAsUser"] > 0
        assert context["runAsGroup"] > 0
        for side in ("requests", "limits"):
            assert set(container["resources"][side]) == {"cpu", "memory"}
        assert "livenessProbe" in container
        assert {"readinessProbe", "startupProbe"} & container.keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_may_ask_the_cluster_s_api(overlay: str) -> None:
    accounts = of_kind(overlay, "ServiceAccount")
    for found in pods(overlay).values():
        account = accounts[found.spec["serviceAccountName"]]
        assert found.spec["automountServiceAccountToken"] is False
        assert account["automountServiceAccountToken"] is False
    granting = {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}
    assert not granting & {thing["kind"] for thing in objects(overlay)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_image_has_a_tag_that_is_not_latest_and_ours_the_project_s(overlay: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for _, container in containers(overlay):
        image, _, tag = container["image"].rpartition(":")
        assert image
        assert tag != "latest"
        assert not image.startswith("canary-release/") or tag == project["version"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_images_are_the_ones_that_compose_builds(overlay: str) -> None:
    images = {container["image"] for _, container in containers(overlay)}
    ours = {image for image in images if image.startswith("canary-release/")}
    assert [image for image in ours if not dockerfile(image)] == []


def test_the_production_overlay_holds_no_secret() -> None:
    assert of_kind("production", "Secret") == {}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_given_as_a_plain_variable_or_argument(overlay: str) -> None:
    for _, container in containers(overlay):
        plain = [f"{v['name']}={v['value']}" for v in container.get("env", []) if "value" in v]
        for text in [*plain, *container.get("args", []), *container.get("command", [])]:
            assert not re.search(r"(?i)(password|secret|token)(?!s?[-_]?file)\w*=(?!/)", text)
            assert "REDIS_URL" not in text


SECRETS = re.compile(
    r"canary_[\w-]{43}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]*:[^/\s:@]+@|sha256: [0-9a-f]{64}"
)


def test_no_file_in_git_holds_a_token_a_key_or_a_password() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert f"{FOLDER}/overlays/demo/secrets/" in ignored
    for path in (ROOT / FOLDER).rglob("*"):
        if path.is_file() and "secrets" not in path.relative_to(ROOT / FOLDER).parts:
            assert not SECRETS.search(path.read_text()), path


def test_the_demo_s_tokens_are_new_each_time_and_known_to_its_access_file() -> None:
    def of(name: str) -> dict[str, bytes]:
        (found,) = (s for s in of_kind("demo", "Secret") if base_name(s) == name)
        return secret("demo", found)

    file = credentials.parse(of("canary-access")["access.yml"].decode())
    found = {entry.sha256: entry for entry in file.tokens}
    gateway, controller = of("canary-gateway")["token"], of("canary-controller")["token"]
    assert gateway != controller
    assert found[hashlib.sha256(gateway).hexdigest()].grant.is_gateway
    assert found[hashlib.sha256(controller).hexdigest()].name == "controller"
    assert yaml.safe_load(of("canary-access")["access.yml"])["tokens"][0]["roles"] == {"*": "admin"}


def test_only_the_certificate_s_authority_is_shown_to_clients() -> None:
    for workload, name in (("kong", "tls-ca"), ("controller", "tls-ca")):
        (item,) = pods("production")[workload].volume(name)["secret"]["items"]
        assert item == {"key": "ca.crt", "path": "ca.crt"}


def test_the_demo_s_script_leaves_what_is_there(tmp_path: Path) -> None:
    demo = copied(tmp_path) / "overlays/demo"
    before = {p.name: p.read_bytes() for p in (demo / "secrets").iterdir()}
    subprocess.run([demo / "make-secrets"], check=True, capture_output=True)
    assert {p.name: p.read_bytes() for p in (demo / "secrets").iterdir()} == before
    for name in before:
        assert (demo / "secrets" / name).stat().st_mode & 0o077 == 0
