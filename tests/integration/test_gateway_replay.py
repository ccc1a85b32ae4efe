"""The recorded exchanges with Kong 3.9.1, replayed: each message to the plugin must be the same."""

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dev_gateway.address import Network
from dev_gateway.proxy import RealIp
from support.gateway import gateway, settings
from support.raw_http import fetch
from support.scripted_plugin import PLUGIN, FaultError, Server, query_command

DATA = Path(__file__).parent.parent / "data" / "kong-wire"
CURL = [("User-Agent", "curl/7.88.1"), ("Accept", "*/*")]
HOST = "127.0.0.1:8000"

NAMED_VALUE = {
    "type": "array",
    "elements": {
        "type": "record",
        "fields": [
            {"name": {"type": "string", "required": True}},
            {
                "value": {
                    "type": "json",
                    "required": True,
                    "json_schema": {"inline": {"type": ["string", "boolean", "number"]}},
                }
            },
        ],
    },
}
FIELDS: list[dict[str, Any]] = [
    {"percentage": {"type": "number", "between": [0, 100]}},
    {"upstream_host_header": {"type": "string"}},
    {"traffic_percentage_type": {"type": "string", "default": "weight", "one_of": ["weight"]}},
    {"whitelisted_ips": {"type": "array", "default": [], "elements": {"type": "string"}}},
    {"whitelisted_cookies": NAMED_VALUE},
    {"whitelisted_headers": NAMED_VALUE},
]

# What no two runs share. Everything else must be equal, message ids included.
VOLATILE = frozenset(
    {
        # clocks
        "created_at", "updated_at", "started_at", "date", "latencies", "x-kong-proxy-latency",
        "x-kong-response-latency", "x-kong-upstream-latency", "balancer_start",
        "balancer_start_ns", "balancer_latency", "balancer_latency_ns",
        # drawn per request; the two places where it stands are compared with each other
        "x-kong-request-id",
        # bytes on the wire to the client: contains the latencies' digits and the date
        "size@response",
        # the upstream's port
        "port@tries",
    }
)  # fmt: skip


class Recording:
    """Answers as the recorded plugin did, whatever is asked; remembers what was asked."""

    def __init__(self, name: str) -> None:
        lines = (DATA / name).read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        self.asked = [entry["msg"] for entry in entries if entry["dir"] == "kong->plugin"]
        self._answers = iter(entry["msg"] for entry in entries if entry["dir"] == "plugin->kong")

    def respond(self, method: str, argument: Any) -> Any:
        _, _, error, result = next(self._answers)
        if error is not None:
            raise FaultError(error)
        return result


def normalised(message: Sequence[Any], random_ids: Sequence[str] = ()) -> Any:
    """A message without what is volatile, its JSON parsed; random_ids are told apart by order."""
    text = json.dumps(message)
    for index, random_id in enumerate(random_ids):
        text = text.replace(random_id, f"random-{index}")
    kind, message_id, method, (argument,) = json.loads(text)
    if "Config" in argument:
        argument["Config"] = json.loads(argument["Config"])
    data = argument.get("Data")
    if isinstance(data, str) and data.startswith("{"):
        argument["Data"] = _serialized(json.loads(data))
    return [kind, message_id, method, _without_volatile(argument, "")]


def _serialized(table: dict[str, Any]) -> dict[str, Any]:
    request = table["request"]
    headers = table["response"]["headers"]
    assert headers["x-kong-request-id"] == request.pop("id")
    scheme, _, rest = request["url"].partition("://")
    host_port, slash, path = rest.partition("/")
    request["url"] = f"{scheme}://{host_port.rpartition(':')[0]}:PORT{slash}{path}"
    return table


def _without_volatile(value: Any, parent: str) -> Any:
    if isinstance(value, dict):
        return {
            name: "volatile"
            if name in VOLATILE or f"{name}@{parent}" in VOLATILE
            else _without_volatile(item, name)
            for name, item in value.items()
        }
    return [_without_volatile(item, parent) for item in value] if isinstance(value, list) else value


