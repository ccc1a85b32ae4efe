"""What deploy/kubernetes makes of an overlay: built by kustomize itself, and read as pods."""

from __future__ import annotations

import base64
import functools
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("deploy/kubernetes")
OVERLAYS = ("demo", "production")
NAMESPACE = "canary-release"
KUBECTL = Path(sys.executable).parent / "kubectl"
WORKLOADS = ("Deployment", "StatefulSet")
PROGRAMS = {
    "decision-svc": "canary-decision-svc",
    "plugin-server": "canary-plugin-server",
    "controller": "canary-controller",
}
"""The containers that run a program of ours."""

Object = dict[str, Any]


def copied(into: Path) -> Path:
    """The folder and what it takes from outside, with tokens of its own; answers the folder."""
    shutil.copytree(ROOT / FOLDER, into / FOLDER, ignore=shutil.ignore_patterns("secrets"))
    shutil.copytree(ROOT / "examples", into / "examples")
    command = [into / FOLDER / "overlays/demo/make-secrets"]
    subprocess.run(command, check=True, capture_output=True)
    return into / FOLDER


def built(folder: Path) -> list[Object]:
    """The objects of a kustomization; fails with what kustomize complains of."""
    done = subprocess.run(
        [KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def objects(overlay: str) -> tuple[Object, ...]:
    """The objects of an overlay."""
    with tempfile.TemporaryDirectory(prefix="kubernetes-") as folder:
        return tuple(built(copied(Path(folder)) / "overlays" / overlay))


@functools.cache
def above(overlay: str, document: str) -> tuple[Object, ...]:
    """The objects of an overlay of one's own above this one, which says what the document says."""
    with tempfile.TemporaryDirectory(prefix="kubernetes-") as name:
        mine = copied(Path(name)) / "overlays/mine"
        mine.mkdir()
        said = {"resources": [f"../{overlay}"], **yaml.safe_load(document)}
        (mine / "kustomization.yaml").write_text(yaml.safe_dump(said))
        return tuple(built(mine))


def of_kind(overlay: str, *kinds: str) -> dict[str, Object]:
    """The objects of these kinds by name."""
    found = [thing for thing in objects(overlay) if thing["kind"] in kinds]
    return {thing["metadata"]["name"]: thing for thing in found}


_schema_of = functools.cache(kubernetes_validate.utils.schema_contents)


def validate(thing: Object, version: str) -> None:
    """Fails unless an object fits the schemas of a version of the API.

    The schemas are megabytes, and the library reads them anew for each object.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", _schema_of)
        kubernetes_validate.validate(thing, version, strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """The pods of one workload."""

    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def containers(self) -> list[Object]:
        """All of them, sidecars first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def container(self, name: str) -> Object:
        """The container of that name."""
        return next(c for c in self.containers if c["name"] == name)

    @property
    def ports(self) -> dict[str, int]:
        """Every port that a container names."""
        return {p["name"]: p["containerPort"] for c in self.containers for p in c.get("ports", [])}

    def volume(self, name: str) -> Object:
        """The volume of that name."""
        return next(v for v in self.spec["volumes"] if v["name"] == name)


@functools.cache
def pods(overlay: str) -> dict[str, Pods]:
    """The pods of every workload by its name."""
    return {
        name: Pods(
            name=name,
            labels=workload["spec"]["template"]["metadata"]["labels"],
            spec=workload["spec"]["template"]["spec"],
        )
        for name, workload in of_kind(overlay, *WORKLOADS).items()
    }


def containers(overlay: str) -> list[tuple[Pods, Object]]:
    """Every container of an overlay, with the pods it is in."""
    return [(found, one) for found in pods(overlay).values() for one in found.containers]


def scripts() -> dict[str, str]:
    """The programs that this repository has: name and MODULE:FUNCTION."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, str] = project["scripts"]
    return found


def programs(overlay: str) -> list[tuple[Pods, Object]]:
    """The containers whose program is there, with the pods they are in."""
    there = scripts()
    return [(p, c) for p, c in containers(overlay) if PROGRAMS.get(c["name"]) in there]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector (of either form that we use) has these labels."""
    for wanted in selector.get("matchExpressions", []):
        assert wanted["operator"] == "In", wanted
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


@functools.cache
def _built_by_compose() -> dict[str, str]:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = [service for service in document["services"].values() if "build" in service]
    return {service["image"]: service["build"]["dockerfile"] for service in services}


def dockerfile(image: str) -> str:
    """The recipe of an image, with its tag, that the compose file builds; "" for any other."""
    found = _built_by_compose().get(image)
    return (ROOT / found).read_text() if found else ""


def environment(overlay: str, container: Object) -> dict[str, str]:
    """What a container sees: its image's environment, then the manifest's, references resolved.

    What only the cluster knows (a pod's name, a Secret that is not in git) is left out.
    """
    lines = dockerfile(container["image"]).replace("\\\n", " ").splitlines()
    found = dict(
        setting.split("=", 1)
        for line in lines
        if line.startswith("ENV ")
        for setting in line.removeprefix("ENV ").split()
    )
    for source in container.get("envFrom", []):
        found |= of_kind(overlay, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    for variable in container.get("env", []):
        if (value := _value(overlay, variable)) is not None:
            found[variable["name"]] = value
    return found


def _value(overlay: str, variable: Mapping[str, Any]) -> str | None:
    if "value" in variable:
        return str(variable["value"])
    reference = variable["valueFrom"].get("secretKeyRef")
    if reference is None or reference["name"] not in of_kind(overlay, "Secret"):
        return None
    return secret(overlay, reference["name"])[reference["key"]].decode()


def secret(overlay: str, name: str) -> dict[str, bytes]:
    """What a Secret holds."""
    data = of_kind(overlay, "Secret")[name]["data"]
    return {key: base64.b64decode(value) for key, value in data.items()}


def base_name(name: str) -> str:
    """The name of a generated object without the hash of its content."""
    return name.rpartition("-")[0] if len(name.rpartition("-")[2]) == 10 else name


def port_of(address: str) -> int:
    """The port of HOST:PORT, whatever follows it."""
    return int(address.rpartition(":")[2].split()[0])
