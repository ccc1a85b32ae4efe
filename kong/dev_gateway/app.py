"""All wiring: load, listen, reload, drain."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from aiohttp.web import BaseRequest, Server, StreamResponse

from dev_gateway import key_auth
from dev_gateway.balancer import Balancer, Resolver
from dev_gateway.declarative import load_file
from dev_gateway.errors import GatewayError
from dev_gateway.phases import PluginServer
from dev_gateway.plugin_info import PluginInfo, query_plugin
from dev_gateway.protocol import RpcClient
from dev_gateway.proxy import Generation, LogHook, Proxy
from dev_gateway.router import Router
from dev_gateway.scopes import Scopes
from dev_gateway.settings import Settings
from dev_gateway.upstream import MAX_HEADERS, MAX_LINE, UpstreamPool

BACKLOG = 1024
KEEPALIVE_S = 75.0
CUT_OFF_S = 0.1  # to aiohttp, no time at all means for ever
NO_SOCKET = Path("/nonexistent/plugin.sock")

log = logging.getLogger(__name__)


class Gateway:
    """One listener, one generation of config at a time."""

    def __init__(self, settings: Settings, *, log_hooks: Sequence[LogHook] = ()) -> None:
        self._settings = settings
        self.port = settings.port  # the real one, once started
        self._resolver = Resolver(settings.resolve)
        self._pool = UpstreamPool()
        self._proxy = Proxy(pool=self._pool, real_ip=settings.real_ip, log_hooks=log_hooks)
        self._reloading = asyncio.Lock()
        self._generation: Generation | None = None
        self._server: Server | None = None
        self._listener: asyncio.Server | None = None
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def start(self) -> None:
        """Load and listen; GatewayError if the file or the plugin is not usable."""
        self._generation = await asyncio.to_thread(self._load)
        self._server = Server(
            self._serve,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
        )
        self._listener = await asyncio.get_running_loop().create_server(
            self._server, self._settings.host, self._settings.port, backlog=BACKLOG
        )
        self.port = int(self._listener.sockets[0].getsockname()[1])

    async def reload(self) -> bool:
        """Take the file as it is now; an unusable one changes nothing but the log."""
        async with self._reloading:
            try:
                fresh = await asyncio.to_thread(self._load)
            except GatewayError as fault:
                log.error("reload refused, the old configuration stays: %s", fault)
                return False
            old, self._generation = self._generation, fresh
            if old is not None:
                old.server.close()
            log.info("reloaded")
            return True

    async def stop(self) -> None:
        """Take no more requests, let those under way finish, close everything."""
        if self._listener is None or self._server is None:
            return
        self._listener.close()
        self._server.pre_shutdown()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._quiet.wait()
                await self._proxy.drain()
        except TimeoutError:
            log.warning("requests were still under way after %s s", self._settings.drain_s)
        await self._server.shutdown(timeout=CUT_OFF_S)
        self._pool.close()
        if self._generation is not None:
            self._generation.server.close()

    async def _serve(self, request: BaseRequest) -> StreamResponse:
        assert self._generation is not None
        self._under_way += 1
        self._quiet.clear()
        try:
            return await self._proxy.serve(request, self._generation)
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._quiet.set()

    def _load(self) -> Generation:
        plugin = self._query()
        known = {info.name: info for info in (key_auth.INFO, plugin) if info is not None}
        config = load_file(self._settings.declarative_config, known)
        balancer = Balancer(config.upstreams, self._resolver)
        rpc = RpcClient(
            self._settings.plugin_socket or NO_SOCKET,
            patience_s=self._settings.plugin_patience_s,
        )
        return Generation(
            config=config,
            router=Router(config.routes),
            scopes=Scopes(known.values(), config.plugins),
            balancer=balancer,
            server=PluginServer(rpc, balancer),
        )

    def _query(self) -> PluginInfo | None:
        command = self._settings.plugin_query_command
        return query_plugin(command) if command else None
