"""Where the service is reached: its gRPC ports with health and reflection, and its metrics."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import grpc
from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from decision_svc.access.tls import TlsFiles
from decision_svc.errors import BadSettings
from decision_svc.rpc import tls
from decision_svc.rpc.admission import Admission
from decision_svc.rpc.errors import RefusalInterceptor

DECISION = decision_pb2.DESCRIPTOR.services_by_name["DecisionService"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
STORE = "canary.store"
"""Name under which health tells whether the store answers."""

# Above what any valid request needs, so that an oversized value is refused by name.
_ADMIN_OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0)]
_DECISION_OPTIONS = [("grpc.max_receive_message_length", 8 << 20), ("grpc.so_reuseport", 0)]
# A watcher that vanished without a word is noticed by pings.
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Plugins ping idle streams, and two pings too many would end everybody's.
    ("grpc.http2.max_ping_strikes", 0),
]


def decision_port(healths: Any, admission: Admission) -> grpc.aio.Server:
    """The server that gateways ask."""
    return _server(_DECISION_OPTIONS, healths, DECISION, admission)


def admin_port(healths: Any, admission: Admission) -> grpc.aio.Server:
    """The server that people and controllers ask."""
    return _server(_ADMIN_OPTIONS, healths, ADMIN, admission)


def health_port(healths: Any) -> grpc.aio.Server:
    """A server that tells its health to whoever asks, for probes that have no certificate."""
    server = grpc.aio.server(options=_KEEPALIVE)
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    return server


def bind(
    server: grpc.aio.Server,
    option: str,
    address: str,
    tls_files: TlsFiles | None = None,
) -> str:
    """Bind and answer the address with the port that was given for port 0. Raises BadSettings."""
    is_path = address.startswith("unix:")
    host = "" if is_path else _host_and_port(option, address)[0]
    try:
        if tls_files is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls.credentials(tls_files))
    except RuntimeError as error:
        raise _cannot_listen(option, address) from error
    return address if is_path else f"{host}:{port}"


def serve_metrics(address: str, registry: CollectorRegistry, stack: AsyncExitStack) -> str:
    """Show metrics at an address until the stack closes, if there is one. Raises BadSettings."""
    if not address:
        return ""
    host, port = _host_and_port("--metrics-listen", address)
    try:
        server, thread = start_http_server(port, host.strip("[]"), registry)
    except OSError as error:
        raise _cannot_listen("--metrics-listen", address) from error
    stack.callback(server.server_close)
    stack.callback(thread.join)
    stack.callback(server.shutdown)
    return f"{host}:{server.server_port}"


async def tell_health(healths: Any, store_up: bool, loaded: bool) -> None:
    """Decisions need policies in memory; changes need the store."""
    serving = health_pb2.HealthCheckResponse.SERVING
    not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
    ready = serving if store_up or loaded else not_serving
    await healths.set("", ready)
    await healths.set(DECISION, ready)
    await healths.set(ADMIN, serving if store_up else not_serving)
    await healths.set(STORE, serving if store_up else not_serving)


def _server(
    options: list[tuple[str, int]], healths: Any, name: str, admission: Admission
) -> grpc.aio.Server:
    interceptors = [admission, RefusalInterceptor()]
    server = grpc.aio.server(interceptors=interceptors, options=options + _KEEPALIVE)
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    names = (name, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server


def _host_and_port(option: str, address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    # gRPC takes 99999 and listens on another port.
    if not (host and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise BadSettings(f"{option}: {address!r} is no address; write host:port")
    return host, int(port)


def _cannot_listen(option: str, address: str) -> BadSettings:
    return BadSettings(f"{option}: cannot listen on {address}: it is in use or not of this machine")
