"""TLS and client certificates by a real authority, and certificates that change meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2 as admin_pb
from canary.admin.v1 import admin_pb2_grpc
from decision_svc.app import Running
from support.access import Tokens, bearer
from support.authority import Authority, Files
from support.calls import LIMIT_S, METERED, calling, until
from support.service import running_service

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
ALICE = "spiffe://example.org/alice"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def file(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "access.yml")


def tls(authority: Authority, server: Files, *, clients: bool = True) -> dict[str, str]:
    chosen = {"tls_cert": str(server.certificate), "tls_key": str(server.key)}
    return chosen | ({"tls_client_ca": str(authority.file)} if clients else {})


@asynccontextmanager
async def secured(
    running: Running, authority: Authority, client: Files | None = None
) -> AsyncIterator[Any]:
    shown = (client.key.read_bytes(), client.certificate.read_bytes()) if client else (None, None)
    chosen = grpc.ssl_channel_credentials(authority.file.read_bytes(), *shown)
    async with grpc.aio.secure_channel(running.admin_address, chosen) as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel)


async def who(
    running: Running, authority: Authority, client: Files | None = None, token: str = ""
) -> tuple[str, dict[str, str]] | grpc.StatusCode:
    async with secured(running, authority, client) as stub:
        try:
            found = await stub.WhoAmI(
                admin_pb.WhoAmIRequest(), metadata=bearer(token), timeout=LIMIT_S
            )
        except grpc.RpcError as error:
            return error.code()
        return found.name, dict(found.roles)


async def test_certificates_are_known_by_uri_then_dns_then_common_name(
    authority: Authority, file: Tokens
) -> None:
    file.write(
        certificates=[
            {"uri": ALICE, "name": "alice", "roles": {"*": "admin"}},
            {"dns": "b.example", "roles": {"orders": "viewer"}},
            {"common_name": "carol", "roles": {"*": "operator"}},
        ]
    )
    certificates = {
        "uri": authority.client("one", uri=ALICE, dns="b.example"),
        "dns": authority.client("carol", dns="b.example"),
        "common name": authority.client("carol"),
        "a name in another field": authority.client(ALICE.rpartition("/")[2], dns="carol"),
        "none": None,
    }
    server = tls(authority, authority.server())
    async with running_service(access_file=str(file.path), **server) as running:
        found = {name: await who(running, authority, files) for name, files in certificates.items()}
    assert found == {
        "uri": ("alice", {"*": "admin"}),
        "dns": ("b.example", {"orders": "viewer"}),
        "common name": ("carol", {"*": "operator"}),
        "a name in another field": UNAUTHENTICATED,
        "none": UNAVAILABLE,
    }


async def test_a_certificate_of_another_authority_does_not_connect(
    authority: Authority, file: Tokens, tmp_path: Path
) -> None:
    file.write(certificates=[{"common_name": "carol", "roles": {"*": "admin"}}])
    stranger = Authority(tmp_path / "other").client("carol")
    server = tls(authority, authority.server())
    async with running_service(access_file=str(file.path), **server) as running:
        assert await who(running, authority, stranger) is UNAVAILABLE


async def test_a_token_over_tls_needs_no_certificate_and_comes_before_one(
    authority: Authority, file: Tokens
) -> None:
    token = file.new("ci", {"*": "viewer"})
    file.write(certificates=[{"common_name": "carol", "roles": {"*": "admin"}}])
    files = authority.server()
    async with running_service(
        access_file=str(file.path), **tls(authority, files, clients=False)
    ) as running:
        assert await who(running, authority, token=token) == ("ci", {"*": "viewer"})
        assert await who(running, authority) is UNAUTHENTICATED
    async with running_service(access_file=str(file.path), **tls(authority, files)) as running:
        carol = authority.client("carol")
        assert await who(running, authority, carol, token) == ("ci", {"*": "viewer"})
        assert await who(running, authority, carol, "wrong") is UNAUTHENTICATED


async def test_without_tls_nobody_connects_to_a_port_that_has_it(
    authority: Authority, file: Tokens
) -> None:
    token = file.new("ci", {"*": "viewer"})
    server = tls(authority, authority.server(), clients=False)
    async with (
        running_service(access_file=file.write(), **server) as running,
        grpc.aio.insecure_channel(running.admin_address) as channel,
    ):
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            await stub.WhoAmI(admin_pb.WhoAmIRequest(), metadata=bearer(token), timeout=LIMIT_S)
        assert error.value.code() is UNAVAILABLE


async def test_a_new_certificate_and_a_new_authority_are_used_without_a_restart(
    authority: Authority, file: Tokens, tmp_path: Path
) -> None:
    file.write(certificates=[{"common_name": "carol", "roles": {"*": "viewer"}}])
    later = Authority(tmp_path / "later")
    files = authority.server()
    settings = tls(authority, files) | METERED
    async with (
        running_service(access_file=str(file.path), **settings) as running,
        calling(running) as metered,
    ):
        carol = authority.client("carol")
        assert await who(running, authority, carol) == ("carol", {"*": "viewer"})
        # Half of it is there: what was read before stays in force.
        renewed = later.server()
        files.key.write_bytes(renewed.key.read_bytes())

        async def is_outdated() -> bool:
            return bool(await metered.metric("canary_credentials_outdated", file="tls"))

        await until(is_outdated)
        assert await who(running, authority, carol) == ("carol", {"*": "viewer"})
        files.certificate.write_bytes(renewed.certificate.read_bytes())
        authority.file.write_bytes(later.file.read_bytes())

        async def is_renewed() -> bool:
            return await who(running, later, later.client("carol")) == ("carol", {"*": "viewer"})

        await until(is_renewed)
        assert await who(running, later, carol) is UNAVAILABLE
