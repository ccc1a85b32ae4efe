"""The plugin server's calls where credentials are asked for: with a token, by certificate, both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from canary.decision.v1 import decision_pb2 as pb
from canary_plugin.credentials import CredentialFiles, Credentials
from canary_plugin.deciders.service import Service
from canary_plugin.deciders.stream import DecideStream
from canary_plugin.troubles import Troubles
from support.access import Tokens
from support.authority import Authority
from support.calls import LIMIT_S, until_so
from support.service import running_service

GATEWAY = {"*": "gateway"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def file(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "access.yml")


@pytest.fixture
def token_file(tmp_path: Path, file: Tokens) -> Path:
    path = tmp_path / "token"
    path.write_text(file.new("gateways", GATEWAY) + "\n")
    return path


def replaced(path: Path, text: str) -> str:
    """Write the file; what was in it."""
    before = path.read_text()
    path.write_text(text)
    return before


@asynccontextmanager
async def asking(
    address: str, files: CredentialFiles
) -> AsyncIterator[tuple[Service, DecideStream, Troubles]]:
    service, troubles = Service([address], Credentials(files)), Troubles(monotonic)
    stream = DecideStream(service.stubs, troubles)
    task = asyncio.create_task(stream.run())
    try:
        yield service, stream, troubles
    finally:
        task.cancel()
        await asyncio.wait([task])
        await service.close()


async def decided(stream: DecideStream) -> Any:
    """What the stream answers, once it stands."""
    async with asyncio.timeout(LIMIT_S):
        await stream.opened.wait()
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    request = pb.DecideRequest(service_key="shop", fallback_key="k")
    stream.ask(request, monotonic() + LIMIT_S, answer.set_result)
    return await answer


async def check_every_call(service: Service, stream: DecideStream) -> None:
    """One call of each kind: the stream of questions, a stream of policies, a single call."""
    assert (await decided(stream)).echo == "k"
    (stub,) = service.stubs
    watching = stub.WatchPolicies(pb.WatchPoliciesRequest(gateway="g"), timeout=LIMIT_S)
    assert await watching.read() == pb.WatchPoliciesResponse()
    watching.cancel()
    outcomes = pb.ReportOutcomesRequest(batch_id="b", gateway="g")
    await stub.ReportOutcomes(outcomes, timeout=LIMIT_S)


async def test_every_call_carries_the_token(file: Tokens, token_file: Path) -> None:
    async with (
        running_service(access_file=file.write()) as running,
        asking(running.decision_address, CredentialFiles(token=str(token_file))) as (service, s, _),
    ):
        await check_every_call(service, s)


@pytest.mark.parametrize("clients", [True, False])
async def test_every_call_goes_over_tls(
    file: Tokens, token_file: Path, authority: Authority, clients: bool
) -> None:
    server, client = authority.server(), authority.client("gateway-1")
    settings = {"tls_cert": str(server.certificate), "tls_key": str(server.key)}
    files = CredentialFiles(ca=str(authority.file), token=str(token_file))
    if clients:
        settings["tls_client_ca"] = str(authority.file)
        files = CredentialFiles(
            ca=str(authority.file), certificate=str(client.certificate), key=str(client.key)
        )
    file.write(certificates=[{"common_name": "gateway-1", "roles": GATEWAY}])
    async with (
        running_service(access_file=str(file.path), **settings) as running,
        asking(running.decision_address, files) as (service, stream, _),
    ):
        await check_every_call(service, stream)


async def test_without_a_token_it_is_told_so_and_goes_on_trying(
    file: Tokens, token_file: Path
) -> None:
    right = replaced(token_file, "wrong")
    async with (
        running_service(access_file=file.write()) as running,
        asking(running.decision_address, CredentialFiles(token=str(token_file))) as (_, stream, t),
    ):
        await until_so(lambda: t.counts["decide-stream"] > 0)
        # The right one is used as soon as it is there.
        replaced(token_file, right)
        assert (await decided(stream)).echo == "k"


async def test_a_service_of_another_authority_is_not_asked(
    file: Tokens, token_file: Path, authority: Authority, tmp_path: Path
) -> None:
    server = Authority(tmp_path / "other").server()
    settings = {"tls_cert": str(server.certificate), "tls_key": str(server.key)}
    files = CredentialFiles(ca=str(authority.file), token=str(token_file))
    async with (
        running_service(access_file=file.write(), **settings) as running,
        asking(running.decision_address, files) as (_, stream, troubles),
    ):
        await until_so(lambda: troubles.counts["decide-stream"] > 0)
        assert not stream.opened.is_set()


@pytest.mark.parametrize(
    "files",
    [
        CredentialFiles(certificate="x"),
        CredentialFiles(ca="/nowhere/ca.pem"),
        CredentialFiles(ca=__file__),
    ],
)
def test_files_that_are_no_use_are_told_at_the_start(files: CredentialFiles) -> None:
    with pytest.raises(ValueError, match="--tls-"):
        Credentials(files)
