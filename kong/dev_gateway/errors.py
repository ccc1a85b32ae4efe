"""Everything that can go wrong in the gateway, one tree.

GatewayError
├── ConfigError     the file, or a schema, says something that can't be honoured
├── PluginQueryError the query command gave no usable plugin description
├── RpcError          a call to the plugin server failed: logged, the request goes on
├── LuaError          what Kong would raise as a Lua error: the client gets a 500
└── ProxyError      no response from upstream; carries the status that Kong would send
"""

from collections.abc import Sequence


class GatewayError(Exception):
    """The root of the gateway's own errors."""


class ConfigError(GatewayError):
    """Names every complaint, each with its path."""

    def __init__(self, complaints: Sequence[str]) -> None:
        super().__init__("; ".join(complaints))
        self.complaints = tuple(complaints)


class PluginQueryError(GatewayError):
    """The query command could not be run, or its output is no plugin description."""


class RpcError(GatewayError):
    """The plugin server was not reached, did not answer, or answered with an error."""


class LuaError(GatewayError):
    """Raised where Kong's Lua would call error()."""


class ProxyError(GatewayError):
    """Proxying ended without an upstream response."""

    def __init__(self, status: int, message: str, *, unexpected: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.unexpected = unexpected
