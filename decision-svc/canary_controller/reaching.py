"""Why a server could not be reached, in words that people know from their own tools."""

from __future__ import annotations

import os

from aiohttp import ClientConnectorError, ClientSSLError


def why_unreached(error: Exception) -> str:
    """E.g. "127.0.0.1:9090: Connection refused"; of TLS, and of all else, what the library says."""
    if not isinstance(error, ClientConnectorError) or isinstance(error, ClientSSLError):
        return str(error) or type(error).__name__
    cause = error.os_error
    number = cause.errno or 0  # negative where a name was not found
    what = os.strerror(number) if number > 0 else cause.strerror or str(cause)
    return f"{error.host}:{error.port}: {what}"
