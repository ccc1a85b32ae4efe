"""What can be set, with units in the names; read once at the start, by ``__main__``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one decision service."""

    listen: str = "127.0.0.1:50051"
    admin_listen: str = "127.0.0.1:9091"
    metrics_listen: str = "127.0.0.1:9464"
    redis_url: str = ""
    store_deadline_ms: int = 500
    person_deadline_ms: int = 10
    person_max_age_s: int = 60
    compare_every_ms: int = 500
    drain_s: float = 5.0
    log_level: str = "info"
    keep_exposed_users: bool = False
    override_key: str = ""
    access_file: str = ""
    insecure: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    health_listen: str = ""
