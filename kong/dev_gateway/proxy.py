"""One request from first byte to log phase: route, access phases, upstream, response, log."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import ClientConnectionError, ClientPayloadError
from aiohttp.web import BaseRequest, StreamResponse
from multidict import CIMultiDict

from dev_gateway import key_auth, responses
from dev_gateway.address import (
    Network,
    forwarded_ip,
    is_ip,
    is_trusted,
    join_host_port,
    split_host_port,
)
from dev_gateway.balancer import Balancer, Peer
from dev_gateway.context import BalancerData, ExitResponse, Phase, RequestContext, Source
from dev_gateway.entities import DeclarativeConfig, PluginConfig
from dev_gateway.errors import LuaError, ProxyError
from dev_gateway.headers import Headers, as_table, tokens
from dev_gateway.lua import raw
from dev_gateway.pdk.response import Exited
from dev_gateway.phases import PluginServer
from dev_gateway.plugin_info import PluginInfo
from dev_gateway.responses import ClientResponse
from dev_gateway.router import Router, upstream_path
from dev_gateway.scopes import Scopes
from dev_gateway.upstream import (
    Timeouts,
    UpstreamError,
    UpstreamPool,
    UpstreamRequest,
    UpstreamResponse,
)
from dev_gateway.uri import escape

log = logging.getLogger(__name__)

# Kong sets these itself, or nginx does not pass them on.
_NOT_FORWARDED = frozenset(
    {
        "connection", "expect", "host", "keep-alive", "proxy", "proxy-connection", "te",
        "transfer-encoding", "upgrade", "via", "x-forwarded-for", "x-forwarded-host",
        "x-forwarded-path", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto",
        "x-kong-request-id", "x-real-ip",
    }
)  # fmt: skip
_NOT_RETURNED = frozenset(
    {"connection", "keep-alive", "proxy-connection", "trailer", "transfer-encoding", "upgrade"}
)
# nginx has one slot for each of these: the upstream's value takes the place of a plugin's.
_SINGLE = frozenset({"content-type", "content-length"})
_NOT_IDEMPOTENT = frozenset({"POST", "LOCK", "PATCH"})

LogHook = Callable[[RequestContext], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealIp:
    """Whose forwarded addresses are believed."""

    trusted: tuple[Network, ...] = ()
    header: str = "X-Real-IP"
    is_recursive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """All that one load of the file gives; requests keep the one that they started with."""

    config: DeclarativeConfig
    router: Router
    scopes: Scopes
    balancer: Balancer
    server: PluginServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Handles requests against a generation."""

    pool: UpstreamPool
    real_ip: RealIp
    log_hooks: Sequence[LogHook] = ()
    log_tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, request: BaseRequest, generation: Generation) -> StreamResponse:
        """Answer the client; whatever happens, the log phase follows."""
        ctx = self._context(request)
        try:
            early = await self._access(request, ctx, generation)
            if early is None:
                response = await self._forward(request, ctx, generation)
            else:
                response = await self._answer(request, ctx, early)
        finally:
            ctx.request_ms = ctx.elapsed_ms()
            self._start_log(ctx, generation)
        return response

    def _context(self, request: BaseRequest) -> RequestContext:
        headers: Headers = CIMultiDict(request.headers)
        peer_name = request.transport.get_extra_info("peername") if request.transport else None
        own_name = request.transport.get_extra_info("sockname") if request.transport else None
        peer = peer_name[0] if peer_name else "127.0.0.1"
        is_peer_trusted = is_trusted(peer, self.real_ip.trusted)
        client = peer
        if is_peer_trusted:
            client = forwarded_ip(
                peer,
                headers.getall(self.real_ip.header, []),
                self.real_ip.trusted,
                is_recursive=self.real_ip.is_recursive,
            )
        version = f"{request.version.major}.{request.version.minor}"
        target = _origin_form(request.raw_path)
        return RequestContext(
            request_id=secrets.token_hex(16),
            method=request.method,
            target=target,
            headers=headers,
            scheme="http",
            host=split_host_port(headers.get("Host", ""))[0].lower(),
            port=own_name[1] if own_name else 0,
            http_version=version,
            peer_ip=peer,
            client_ip=client,
            is_peer_trusted=is_peer_trusted,
            request_size=_request_size(request) + int(headers.get("Content-Length", 0) or 0),
        )

    async def _access(
        self, request: BaseRequest, ctx: RequestContext, generation: Generation
    ) -> ExitResponse | None:
        """Route and run the access phases; a response ends them, None lets the request through."""
        refused = self._route(ctx, generation)
        if refused is not None:
            ctx.source = Source.EXIT
            ctx.logged_plugins = [
                config for info, config in generation.scopes.global_ones() if "log" in info.phases
            ]
            return refused
        early: ExitResponse | None = None
        for info, config in generation.scopes.collect(ctx):
            if "log" in info.phases:
                ctx.logged_plugins.append(config)
            # Kong too goes on collecting after a response, so that its log phases run.
            if early is None and "access" in info.phases:
                early = await self._run_access(ctx, generation, info, config)
        if early is None and (ctx.service is None or not ctx.service.enabled):
            ctx.source = Source.EXIT
            early = responses.error(503, "no Service found with those values", ctx.request_id)
        return early

    def _route(self, ctx: RequestContext, generation: Generation) -> ExitResponse | None:
        host_header = ctx.headers.get("Host", "")
        match = generation.router.find(ctx, host_header)
        if match is None:
            return responses.error(404, responses.NO_ROUTE, ctx.request_id)
        route = match.route
        ctx.route, ctx.service, ctx.uri_captures = route, route.service, match.captures
        if "http" not in route.protocols:
            return _https_only(ctx, route.https_redirect_status_code)
        if "websocket" in tokens(ctx.headers.getall("Upgrade", [])):
            words = "the development gateway does not speak Upgrade: websocket"
            return responses.error(501, words, ctx.request_id)
        if route.strip_path and match.matched_path not in ("", "/"):
            ctx.matched_prefix = match.matched_path
        service = route.service
        if service is not None:
            ctx.upstream_path = escape(upstream_path(match, ctx.path, service.path))
            ctx.balancer = BalancerData(
                host=service.host,
                port=service.port,
                is_name=not is_ip(service.host),
                retries=service.retries,
                connect_timeout_ms=service.connect_timeout_ms,
                write_timeout_ms=service.write_timeout_ms,
                read_timeout_ms=service.read_timeout_ms,
                upstream_host=host_header if route.preserve_host else None,
            )
        return None

    async def _run_access(
        self,
        ctx: RequestContext,
        generation: Generation,
        info: PluginInfo,
        config: PluginConfig,
    ) -> ExitResponse | None:
        if info.name == key_auth.INFO.name:
            denied = key_auth.access(ctx, generation.config, config.values)
            if denied is None:
                return None
            ctx.source = Source.EXIT
            challenge = [("WWW-Authenticate", denied.challenge)]
            return responses.error(401, denied.message, ctx.request_id, challenge)
        try:
            await generation.server.handle(ctx, Phase.ACCESS, config)
        except LuaError as fault:
            log.error("[%s] %s", config.name, fault)
            ctx.source = Source.ERROR
            return responses.plugin_failure()
        except Exited as left:
            ctx.source = Source.EXIT
            return left.response
        return None

    async def _answer(
        self, request: BaseRequest, ctx: RequestContext, early: ExitResponse
    ) -> StreamResponse:
        """Send a response of Kong's own."""
        ctx.kong_ms = ctx.elapsed_ms()
        pairs, body = responses.rendered(early, list(ctx.preset_headers.items()))
        own = [
            ("X-Kong-Response-Latency", str(ctx.kong_ms)),
            ("Server", responses.SERVER),
            ("X-Kong-Request-Id", ctx.request_id),
        ]
        ctx.status = early.status
        ctx.response_headers = responses.logged_headers([*pairs, *own], is_chunked=False)
        response = ClientResponse(
            early.status,
            None,
            [("Date", responses.now_text()), *pairs, *own],
            first_body=body,
        )
        await response.prepare(request)
        await response.write_eof()
        ctx.bytes_sent = response.bytes_sent
        return response

    async def _forward(
        self, request: BaseRequest, ctx: RequestContext, generation: Generation
    ) -> StreamResponse:
        try:
            upstream = await self._send(request, ctx, generation)
        except ProxyError as failure:
            log.error("%s %s: %s", ctx.method, ctx.target, failure.message)
            ctx.source = Source.ERROR if failure.unexpected else Source.EXIT
            words = None if failure.unexpected else failure.message
            return await self._answer(
                request, ctx, responses.error(failure.status, words, ctx.request_id)
            )
        try:
            return await self._relay(request, ctx, upstream)
        finally:
            await upstream.release()

    async def _send(
        self, request: BaseRequest, ctx: RequestContext, generation: Generation
    ) -> UpstreamResponse:
        """Try peers until one answers; ProxyError after the last."""
        data = ctx.balancer
        assert data is not None
        timeouts = _timeouts(data)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        tries_left = 0 if data.is_direct else data.retries
        while True:
            peer = await generation.balancer.peer(data)
            current = _begin_try(data, peer)
            ctx.kong_ms = ctx.elapsed_ms()
            sent = time.monotonic()
            try:
                response = await self.pool.send(
                    (peer.ip, peer.port), _request_for(request, ctx, peer), timeouts
                )
            except UpstreamError as failure:
                status = 504 if failure.is_timeout else 502
                data.try_statuses.append(str(status))
                current.update({"state": "failed", "code": status})
                log.error("upstream %s:%s: %s", peer.ip, peer.port, failure)
                if tries_left == 0 or not _may_repeat(request, failure):
                    words = f"no response from {peer.ip}:{peer.port}: {failure}"
                    raise ProxyError(status, words, unexpected=True) from failure
                tries_left -= 1
                continue
            ctx.waiting_ms = int((time.monotonic() - sent) * 1000)
            data.try_statuses.append(str(response.status))
            return response

    async def _relay(
        self, request: BaseRequest, ctx: RequestContext, upstream: UpstreamResponse
    ) -> StreamResponse:
        """Pass the upstream's response on as it comes."""
        ctx.source, ctx.status = Source.SERVICE, upstream.status
        pairs = _response_headers(ctx, upstream)
        content = upstream.content
        started = time.monotonic()
        # What is here already leaves with the head, in one packet.
        here = content.read_nowait() if content.total_bytes and not content.exception() else b""
        response = ClientResponse(upstream.status, upstream.reason, pairs, first_body=here)
        try:
            await response.prepare(request)
            ctx.response_headers = responses.logged_headers(pairs, is_chunked=response.is_chunked)
            while data := await content.readany():
                await response.send(data)
            await response.write_eof()
        except (ClientPayloadError, ClientConnectionError, TimeoutError) as fault:
            # The head is gone: all that is left is to cut the response off.
            log.error("%s %s: response cut off: %s", ctx.method, ctx.target, fault)
            response.force_close()
            if request.transport is not None:
                request.transport.close()
        ctx.receive_ms = int((time.monotonic() - started) * 1000)
        ctx.bytes_sent = response.bytes_sent
        return response

    def _start_log(self, ctx: RequestContext, generation: Generation) -> None:
        for hook in self.log_hooks:
            hook(ctx)
        for config in ctx.logged_plugins:
            task = asyncio.get_running_loop().create_task(_run_log(ctx, generation, config))
            self.log_tasks.add(task)
            task.add_done_callback(self.log_tasks.discard)

    async def drain(self) -> None:
        """Wait for the log phases under way."""
        while self.log_tasks:
            await asyncio.wait(list(self.log_tasks))