@asynccontextmanager
async def plain_upstream(sizes: list[int]) -> AsyncIterator[int]:
    """Answers as the recorded upstream did: the same headers, bodies of the recorded sizes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        size = sizes.pop(0)
        head = (
            "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 23 Nov 2026 13:54:50 GMT\r\n"
            f"Content-Type: application/json\r\nContent-Length: {size}\r\nConnection: close\r\n"
        )
        writer.write(head.encode() + b"\r\n" + b" " * size)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def first_file(port: int, percentage: int) -> dict[str, Any]:
    return {
        "services": [
            {
                "name": "yyc3-xy-api-service",
                "url": "http://yyc3-xy-api:1229",
                "routes": [
                    {"name": "yyc3-xy-api-route", "paths": ["/api/v1"], "strip_path": False}
                ],
            }
        ],
        "upstreams": [{"name": "canary-upstream", "targets": [{"target": f"127.0.0.1:{port}"}]}],
        "plugins": [
            {
                "name": PLUGIN,
                "config": {
                    "percentage": percentage,
                    "upstream_host_header": "canary.yyc3-xy-api",
                    "traffic_percentage_type": "weight",
                    "whitelisted_ips": ["192.168.1.0/24"],
                    "whitelisted_cookies": [{"name": "yyc3_canary", "value": "enabled"}],
                    "whitelisted_headers": [{"name": "x-canary-test", "value": True}],
                },
            }
        ],
    }


def second_file(port: int) -> dict[str, Any]:
    config = {"percentage": 10, "upstream_host_header": "canary.orders"}
    route = {
        "name": "orders-route",
        "paths": ["/orders"],
        "plugins": [{"name": "key-auth"}, {"name": PLUGIN, "config": config}],
    }
    return {
        "services": [{"name": "orders", "url": "http://orders-v1", "routes": [route]}],
        "upstreams": [{"name": "canary-upstream", "targets": [{"target": f"127.0.0.1:{port}"}]}],
        "consumers": [
            {
                "username": "alice",
                "custom_id": "u-42",
                "keyauth_credentials": [{"key": "alice-key"}],
            }
        ],
    }


async def test_access_log_post_and_reload_are_as_recorded(tmp_path: Path) -> None:
    recording = Recording("kong-3.9.1-access-and-log.jsonl")
    command = query_command(tmp_path, FIELDS)
    async with (
        plain_upstream([218, 169, 168]) as port,
        Server(tmp_path / "plugin.sock", recording.respond) as server,
        gateway(
            tmp_path,
            first_file(port, percentage=5),
            plugin_query_command=command,
            real_ip=RealIp(trusted=(loopback(),), header="X-Forwarded-For"),
        ) as running,
    ):
        forwarded = [
            ("X-Forwarded-For", "203.0.113.9"),
            ("Cookie", "a=b; yyc3_canary=enabled"),
            ("X-Dup", "1"),
            ("X-Dup", "2"),
        ]
        await fetch(running.port, "/api/v1/x?a=1&a=2&b=", headers=CURL + forwarded, host=HOST)
        await server.seen(22)
        json_type = [("Content-Type", "application/json")]
        await fetch(
            running.port,
            "/api/v1/y",
            method="POST",
            headers=CURL + json_type,
            body=b'{"a": 12}',
            host=HOST,
        )
        await server.seen(43)
        settings(tmp_path, first_file(port, percentage=25), plugin_query_command=command)
        assert await running.reload()
        await fetch(running.port, "/api/v1/z", headers=CURL, host=HOST)
        await server.seen(len(recording.asked))
    assert [normalised(message) for message in server.calls] == [
        normalised(message) for message in recording.asked
    ]
    assert server.connections == [1] * 43 + [2] * 22


async def test_a_route_scoped_plugin_behind_key_auth_is_as_recorded(tmp_path: Path) -> None:
    recording = Recording("kong-3.9.1-route-scoped-consumer.jsonl")
    async with (
        plain_upstream([161]) as port,
        Server(tmp_path / "plugin.sock", recording.respond) as server,
        gateway(
            tmp_path,
            second_file(port),
            plugin_query_command=query_command(tmp_path, FIELDS),
        ) as running,
    ):
        await fetch(running.port, "/orders/1", headers=[*CURL, ("apikey", "alice-key")], host=HOST)
        await server.seen(22)
        denied = await fetch(running.port, "/orders/1", headers=CURL, host=HOST)
        await server.seen(len(recording.asked))
    assert denied.status == 401
    assert [normalised(message, credential_ids(server.calls)) for message in server.calls] == [
        normalised(message, credential_ids(recording.asked)) for message in recording.asked
    ]


def credential_ids(messages: Sequence[Sequence[Any]]) -> list[str]:
    """Kong draws credential ids at random; every other id derives from a name and must match."""
    (found,) = (
        message[3][0]["Data"]["x-credential-identifier"][0]
        for message in messages
        if message[2] == "plugin.StepMultiMap"
        and "x-credential-identifier" in message[3][0]["Data"]
    )
    return [found]


def loopback() -> Network:
    return ipaddress.ip_network("127.0.0.1/32")


def test_normalising_hides_no_change_of_substance() -> None:
    asked = Recording("kong-3.9.1-access-and-log.jsonl").asked
    for before, after in (
        ("/api/v1/x", "/api/v1/w"),
        ("__seq__", "__sequence__"),
        ("203.0.113.9", "203.0.113.8"),
        ("2e1236a3-f785", "2e1236a3-f786"),
        ("StepMultiMap", "Step"),
        ("upstream_status", "status"),
    ):
        changed = json.loads(json.dumps(asked).replace(before, after))
        assert [normalised(one) for one in asked] != [normalised(one) for one in changed]
