"""The ids that Kong derives from names, so that a plugin sees the same ones here."""

import uuid
from collections.abc import Mapping
from functools import cache
from typing import Any

_ROOT = uuid.UUID("fd02801f-0957-4a15-a55a-c8d9606f30b5")
_ANY_WORKSPACE = "*"


@cache
def _namespace(entity: str) -> uuid.UUID:
    return uuid.uuid5(_ROOT, entity)


def derived(entity: str, key: str | None) -> str:
    """A stable id from a unique key; without one, a fresh random id."""
    return str(uuid.uuid4() if key is None else uuid.uuid5(_namespace(entity), key))


def plugin_key(name: str, scope: Mapping[str, Any]) -> str:
    """Kong derives a plugin's id from its name and from what it is scoped to, as written."""
    parts = [str(scope.get(part) or "") for part in ("route", "service", "consumer")]
    return ":".join(["plugins", _ANY_WORKSPACE, name, *parts])


def target_key(upstream: str, target: str) -> str:
    return ":".join(["targets", _ANY_WORKSPACE, upstream, target])


def cache_key(
    name: str,
    route_id: str | None,
    service_id: str | None,
    consumer_id: str | None,
    workspace_id: str,
) -> str:
    """What a plugin sees as `__key__`; the sixth part is empty in the open-source edition."""
    scope = [route_id or "", service_id or "", consumer_id or "", ""]
    return ":".join(["plugins", name, *scope, workspace_id])