async def _run_log(ctx: RequestContext, generation: Generation, config: PluginConfig) -> None:
    """A timer in Kong: its errors reach the log and nobody else."""
    try:
        await generation.server.handle(ctx, Phase.LOG, config)
    except LuaError as fault:
        log.error("[%s] log phase: %s", config.name, fault)


def _origin_form(target: str) -> str:
    if target.startswith("/"):
        return target
    _, _, rest = target.partition("://")
    slash = rest.find("/")
    return rest[slash:] if slash >= 0 else "/"


def _request_size(request: BaseRequest) -> int:
    """The request line and headers as received, as nginx counts them."""
    lines = sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    return len(raw(f"{request.method} {request.raw_path} HTTP/1.1")) + 2 + lines + 2


def _https_only(ctx: RequestContext, status: int) -> ExitResponse:
    if status == 426:
        upgrade = [("Connection", "Upgrade"), ("Upgrade", "TLS/1.2, HTTP/1.1")]
        return responses.error(426, "Please use HTTPS protocol", ctx.request_id, upgrade)
    location = f"https://{ctx.host}{ctx.target}"
    return ExitResponse(status=status, headers={"Location": location})


def _timeouts(data: BalancerData) -> Timeouts:
    return Timeouts(
        connect_s=data.connect_timeout_ms / 1000,
        write_s=data.write_timeout_ms / 1000,
        read_s=data.read_timeout_ms / 1000,
    )


