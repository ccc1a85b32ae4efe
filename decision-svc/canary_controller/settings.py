"""What can be set, with units in the names; read once at the start, by ``__main__``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one controller."""

    admin: str = "127.0.0.1:9091"
    holder: str = ""
    look_every_s: float = 1.0
    lease_s: int = 10
    call_deadline_ms: int = 3_000
    token_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    prometheus_url: str = ""
    notify_file: str = ""
    webhook_secret_file: str = ""
    reports_dir: str = ""
    istio_file: str = ""
    kubernetes_url: str = ""
    kubernetes_token_file: str = ""
    kubernetes_ca_file: str = ""
    metrics_listen: str = "127.0.0.1:9466"
    health_listen: str = ""
    log_level: str = "info"
