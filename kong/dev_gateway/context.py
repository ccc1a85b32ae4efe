"""One request on its way through: what arrived, what was decided, what came back."""

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from multidict import CIMultiDict

from dev_gateway.entities import DEFAULT_WORKSPACE_ID, PluginConfig, Route, Service, Table
from dev_gateway.headers import Headers
from dev_gateway.uri import QueryValue, normalize, parse_query


class Phase(StrEnum):
    ACCESS = "access"
    LOG = "log"


class Source(StrEnum):
    """Who made the response, in the words of kong.response.get_source."""

    SERVICE = "service"
    EXIT = "exit"
    ERROR = "error"


@dataclass(slots=True, kw_only=True)
class BalancerData:
    """Where the request is going; plugins may change it."""

    host: str
    port: int
    is_name: bool
    retries: int
    connect_timeout_ms: int
    write_timeout_ms: int
    read_timeout_ms: int
    upstream_host: str | None = None
    is_direct: bool = False
    tries: list[dict[str, Any]] = field(default_factory=list)
    try_statuses: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class ExitResponse:
    """A response that Kong makes itself; the body is sent as it stands, a table as JSON."""

    status: int
    body: Any = None
    headers: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class RequestContext:
    """Mutable on purpose: it plays ngx.ctx, ngx.req and ngx.header for one request."""

    request_id: str
    method: str
    target: str
    headers: Headers
    scheme: str
    host: str
    port: int
    http_version: str
    peer_ip: str
    client_ip: str
    is_peer_trusted: bool
    request_size: int
    started_at: float = field(default_factory=time.time)
    raw_path: str = ""
    path: str = ""
    query: str = ""
    has_query: bool = False
    route: Route | None = None
    service: Service | None = None
    consumer: Table | None = None
    credential: Table | None = None
    matched_prefix: str | None = None
    uri_captures: dict[str, str] = field(default_factory=dict)
    upstream_path: str = ""
    balancer: BalancerData | None = None
    preset_headers: Headers = field(default_factory=CIMultiDict)
    serialize_values: list[dict[str, Any]] = field(default_factory=list)
    shared: dict[Any, Any] = field(default_factory=dict)
    nginx: dict[Any, Any] = field(default_factory=lambda: {"workspace": DEFAULT_WORKSPACE_ID})
    logged_plugins: list[PluginConfig] = field(default_factory=list)
    source: Source = Source.ERROR
    status: int = 0
    response_headers: list[tuple[str, str]] = field(default_factory=list)
    bytes_sent: int = 0
    waiting_ms: int = -1
    receive_ms: int = 0
    kong_ms: int = 0
    request_ms: int = 0

    def __post_init__(self) -> None:
        mark = self.target.find("?", 1)
        self.has_query = mark >= 0
        self.raw_path = self.target[:mark] if self.has_query else self.target
        self.query = self.target[mark + 1 :] if self.has_query else ""
        self.path = normalize(self.raw_path)

    def query_args(self) -> dict[str, QueryValue]:
        return parse_query(self.query)

    def clear_query_arg(self, name: str) -> None:
        kept = [part for part in self.query.split("&") if name not in parse_query(part)]
        self.query = "&".join(kept)
        self.has_query = bool(self.query)

    def elapsed_ms(self) -> int:
        return max(0, int((time.time() - self.started_at) * 1000))
