"""The commands, one module per noun, each loaded when it is first asked for: a start is quick."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module

import click

MODULES: Mapping[str, str] = {
    "status": "status",
    "version": "version",
    "release": "release",
    "percentage": "release",
    "halt": "halt",
    "approve": "guards",
    "approvals": "guards",
    "guards": "guards",
    "freeze": "guards",
    "rule": "rule",
    "whitelist": "whitelist",
    "segment": "members",
    "flag": "flag",
    "bucketing": "reading",
    "identity": "reading",
    "compatibility": "reading",
    "api-version": "api_version",
    "override": "override",
    "profile": "profile",
    "diff": "apply",
    "apply": "apply",
    "export": "apply",
    "replay": "replay",
    "plan-lint": "plan",
    "schema": "schema",
    "checklist": "checklist",
    "report": "report",
    "shadow": "shadow",
    "render": "rendering",
    "policy": "policy",
    "history": "policy",
    "baselines": "status",
    "outcomes": "outcomes",
    "metrics": "metrics",
    "audit": "audit",
    "explain": "explain",
    "whoami": "whoami",
    "token": "token",
    "completion": "completion",
}
"""Where each command is."""


class Commands(MutableMapping[str, click.Command]):
    """All commands by name."""

    def __init__(self) -> None:
        self._modules, self._loaded = dict(MODULES), dict[str, click.Command]()

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module = import_module(f"{__package__}.{self._modules[name]}")
            self._loaded[name] = getattr(module, name.replace("-", "_"))
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._modules[name], self._loaded[name] = command.__module__, command

    def __delitem__(self, name: str) -> None:
        del self._modules[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)
