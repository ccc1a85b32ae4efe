"""How outcomes are heard of, from the gateway to the decision service."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canary_plugin.handler import Handler
from canary_plugin.outcomes.aggregate import Aggregate
from canary_plugin.outcomes.handlers import ListeningHandler, ReportingHandler
from canary_plugin.outcomes.ledger import Ledger
from canary_plugin.outcomes.noted import Noted
from canary_plugin.outcomes.receiver import Receiver
from canary_plugin.outcomes.sender import Sender
from canary_plugin.settings import Settings
from canary_plugin.troubles import Troubles

if TYPE_CHECKING:
    from canary_plugin.deciders.service import Stubs


class Hearing:
    """Hears by nginx's access log, by Kong's log phase, or not at all, as the settings say."""

    def __init__(self, settings: Settings, stubs: Stubs, troubles: Troubles, noted: Noted) -> None:
        self._settings = settings
        aggregate = Aggregate(time.monotonic)
        self._ledger = Ledger(
            aggregate, troubles, time.monotonic, grace_s=settings.outcomes_grace_s
        )
        self._receiver = Receiver(self._ledger.hear)
        self._sender = Sender(
            stubs,
            aggregate,
            self._ledger,
            troubles,
            settings.gateway,
            noted,
            every_s=settings.outcomes_every_s,
        )

    def handler(self, *parts: Any) -> Handler:
        """A handler with the ear that its gateway needs."""
        ledger = self._ledger
        if self._settings.outcomes == "log":
            return ReportingHandler(*parts, expect=ledger.expect, hear=ledger.settle)
        if self._settings.outcomes == "syslog":
            return ListeningHandler(*parts, expect=ledger.expect, drain=self._receiver.drain)
        return Handler(*parts)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hear and send while this is open; at the end, what was heard is sent."""
        sending = asyncio.create_task(self._sender.run())
        try:
            with self._receiving():
                yield
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await self._sender.close()

    def _receiving(self) -> contextlib.AbstractContextManager[None]:
        if self._settings.outcomes != "syslog":
            return contextlib.nullcontext()
        beside = str(Path(self._settings.socket).with_name("outcomes.sock"))
        where = self._settings.outcomes_socket or beside
        return self._receiver.open(where, self._settings.socket_mode)
