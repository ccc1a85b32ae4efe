"""Reads the mesh file: which service key has which host in the mesh, and where its routes are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from canary_engine.errors import CanaryError
from canary_istio.routes import Mesh

FIELDS = {"host", "namespace", "name", "leave_out"}

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_NAMESPACE = re.compile(_LABEL)
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The mesh of one service key. ``leave_out``: routes are made also where they would give the
    canary to somebody whom the policy keeps on stable.
    """

    mesh: Mesh
    leave_out: bool = False


class BadMeshFile(CanaryError):  # noqa: N818 - it says what is bad
    """The mesh file is wrong; ``complaints`` holds "path: what to do" lines."""

    def __init__(self, *complaints: str) -> None:
        self.complaints = complaints
        super().__init__("; ".join(complaints))


Complain = Callable[[str], None]


def entries_in(text: str) -> Mapping[str, Entry]:
    """The meshes in a file's text by service key. Raises BadMeshFile with every complaint."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadMeshFile(f"it is not YAML: {error}") from None
    services = document.get("services") if isinstance(document, Mapping) else None
    if not isinstance(services, Mapping) or not services or set(document) != {"services"}:
        raise BadMeshFile("give a mapping with services in it, and nothing else")
    complaints: list[str] = []
    found = {str(key): _entry(str(key), part, complaints.append) for key, part in services.items()}
    if not complaints:
        complaints += _doubles(found)
    if complaints:
        raise BadMeshFile(*complaints)
    return found


def _doubles(found: Mapping[str, Entry]) -> list[str]:
    """Two releases must not fight over the same routes."""
    places = Counter((entry.mesh.namespace, entry.mesh.name) for entry in found.values())
    return [
        f"services.{key}: another service has the same namespace and name"
        for key, entry in found.items()
        if places[entry.mesh.namespace, entry.mesh.name] > 1
    ]


def _entry(key: str, part: Any, complain: Complain) -> Entry:
    where = f"services.{key}"
    if not isinstance(part, Mapping):
        complain(f"{where}: give a mapping with host and namespace")
        part = {}
    for name in set(map(str, part)) - FIELDS:
        complain(f"{where}.{name}: unknown; there is {', '.join(sorted(FIELDS))}")
    host = _word(f"{where}.host", part.get("host"), _NAME, complain)
    namespace = _word(f"{where}.namespace", part.get("namespace"), _NAMESPACE, complain)
    called = _word(f"{where}.name", part["name"], _NAME, complain) if "name" in part else ""
    leave_out = part.get("leave_out", False)
    if not isinstance(leave_out, bool):
        complain(f"{where}.leave_out: give true or false")
    mesh = Mesh(host=host, namespace=namespace, called=called)
    return Entry(mesh=mesh, leave_out=leave_out is True)


def _word(where: str, found: Any, pattern: re.Pattern[str], complain: Complain) -> str:
    if isinstance(found, str) and len(found) <= 253 and pattern.fullmatch(found):
        return found
    complain(f"{where}: give a name that Kubernetes takes: small letters, digits and dashes")
    return ""
