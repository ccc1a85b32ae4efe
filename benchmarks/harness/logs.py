"""Access logs of the benchmarks' visitors, in every format that ``canaryctl replay`` reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from harness.policies import SERVICE_KEY, Visitor, visitor

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
AT_ONCE = 1_000
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
REFERER = "https://shop.example/catalogue?page=7"

Line = Callable[[Visitor, datetime], str]


def combined(visitor: Visitor, at: datetime) -> str:
    """A line as nginx writes it by default, the user where basic authentication puts it."""
    return (
        f"{visitor.client_ip} - {visitor.user} [{at:%d/%b/%Y:%H:%M:%S %z}] "
        f'"GET /api/v1/items?page=3 HTTP/1.1" 200 5124 "{REFERER}" "{BROWSER}"'
    )


def kong(visitor: Visitor, at: datetime) -> str:
    """A line as Kong's file-log plugin writes it."""
    began_ms = int(at.timestamp() * 1_000)
    headers = {**visitor.headers, "user-agent": BROWSER, "referer": REFERER}
    headers["cookie"] = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    return _json(
        {
            "latencies": {"kong": 2, "proxy": 31, "request": 33, "receive": 0},
            "service": _service(),
            "request": {
                "id": f"{began_ms:032x}",
                "method": "GET",
                "uri": "/api/v1/items?page=3",
                "url": "http://shop.example:8000/api/v1/items?page=3",
                "size": 512,
                "querystring": {"page": "3"},
                "headers": headers,
            },
            "client_ip": visitor.client_ip,
            "tries": [{"ip": "10.9.0.7", "port": 8080, "balancer_latency": 0}],
            "upstream_status": "200",
            "upstream_uri": "/api/v1/items?page=3",
            "response": {
                "status": 200,
                "size": 5_124,
                "headers": {"content-type": "application/json", "x-kong-proxy-latency": "2"},
            },
            "route": {"id": "5b0c8a62-9f3e-4c39-8e0a-6f60b2d1c111", "name": "shop-route"},
            "workspace": "0dc6f45b-8f8d-40d2-a504-473544ee190b",
            "started_at": began_ms,
        }
    )


def described(visitor: Visitor, at: datetime) -> str:
    """A request described by the fields of a DecideRequest."""
    return _json(
        {
            "headers": visitor.headers,
            "cookies": visitor.cookies,
            "client_ip": visitor.client_ip,
            "path": "/api/v1/items",
            "service_key": SERVICE_KEY,
            "at": at.isoformat(),
        }
    )


FORMATS: dict[str, Line] = {"combined": combined, "kong": kong, "requests": described}


def write(path: Path, line: Line, lines: int, visit: int) -> None:
    """A log of so many lines, a hundred a second, by ``AT_ONCE`` visitors at a time.

    Each of them makes about ``visit`` requests, all different from those of the others.
    """
    draw = Random(1)
    with path.open("w") as file:
        for number in range(lines):
            at = BEGIN + timedelta(milliseconds=10 * number)
            who = number if visit == 1 else number // visit + draw.randrange(AT_ONCE)
            file.write(line(visitor(who), at) + "\n")


def _service() -> dict[str, Any]:
    return {
        "id": "2f0a1f1e-3f5c-4f0e-9d8b-0c7a3b1f2222",
        "name": SERVICE_KEY,
        "host": "shop-v1",
        "port": 80,
        "protocol": "http",
        "retries": 5,
        "connect_timeout": 60_000,
        "read_timeout": 60_000,
        "write_timeout": 60_000,
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
