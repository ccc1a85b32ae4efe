"""A policy beside its document: what a change leaves alone is neither read nor written again.

A policy may have 10,000 versions, and a change is about one or two of them. What comes out is
what ``parse`` makes of the whole, always; only the work is less. Items of documents that are
equal are taken for the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from canary_engine import parse
from canary_engine.errors import InvalidPolicy
from canary_engine.model import Policy, Version
from canary_engine.reading import MAX_ITEMS

VERSIONS = "versions"
_NOBODY: tuple[None, None] = (None, None)


class Written:
    """A policy that holds together and its document, which nobody may write to any longer."""

    def __init__(self, policy: Policy, document: Mapping[str, Any]) -> None:
        self.policy, self.document = policy, document
        self._items: list[dict[str, Any]] = document.get(VERSIONS) or []
        assert len(self._items) == len(policy.versions), "a policy and its document"

    def read(self, document: Mapping[str, Any]) -> Policy:
        """``parse.policy(document)``."""
        items = document.get(VERSIONS)
        if not isinstance(items, list) or len(items) > MAX_ITEMS:
            return parse.policy(document)
        versions = self._versions(items)
        unread = [item for item, found in zip(items, versions, strict=True) if found is None]
        try:
            return _checked(document, unread, versions)
        except InvalidPolicy:
            return parse.policy(document)  # the same complaints, with the right places

    def write(self, policy: Policy) -> dict[str, Any]:
        """``parse.document(policy)``, with copies of what is known of its versions."""
        rest = parse.document(replace(policy, versions=()))
        if policy.versions is self.policy.versions:
            versions = list(map(dict, self._items))
        else:
            versions = self._written(policy.versions)
        names: list[str] = [name for name in ("service_key", "revision") if name in rest]
        document: dict[str, Any] = {name: rest.pop(name) for name in names}
        if versions:
            document[VERSIONS] = versions
        return document | rest

    def _versions(self, items: list[Any]) -> list[Version | None]:
        """The versions that the items say; None where it has to be read."""
        known = zip(self._items, self.policy.versions, strict=True)
        # Nearly all stand where they stood. Where one went, those behind it are looked up.
        found = [v if item == old else None for item, (old, v) in zip(items, known, strict=False)]
        found += [None] * (len(items) - len(found))
        for place, version in enumerate(found):
            item = items[place]
            if version is None and isinstance(item, dict):
                name = item.get("version")
                old, moved = self._by_name.get(name if isinstance(name, str) else "", _NOBODY)
                found[place] = moved if old == item else None
        return found

    def _written(self, versions: Iterable[Version]) -> list[dict[str, Any]]:
        known = {id(v): item for v, item in zip(self.policy.versions, self._items, strict=True)}
        return [dict(known.get(id(v)) or parse.document(v)) for v in versions]

    @cached_property
    def _by_name(self) -> dict[str, tuple[dict[str, Any], Version]]:
        pairs = zip(self._items, self.policy.versions, strict=True)
        return {version.version: (item, version) for item, version in pairs}


def _checked(
    document: Mapping[str, Any], unread: list[Any], versions: Iterable[Version | None]
) -> Policy:
    """The policy, of whose versions only those that are None are read."""
    rest = parse.fields_of({**document, VERSIONS: unread})
    read = iter(rest.versions)
    found = [next(read) if version is None else version for version in versions]
    if len({version.version for version in found}) < len(found):
        raise InvalidPolicy(["versions: a name is taken twice"])
    policy = replace(rest, versions=tuple(found))
    parse.check(policy)
    return policy
