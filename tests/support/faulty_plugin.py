"""The plugin server, with a plugin that raises where its route's name says so.

python -m support.faulty_plugin --socket PATH ...
"""

from __future__ import annotations

from typing import Any

from canary_plugin.outcomes import hearing
from canary_plugin.outcomes.handlers import ListeningHandler

from support.unhurried_plugin import run

BEFORE_ANY_CALL, AFTER_A_CALL, AFTER_HEADERS = "raises-first", "raises-second", "raises-last"
MARKER = "x-chaos"


class PluginError(Exception):
    """A mistake in a plugin."""


class FaultyHandler(ListeningHandler):
    """Raises for whole routes before the first call, and for marked users later."""

    def access(self, kong: Any) -> None:
        """Decide, or not."""
        if self._config.service_key == BEFORE_ANY_CALL:
            raise PluginError("before the first call")
        marker = kong.request.get_header(MARKER)
        if marker == AFTER_A_CALL:
            raise PluginError("after the first call")
        super().access(kong)
        if marker == AFTER_HEADERS:
            raise PluginError("after the headers")


if __name__ == "__main__":
    hearing.ListeningHandler = FaultyHandler  # type: ignore[attr-defined]
    run("support.faulty_plugin")