def _begin_try(data: BalancerData, peer: Peer) -> dict[str, object]:
    """What the log will say of this try; a failure is added to it."""
    now = time.time_ns()
    current: dict[str, object] = {
        "balancer_start": now // 1_000_000,
        "balancer_start_ns": float(now),
        "ip": peer.ip,
        "port": peer.port,
    }
    took = time.time_ns() - now
    current |= {"balancer_latency": took // 1_000_000, "balancer_latency_ns": took}
    data.tries.append(current)
    return current


def _may_repeat(request: BaseRequest, failure: UpstreamError) -> bool:
    """A body that was read cannot be sent again, nor a request that may have had an effect."""
    if not failure.is_sent:
        return True
    return not request.body_exists and request.method not in _NOT_IDEMPOTENT


def _request_for(request: BaseRequest, ctx: RequestContext, peer: Peer) -> UpstreamRequest:
    has_body = request.body_exists
    is_chunked = has_body and "Content-Length" not in ctx.headers
    target = f"{ctx.upstream_path}?{ctx.query}" if ctx.has_query else ctx.upstream_path
    lines = [f"{ctx.method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in _own_headers(ctx, peer) if value]
    dropped = _NOT_FORWARDED | (tokens(ctx.headers.getall("Connection", [])) - {"close"})
    lines += [
        f"{name}: {value}" for name, value in ctx.headers.items() if name.lower() not in dropped
    ]
    if is_chunked:
        lines.append("Transfer-Encoding: chunked")
    return UpstreamRequest(
        method=ctx.method,
        head=raw("\r\n".join(lines)) + b"\r\n\r\n",
        body=request.content if has_body else None,
        is_chunked=is_chunked,
    )


def _own_headers(ctx: RequestContext, peer: Peer) -> list[tuple[str, str]]:
    data = ctx.balancer
    assert data is not None
    headers = ctx.headers
    via = f"{ctx.http_version} {responses.SERVER}"
    chain = headers.getall("X-Forwarded-For", [])
    te = "trailers" if "trailers" in tokens(headers.getall("TE", [])) else ""

    def forwarded(name: str, otherwise: str) -> str:
        given = headers.get(name) if ctx.is_peer_trusted else None
        return given if given is not None else otherwise

    return [
        ("Host", data.upstream_host or join_host_port(peer.hostname, peer.nominal_port)),
        ("Connection", "keep-alive"),
        ("TE", te),
        ("Via", ", ".join([*headers.getall("Via", []), via])),
        ("X-Forwarded-For", ", ".join([*chain, ctx.peer_ip if chain else ctx.client_ip])),
        ("X-Forwarded-Proto", forwarded("X-Forwarded-Proto", ctx.scheme)),
        ("X-Forwarded-Host", forwarded("X-Forwarded-Host", ctx.host)),
        ("X-Forwarded-Port", forwarded("X-Forwarded-Port", str(ctx.port))),
        ("X-Forwarded-Path", forwarded("X-Forwarded-Path", ctx.raw_path)),
        ("X-Forwarded-Prefix", forwarded("X-Forwarded-Prefix", ctx.matched_prefix or "")),
        ("X-Real-IP", ctx.client_ip),
        ("X-Kong-Request-Id", ctx.request_id),
    ]


def _response_headers(ctx: RequestContext, upstream: UpstreamResponse) -> list[tuple[str, str]]:
    """What the phases set, then the upstream's, then Kong's own."""
    dropped = _NOT_RETURNED | tokens(upstream.headers.getall("Connection", []))
    theirs = [
        (name, value) for name, value in upstream.headers.items() if name.lower() not in dropped
    ]
    given = as_table(theirs, limit=len(theirs))
    replaced = {name for name in _SINGLE if name in given} | {"content-length"}
    pairs = [
        (name, value) for name, value in ctx.preset_headers.items() if name.lower() not in replaced
    ]
    via = given.get("via")
    before = [via] if isinstance(via, str) else via or []
    pairs += [(name, value) for name, value in theirs if name.lower() != "via"]
    if "date" not in given:
        pairs.append(("Date", responses.now_text()))
    if "server" not in given:
        pairs.append(("Server", responses.SERVER))
    return [
        *pairs,
        ("X-Kong-Upstream-Latency", str(ctx.waiting_ms)),
        ("X-Kong-Proxy-Latency", str(ctx.kong_ms)),
        ("Via", ", ".join([*before, responses.VIA])),
        ("X-Kong-Request-Id", ctx.request_id),
    ]
