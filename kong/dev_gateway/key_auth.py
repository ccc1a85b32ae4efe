"""Kong's bundled key-auth: who is asking, or 401."""

from dataclasses import dataclass

from dev_gateway.context import RequestContext
from dev_gateway.entities import Credential, DeclarativeConfig, Table
from dev_gateway.plugin_info import PluginInfo

INFO = PluginInfo(
    name="key-auth",
    priority=1250,
    phases=frozenset({"access"}),
    scopes=frozenset({"route", "service"}),
    fields=[
        {
            "key_names": {
                "type": "array",
                "required": True,
                "elements": {"type": "string"},
                "default": ["apikey"],
            }
        },
        {"hide_credentials": {"type": "boolean", "required": True, "default": False}},
        {"anonymous": {"type": "string"}},
        {"key_in_header": {"type": "boolean", "required": True, "default": True}},
        {"key_in_query": {"type": "boolean", "required": True, "default": True}},
        {"key_in_body": {"type": "boolean", "required": True, "default": False, "one_of": [False]}},
        {"run_on_preflight": {"type": "boolean", "required": True, "default": True}},
        {"realm": {"type": "string"}},
    ],
)


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request is not let through."""

    message: str
    challenge: str


def access(ctx: RequestContext, config: DeclarativeConfig, values: Table) -> Denied | None:
    """Set consumer and headers; a Denied where the client must be sent away."""
    if not values["run_on_preflight"] and ctx.method == "OPTIONS":
        return None
    if values.get("anonymous") and ctx.credential is not None:
        return None
    found = _authenticate(ctx, config, values)
    if isinstance(found, Credential):
        _set_consumer(ctx, found.consumer, found.table)
    elif "anonymous" in values:
        _set_consumer(ctx, _anonymous(config, values["anonymous"]), None)
    else:
        realm = values.get("realm")
        return Denied(found, f'Key realm="{realm}"' if realm else "Key")
    return None


def _authenticate(
    ctx: RequestContext, config: DeclarativeConfig, values: Table
) -> Credential | str:
    query = ctx.query_args()
    for name in values["key_names"]:
        given: list[str | bool] = []
        if values["key_in_header"]:
            given.extend(ctx.headers.getall(name, []))
        if not given and values["key_in_query"] and name in query:
            in_query = query[name]
            given = in_query if isinstance(in_query, list) else [in_query]
        if len(given) > 1:
            return "Duplicate API key found"
        if given and isinstance(given[0], str):
            if values["hide_credentials"]:
                ctx.headers.popall(name, None)
                ctx.clear_query_arg(name)
            return config.credentials.get(given[0]) or (
                "Unauthorized" if given[0] else "No API key found in request"
            )
    return "No API key found in request"


def _anonymous(config: DeclarativeConfig, wanted: str) -> Table | None:
    for consumer in config.consumers.values():
        if wanted in (consumer["id"], consumer.get("username")):
            return consumer
    return None


def _set_consumer(ctx: RequestContext, consumer: Table | None, credential: Table | None) -> None:
    ctx.consumer, ctx.credential = consumer, credential
    known, key = consumer or {}, credential or {}
    for header, value in (
        ("X-Consumer-ID", known.get("id")),
        ("X-Consumer-Custom-ID", known.get("custom_id")),
        ("X-Consumer-Username", known.get("username")),
        ("X-Credential-Identifier", key.get("id")),
        ("X-Anonymous-Consumer", None if credential else "true"),
    ):
        ctx.headers.popall(header, None)
        if value is not None:
            ctx.headers[header] = value
