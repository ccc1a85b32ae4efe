"""The two policies of a replay: what is there, and what a file proposes for it."""

from __future__ import annotations

from typing import Any

from canary.policy.v1 import policy_pb2
from canary_documents import to_document
from canary_engine import parse
from canary_engine.errors import InvalidPolicy
from canary_engine.model import Policy

from canaryctl.errors import Misuse
from canaryctl.files import PolicyFile, read_policies

SALT = "replay"
"""Of releases that have none yet, so that two files about one release draw the same people."""


def nothing(service_key: str) -> Policy:
    """A policy without a release: everybody gets stable."""
    return parse.policy({"service_key": service_key})


def stored(policy: policy_pb2.Policy) -> Policy:
    """A policy as the service has it."""
    return parse.fields_of(to_document(policy))


def file_at(path: str) -> PolicyFile:
    """The one policy in a file. Raises Misuse."""
    found = read_policies([path])
    if len(found) != 1:
        raise Misuse(f"{path}: give a file with one policy, not {len(found)}")
    return found[0]


def proposed(file: PolicyFile, now: Policy) -> Policy:
    """What the policy would be with the parts that the file has in place of those of ``now``."""
    current, given = parse.document(now), to_document(file.policy)
    has = {name for name in file.fields if "." not in name}
    document = {name: part for name, part in current.items() if name not in has}
    document |= {name: part for name, part in given.items() if name in has}
    document["service_key"] = file.policy.service_key
    if "release" in has:
        document["release"] = _release(given.get("release", {}), current.get("release", {}))
        document["versions"] = _versions(document.get("versions", []), document["release"])
    try:
        return parse.fields_of(document)
    except InvalidPolicy as error:
        raise Misuse(*(f"{file.where}: {line}" for line in error.complaints)) from error


def _release(given: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    usual = {"id": "proposed", "status": "in-progress", "salt": SALT}
    is_same = current.get("status") in ("in-progress", "paused") and current.get(
        "version"
    ) == given.get("version")
    return {**usual, **(current if is_same else {}), **given}


def _versions(found: list[dict[str, Any]], release: dict[str, Any]) -> list[dict[str, Any]]:
    """The versions, that of the release the canary."""
    name = release.get("version")
    others = [version for version in found if version.get("version") != name]
    canary = next((version for version in found if version.get("version") == name), {})
    for version in others:
        if version.get("status") == "canary":
            version.pop("status")
    return [*others, {**canary, "version": name, "status": "canary"}]
