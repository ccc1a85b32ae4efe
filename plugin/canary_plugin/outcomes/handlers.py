"""Handlers that have an ear for outcomes while they decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from canary_plugin.gateway import Gateway, Pdk
from canary_plugin.handler import Handler
from canary_plugin.outcomes.lines import Line, from_serialized


class ListeningHandler(Handler):
    """A handler for nginx's access log: so few lines may wait that a busy loop looks in between."""

    def __init__(self, *parts: Any, drain: Callable[[], object], **more: Any) -> None:
        super().__init__(*parts, **more)
        self._drain = drain

    def access(self, kong: Pdk) -> None:
        """Hear what waits, then decide."""
        self._drain()
        super().access(kong)


class ReportingHandler(Handler):
    """A handler that Kong also calls when a request is over, at the cost of that call."""

    def __init__(self, *parts: Any, hear: Callable[[Line | None], None], **more: Any) -> None:
        super().__init__(*parts, **more)
        self._hear = hear

    def log(self, kong: Pdk) -> None:
        """Count what became of the request."""
        self._hear(from_serialized(Gateway(kong).serialized()))
