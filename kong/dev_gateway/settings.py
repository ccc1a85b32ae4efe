"""What the gateway is told on its command line."""

from dataclasses import dataclass, field
from pathlib import Path

from dev_gateway.proxy import RealIp

KONG_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything comes from flags: the environment changes nothing."""

    declarative_config: Path
    host: str = "127.0.0.1"
    port: int = 0
    plugin_socket: Path | None = None
    plugin_query_command: str | None = None
    plugin_patience_s: float = KONG_PATIENCE_S
    real_ip: RealIp = field(default_factory=RealIp)
    resolve: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    drain_s: float = 10.0
