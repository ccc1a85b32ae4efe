"""A real HTTP server in the test's own loop, on a free port, with whatever answers a test needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Site:
    """Where the server is, and what it was sent."""

    url: str
    requests: list[tuple[web.Request, bytes]] = field(default_factory=list)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def has_heard(self, count: int) -> None:
        """Wait until so many requests have come."""
        async with self.came:
            await self.came.wait_for(lambda: len(self.requests) >= count)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Site]:
    """A server that answers everything by ``answer``, and is gone afterwards."""
    site = Site("")

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)
        body = await request.read()
        async with site.came:
            site.requests.append((request, body))
            site.came.notify_all()
        return await answer(request)

    application = web.Application(client_max_size=1 << 24)
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        server = web.TCPSite(runner, "127.0.0.1", 0)
        await server.start()
        host, port = runner.addresses[0][:2]
        site.url = f"http://{host}:{port}"
        yield site
    finally:
        await runner.cleanup()


async def forever(_: web.Request) -> web.StreamResponse:
    """No answer at all, until the client hangs up."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets this event")
