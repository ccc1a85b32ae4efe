"""What Istio makes of a VirtualService: where a request may go, by its documented rules.

https://istio.io/latest/docs/reference/config/networking/virtual-service/
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import re2
from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).resolve().parents[1] / "data/istio/objects.schema.json"


@functools.cache
def validator() -> Draft202012Validator:
    """Judges an object by the fields that we write."""
    return Draft202012Validator(json.loads(SCHEMA.read_text()))


def weights(virtual_service: Mapping[str, Any], headers: Mapping[str, str], path: str) -> Any:
    """The first route that matches, as weights by subset."""
    for route in virtual_service["spec"]["http"]:
        matches = route.get("match")
        if matches is None or any(_matches(one, headers, path) for one in matches):
            return {d["destination"]["subset"]: d["weight"] for d in route["route"]}
    raise AssertionError("the last route has no match, and takes whatever is left")


def _matches(match: Mapping[str, Any], headers: Mapping[str, str], path: str) -> bool:
    for name, how in match.get("headers", {}).items():
        if name not in headers or not _is(how, headers[name]):
            return False
    return "uri" not in match or _is(match["uri"], path)


def _is(how: Mapping[str, str], value: str) -> bool:
    ((way, wanted),) = how.items()
    if way == "exact":
        return value == wanted
    if way == "prefix":
        return value.startswith(wanted)
    assert way == "regex", way
    return re2.fullmatch(wanted, value) is not None
