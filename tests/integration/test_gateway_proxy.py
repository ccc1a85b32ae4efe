"""The way through the gateway: routing, headers, bodies as streams, balancing, failures."""

import asyncio
import gzip
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from dev_gateway.app import Gateway
from dev_gateway.context import RequestContext
from dev_gateway.proxy import RealIp
from support.gateway import Handler, echo, gateway, named, settings, upstream
from support.raw_http import fetch, read_chunks, read_reply, send

TRUSTING = RealIp(trusted=(ipaddress.ip_network("127.0.0.1"),), header="X-Forwarded-For")


@asynccontextmanager
async def in_front_of(
    tmp_path: Path,
    handler: Handler,
    *,
    route: Mapping[str, Any] | None = None,
    service: Mapping[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[Gateway]:
    """A gateway whose only route leads to the handler."""
    async with upstream(handler) as port:
        document = single(f"http://127.0.0.1:{port}", route, service)
        async with gateway(tmp_path, document, plugin_query_command=None, **more) as running:
            yield running


def single(
    url: str, route: Mapping[str, Any] | None = None, service: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    routes = [{"name": "all", "paths": ["/"], **(route or {})}]
    return {"services": [{"name": "only", "url": url, **(service or {}), "routes": routes}]}


async def refusing_port() -> int:
    """A port on which nobody listens."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()
    return port


async def test_a_request_that_no_route_takes_gets_kongs_404(tmp_path: Path) -> None:
    async with in_front_of(tmp_path, echo, route={"paths": ["/api"]}) as running:
        reply = await fetch(running.port, "/other")
    assert reply.status == 404
    assert reply.json()["message"] == "no Route matched with those values"
    assert reply.json()["request_id"] == reply.one("X-Kong-Request-Id")
    assert reply.one("Server") == "kong/3.9.1"
    assert reply.all("X-Kong-Response-Latency")


async def test_the_upstream_learns_who_asked_and_how(tmp_path: Path) -> None:
    route = {"paths": ["/api"], "strip_path": True}
    async with in_front_of(tmp_path, echo, route=route) as running:
        forged = [("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "203.0.113.9")]
        reply = await fetch(running.port, "/api/x%20y?a=1", headers=forged, host="api.test")
    assert reply.json()["path"] == "/x%20y?a=1"
    assert reply.echoed("X-Forwarded-For") == ["203.0.113.9, 127.0.0.1"]
    assert reply.echoed("X-Forwarded-Proto") == ["http"]
    assert reply.echoed("X-Forwarded-Host") == ["api.test"]
    assert reply.echoed("X-Forwarded-Port") == [str(running.port)]
    assert reply.echoed("X-Forwarded-Path") == ["/api/x%20y"]
    assert reply.echoed("X-Forwarded-Prefix") == ["/api"]
    assert reply.echoed("X-Real-IP") == ["127.0.0.1"]
    assert reply.echoed("Via") == ["1.1 kong/3.9.1"]
    assert reply.echoed("X-Kong-Request-Id") == reply.all("X-Kong-Request-Id")
    assert reply.all("Via") == ["1.1 kong/3.9.1"]
    assert reply.all("X-Kong-Upstream-Latency")
    assert reply.all("X-Kong-Proxy-Latency")


async def test_a_trusted_peer_speaks_for_the_client(tmp_path: Path) -> None:
    async with in_front_of(tmp_path, echo, real_ip=TRUSTING) as running:
        given = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https")]
        reply = await fetch(running.port, "/", headers=given)
    assert reply.echoed("X-Real-IP") == ["203.0.113.9"]
    assert reply.echoed("X-Forwarded-Proto") == ["https"]


async def test_hop_by_hop_headers_stay_on_their_hop(tmp_path: Path) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        reply = await echo(request)
        reply.headers.update({"Connection": "keep-alive, X-Hop", "X-Hop": "1", "Keep-Alive": "9"})
        return reply

    async with in_front_of(tmp_path, handle) as running:
        given = [
            ("Connection", "keep-alive, X-Mine"),
            ("X-Mine", "1"),
            ("Keep-Alive", "5"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers, deflate"),
            ("Upgrade", "h2c"),
        ]
        reply = await fetch(running.port, "/", headers=given)
    for name in ("X-Mine", "Keep-Alive", "Proxy-Connection", "Upgrade"):
        assert reply.echoed(name) == []
    assert reply.echoed("TE") == ["trailers"]
    assert reply.all("X-Hop") + reply.all("Keep-Alive") == []
    assert reply.one("Connection") == "keep-alive"


@pytest.mark.parametrize(
    ("preserve", "expected"), [(True, "api.test:123"), (False, "127.0.0.1:{port}")]
)
async def test_the_host_header_is_the_clients_only_if_preserved(
    tmp_path: Path, preserve: bool, expected: str
) -> None:
    async with (
        upstream(echo) as port,
        gateway(
            tmp_path,
            single(f"http://127.0.0.1:{port}", {"preserve_host": preserve}),
            plugin_query_command=None,
        ) as running,
    ):
        reply = await fetch(running.port, "/", host="api.test:123")
    assert reply.echoed("Host") == [expected.format(port=port)]


async def test_a_resolved_name_keeps_its_name_in_the_host_header(tmp_path: Path) -> None:
    async with upstream(echo) as port:
        document = single("http://orders-v1")
        resolve = {"orders-v1": ("127.0.0.1", port)}
        async with gateway(
            tmp_path, document, plugin_query_command=None, resolve=resolve
        ) as running:
            reply = await fetch(running.port, "/")
    assert reply.echoed("Host") == ["orders-v1"]


async def test_an_upstreams_host_header_is_used(tmp_path: Path) -> None:
    async with upstream(echo) as port:
        document = single("http://pool") | {
            "upstreams": [
                {
                    "name": "pool",
                    "host_header": "inner.test",
                    "targets": [{"target": f"127.0.0.1:{port}"}],
                }
            ]
        }
        async with gateway(tmp_path, document, plugin_query_command=None) as running:
            reply = await fetch(running.port, "/")
    assert reply.echoed("Host") == [f"inner.test:{port}"]


async def test_targets_get_their_share(tmp_path: Path) -> None:
    async with upstream(named("one")) as one, upstream(named("three")) as three:
        targets = [
            {"target": f"127.0.0.1:{one}", "weight": 25},
            {"target": f"127.0.0.1:{three}", "weight": 75},
            {"target": "127.0.0.1:1", "weight": 0},
        ]
        document = single("http://pool") | {"upstreams": [{"name": "pool", "targets": targets}]}
        async with gateway(tmp_path, document, plugin_query_command=None) as running:
            replies = [await fetch(running.port, "/") for _ in range(40)]
    assert Counter(reply.one("X-Served-By") for reply in replies) == {"one": 10, "three": 30}


async def test_a_target_that_refuses_is_passed_over(tmp_path: Path) -> None:
    async with upstream(named("alive")) as alive:
        targets = [{"target": f"127.0.0.1:{port}"} for port in (await refusing_port(), alive)]
        document = single("http://pool") | {"upstreams": [{"name": "pool", "targets": targets}]}
        async with gateway(tmp_path, document, plugin_query_command=None) as running:
            replies = [
                await fetch(running.port, "/", method="POST", body=b"kept") for _ in range(4)
            ]
    assert {(reply.status, reply.json()["body"]) for reply in replies} == {(200, "kept")}


async def test_nobody_listening_is_a_502_after_all_retries(tmp_path: Path) -> None:
    seen: list[RequestContext] = []
    url = f"http://127.0.0.1:{await refusing_port()}"
    running = Gateway(
        settings(tmp_path, single(url, service={"retries": 2}), plugin_query_command=None),
        log_hooks=[seen.append],
    )
    await running.start()
    try:
        reply = await fetch(running.port, "/")
    finally:
        await running.stop()
    assert reply.status == 502
    words = "An invalid response was received from the upstream server"
    assert reply.json()["message"] == words
    (ctx,) = seen
    assert ctx.balancer is not None
    assert [attempt["code"] for attempt in ctx.balancer.tries] == [502, 502, 502]
    assert ctx.status == 502


async def test_an_upstream_that_says_nothing_is_a_504(tmp_path: Path) -> None:
    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    service = {"read_timeout": 50, "retries": 0}
    async with in_front_of(tmp_path, hang, service=service) as running:
        reply = await fetch(running.port, "/", method="POST", body=b"x")
    assert reply.status == 504
    assert reply.json()["message"] == "The upstream server is timing out"


@pytest.mark.parametrize(
    ("extra", "url", "words"),
    [
        ({}, "http://nowhere.invalid", "name resolution failed"),
        (
            {"upstreams": [{"name": "pool"}]},
            "http://pool",
            "failure to get a peer from the ring-balancer",
        ),
    ],
)
async def test_no_address_is_a_503(
    tmp_path: Path, extra: dict[str, Any], url: str, words: str
) -> None:
    async with gateway(tmp_path, single(url) | extra, plugin_query_command=None) as running:
        reply = await fetch(running.port, "/")
    assert (reply.status, reply.json()["message"]) == (503, words)


async def test_a_route_without_a_service_is_a_503(tmp_path: Path) -> None:
    document = {"routes": [{"name": "lone", "paths": ["/"]}]}
    async with gateway(tmp_path, document, plugin_query_command=None) as running:
        reply = await fetch(running.port, "/")
    assert (reply.status, reply.json()["message"]) == (503, "no Service found with those values")


async def test_bodies_stream_in_both_directions(tmp_path: Path) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        """Echo chunk by chunk: each waits for the client to have seen the one before."""
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        async for data in request.content.iter_any():
            await response.write(data.upper())
        return response

    async with in_front_of(tmp_path, handle) as running, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"3\r\none\r\n")
        await reader.readuntil(b"\r\n\r\n")
        chunks = read_chunks(reader)
        assert await anext(chunks) == b"ONE"
        writer.write(b"3\r\ntwo\r\n")
        assert await anext(chunks) == b"TWO"
        writer.write(b"0\r\n\r\n")
        assert [chunk async for chunk in chunks] == []
        writer.close()
        await writer.wait_closed()


async def test_a_large_body_arrives_whole_both_ways(tmp_path: Path) -> None:
    body = bytes(range(256)) * 20_000

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"".join([data async for data in request.content.iter_any()]))

    async with in_front_of(tmp_path, handle) as running:
        reply = await fetch(running.port, "/", method="PUT", body=body)
    assert reply.body == body
    assert reply.one("Content-Length") == str(len(body))


async def test_a_compressed_body_is_left_alone(tmp_path: Path) -> None:
    packed = gzip.compress(b"hello")

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert await request.read() == b"hello"
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with in_front_of(tmp_path, handle) as running:
        given = [("Content-Encoding", "gzip")]
        reply = await fetch(running.port, "/", method="POST", headers=given, body=packed)
    assert reply.body == packed


@pytest.mark.parametrize(
    ("method", "status", "length"), [("HEAD", 200, "5"), ("GET", 204, None), ("GET", 304, None)]
)
async def test_responses_without_a_body_end_with_their_head(
    tmp_path: Path, method: str, status: int, length: str | None
) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, body=b"hello" if status == 200 else None)

    async with in_front_of(tmp_path, handle) as running, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        for _ in range(2):
            writer.write(f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            reply = await read_reply(reader, is_head=method == "HEAD")
            assert reply.status == status
            assert reply.all("Content-Length") == ([length] if length else [])
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_expects_100_continue_gets_it(tmp_path: Path) -> None:
    async with in_front_of(tmp_path, echo) as running, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        reply = await read_reply(reader)
        writer.close()
        await writer.wait_closed()
    assert reply.json()["body"] == "body"
    assert reply.echoed("Expect") == []


async def test_websockets_are_refused_politely(tmp_path: Path) -> None:
    async with in_front_of(tmp_path, echo) as running:
        given = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
        reply = await fetch(running.port, "/", headers=given)
    assert reply.status == 501
    assert "does not speak Upgrade: websocket" in reply.json()["message"]


async def test_http_1_0_gets_a_response_that_ends_with_the_connection(tmp_path: Path) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"hello")
        return response

    async with in_front_of(tmp_path, handle) as running:
        reply = await send(running.port, b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
    assert (reply.body, reply.one("Connection")) == (b"hello", "close")


async def test_a_response_that_breaks_off_upstream_breaks_off_here(tmp_path: Path) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    async with in_front_of(tmp_path, handle) as running:
        with pytest.raises(asyncio.IncompleteReadError):
            await fetch(running.port, "/")


async def test_https_only_routes_ask_for_https(tmp_path: Path) -> None:
    async with in_front_of(tmp_path, echo, route={"protocols": ["https"]}) as running:
        reply = await fetch(running.port, "/")
    assert (reply.status, reply.json()["message"]) == (426, "Please use HTTPS protocol")


async def test_stopping_lets_the_request_under_way_finish(tmp_path: Path) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        arrived.set()
        await go_on.wait()
        return await echo(request)

    async with upstream(handle) as port:
        document = single(f"http://127.0.0.1:{port}")
        running = Gateway(settings(tmp_path, document, plugin_query_command=None))
        await running.start()
        asking = asyncio.create_task(fetch(running.port, "/"))
        await arrived.wait()
        stopping = asyncio.create_task(running.stop())
        go_on.set()
        reply = await asking
        await stopping
    assert reply.status == 200


async def test_a_log_hook_sees_every_finished_request(tmp_path: Path) -> None:
    seen: list[RequestContext] = []
    async with upstream(echo) as port:
        document = single(f"http://127.0.0.1:{port}", {"paths": ["/api"]})
        running = Gateway(
            settings(tmp_path, document, plugin_query_command=None), log_hooks=[seen.append]
        )
        await running.start()
        await fetch(running.port, "/api")
        await fetch(running.port, "/missing")
        await running.stop()
    assert [(ctx.status, ctx.source.value) for ctx in seen] == [(200, "service"), (404, "exit")]


async def test_a_client_that_leaves_in_mid_body_breaks_the_exchange(tmp_path: Path) -> None:
    broken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            await request.read()
        except (ConnectionError, web.RequestPayloadError):
            broken.set_result(True)
            raise
        return web.Response()

    async with in_front_of(tmp_path, handle) as running, asyncio.timeout(10):
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await broken


async def test_a_kept_connection_that_the_upstream_closed_is_replaced(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    document = single(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with gateway(tmp_path, document, plugin_query_command=None) as running:
        replies = [await fetch(running.port, "/") for _ in range(5)]
    server.close()
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"ok")] * 5
