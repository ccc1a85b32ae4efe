"""What Kong lets people write in the plugin's config."""

from __future__ import annotations

from typing import Any

NAME = "canary-release"
VERSION = "0.1.0"
# After authentication (key-auth is 1250, jwt 1450), so that the consumer is known, and after
# rate limiting (910), so that refused requests are not decided; before what rewrites requests
# on their way up (request-transformer, 801).
PRIORITY = 850
PHASES = ("access",)

# Kong's type string refuses YAML's bare true; json hands it through as it was written.
_TEXT_OR_YAML_SCALAR = {
    "type": "json",
    "required": True,
    "json_schema": {"inline": {"type": ["string", "boolean", "number"]}},
}
_NAMED_VALUES = {
    "type": "array",
    "elements": {
        "type": "record",
        "fields": [
            {"name": {"type": "string", "required": True}},
            {"value": _TEXT_OR_YAML_SCALAR},
        ],
    },
}
_TEXTS = {"type": "array", "elements": {"type": "string"}}

FIELDS: list[dict[str, Any]] = [
    # The baseline: rules while no release is in progress.
    {"percentage": {"type": "number", "between": [0, 100]}},
    {"upstream_host_header": {"type": "string"}},
    {"canary_upstream": {"type": "string"}},
    {"traffic_percentage_type": {"type": "string", "one_of": ["weight"], "default": "weight"}},
    {"whitelisted_ips": _TEXTS},
    {"whitelisted_cookies": _NAMED_VALUES},
    {"whitelisted_headers": _NAMED_VALUES},
    {"salt": {"type": "string"}},
    # Who is asked about, and how clients are told apart.
    {"service_key": {"type": "string"}},
    {"hash_on": _TEXTS},
    {
        "anonymous": {
            "type": "string",
            "one_of": ["sticky-cookie", "per-request", "stable"],
            "default": "sticky-cookie",
        }
    },
    {"cookie": {"type": "string", "default": "canary_id"}},
    {"cookie_max_age_s": {"type": "integer", "between": [0, 34560000], "default": 31536000}},
    {"cookie_secure": {"type": "boolean", "default": False}},
    {"user_id_header": {"type": "string", "default": "x-user-id"}},
    {"user_id_hash_key": {"type": "string"}},
    {"flags": _TEXTS},
    # How it behaves.
    {"deadline_ms": {"type": "number", "between": [1, 1000], "default": 20}},
    {"label_stable": {"type": "boolean", "default": False}},
    {"response_headers": {"type": "boolean", "default": False}},
]


def plugin_info(*, is_logging: bool = False) -> list[dict[str, Any]]:
    """What Kong's query command expects: a list of one plugin. Kong calls every phase named."""
    config = {"type": "record", "required": True, "fields": FIELDS}
    return [
        {
            "Name": NAME,
            "Version": VERSION,
            "Priority": PRIORITY,
            "Phases": [*PHASES, *(["log"] if is_logging else [])],
            "Schema": {"name": NAME, "fields": [{"config": config}]},
        }
    ]
