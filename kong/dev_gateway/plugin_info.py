"""Ask the query command what the plugin is, as Kong does at start; its first entry counts."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dev_gateway.errors import ConfigError, PluginQueryError
from dev_gateway.schema import Fields, check_fields

QUERY_TIMEOUT_S = 60
HONOURED_PHASES = frozenset({"access", "log"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginInfo:
    """A plugin: when it runs and what its config may hold."""

    name: str
    priority: int
    phases: frozenset[str]
    fields: Fields
    scopes: frozenset[str] = frozenset({"route", "service", "consumer"})


def query_plugin(command: str) -> PluginInfo:
    """Run the command through the shell, as Kong's io.popen does."""
    try:
        done = subprocess.run(
            command, shell=True, stdout=subprocess.PIPE, timeout=QUERY_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise PluginQueryError(f"no answer from [{command}] in {QUERY_TIMEOUT_S} s") from late
    try:
        dump = json.loads(done.stdout)
    except ValueError as fault:
        raise PluginQueryError(f"failed decoding plugin info: {fault} ({command})") from fault
    entries = dump.get("Plugins") if isinstance(dump, dict) else dump
    if not isinstance(entries, Sequence) or not entries or not isinstance(entries[0], dict):
        raise PluginQueryError(f"not a plugin info table: {command}")
    return read_info(entries[0])


def read_info(entry: Mapping[str, Any]) -> PluginInfo:
    """Refuse what this gateway could not run the way Kong would."""
    complaints: list[str] = []

    def complain(path: str, words: str) -> None:
        complaints.append(f"plugin schema: {path}: {words}")

    fields = _config_fields(entry.get("Schema"))
    check_fields(fields, "config.fields", complain)
    phases = frozenset(entry.get("Phases") or ())
    for phase in sorted(phases - HONOURED_PHASES):
        complain("Phases", f"'{phase}' is not honoured by the development gateway")
    if not isinstance(entry.get("Name"), str):
        complain("Name", "expected a string")
    if complaints:
        raise ConfigError(complaints)
    return PluginInfo(
        name=entry["Name"], priority=int(entry.get("Priority") or 0), phases=phases, fields=fields
    )


def _config_fields(schema: Any) -> Any:
    for field in (schema or {}).get("fields", []):
        if "config" in field:
            return field["config"].get("fields")
    return None
