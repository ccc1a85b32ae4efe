"""Tokens: who a change is by, files that change while the service runs, and what is never said."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from canary.admin.v1 import admin_pb2 as admin_pb
from canary.admin.v1 import admin_pb2_grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary.policy.v1 import policy_pb2 as policy_pb
from decision_svc.app import Running
from decision_svc.errors import BadSettings
from support import calls
from support.access import Tokens, bearer
from support.calls import LIMIT_S, METERED
from support.service import running_service
from support.service_process import PATIENCE_S

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
OUTDATED = "canary_credentials_outdated"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


class Admin:
    """Admin calls by one holder of a token."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        self._token = token

    async def __call__(self, method: str, **fields: Any) -> Any:
        request = getattr(admin_pb, f"{method}Request")(**fields)
        call = getattr(self._stub, method)
        return await call(request, metadata=bearer(self._token), timeout=LIMIT_S)

    async def code(self, method: str, **fields: Any) -> grpc.StatusCode:
        try:
            await self(method, **fields)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@asynccontextmanager
async def calling(running: Running, token: str) -> AsyncIterator[Admin]:
    async with grpc.aio.insecure_channel(running.admin_address) as channel:
        yield Admin(channel, token)


@pytest.fixture
def file(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "access.yml")


def a_change(key: str = "shop", actor: str = "") -> admin_pb.Change:
    return admin_pb.Change(service_key=key, actor=actor, reason="why")


def a_version(name: str = "v1") -> policy_pb.Version:
    return policy_pb.Version(version=name, backend=policy_pb.Backend(upstream=name))


async def until_code(admin: Admin, code: grpc.StatusCode) -> None:
    async def is_so() -> bool:
        return await admin.code("WhoAmI") is code

    await calls.until(is_so)


async def test_a_change_is_by_whom_the_credentials_say(file: Tokens) -> None:
    token = file.new("alice", {"*": "operator"})
    async with (
        running_service(access_file=file.write()) as running,
        calling(running, token) as alice,
    ):
        await alice("RegisterVersion", change=a_change(), version=a_version("v1"))
        await alice("RegisterVersion", change=a_change(actor="alice"), version=a_version("v2"))
        changes = await alice("ListChanges", service_key="shop")
        assert [change.actor for change in changes.changes] == ["alice", "alice"]


async def test_another_name_than_the_credentials_is_refused(file: Tokens) -> None:
    token = file.new("alice", {"*": "operator"})
    async with (
        running_service(access_file=file.write()) as running,
        calling(running, token) as alice,
    ):
        change = a_change(actor="bob")
        with pytest.raises(grpc.RpcError) as error:
            await alice("RegisterVersion", change=change, version=a_version())
        assert error.value.code() is INVALID
        assert "you are 'alice'" in str(error.value.details())
        assert await alice.code("HaltAll", actor="bob", reason="why") is INVALID
        assert await alice.code("RemoveProfile", user="u", actor="bob", reason="why") is INVALID


async def test_insecure_the_request_says_who(file: Tokens) -> None:
    async with running_service() as running, calling(running, "") as anybody:
        await anybody("RegisterVersion", change=a_change(actor="bob"), version=a_version())
        changes = await anybody("ListChanges", service_key="shop")
        assert [change.actor for change in changes.changes] == ["bob"]
        assert (await anybody("WhoAmI")).insecure


async def test_who_am_i_tells_name_and_roles(file: Tokens) -> None:
    token = file.new("alice", {"shop": "operator", "*": "viewer"})
    async with (
        running_service(access_file=file.write()) as running,
        calling(running, token) as alice,
    ):
        found = await alice("WhoAmI")
        assert (found.name, dict(found.roles)) == ("alice", {"shop": "operator", "*": "viewer"})
        assert not found.insecure


async def test_lists_show_what_the_caller_may_see(file: Tokens) -> None:
    admin_token = file.new("root", {"*": "admin"})
    token = file.new("alice", {"shop": "viewer"})
    async with (
        running_service(access_file=file.write()) as running,
        calling(running, admin_token) as root,
        calling(running, token) as alice,
    ):
        for key in ("shop", "other"):
            await root("RegisterVersion", change=a_change(key), version=a_version())
        seen = {name: await who("ListServices") for name, who in (("root", root), ("al", alice))}
    assert {n: [s.service_key for s in a.services] for n, a in seen.items()} == {
        "root": ["other", "shop"],
        "al": ["shop"],
    }


@pytest.mark.parametrize("demand", ["start", "promote", "widen"])
async def test_guards_are_tightened_by_operators_and_loosened_by_admins(
    file: Tokens, demand: str
) -> None:
    operator, admin = file.new("op", {"*": "operator"}), file.new("root", {"*": "admin"})
    strict = policy_pb.Guards(approvals=policy_pb.ApprovalRules(**{demand: True}))
    async with (
        running_service(access_file=file.write()) as running,
        calling(running, operator) as op,
        calling(running, admin) as root,
    ):
        ok = grpc.StatusCode.OK
        assert await op.code("SetGuards", change=a_change(), guards=strict) is ok
        loose = {"change": a_change(), "guards": policy_pb.Guards()}
        assert await op.code("SetGuards", **loose) is DENIED
        assert await root.code("SetGuards", **loose) is ok


async def test_apply_looks_with_viewer_and_prunes_with_admin(file: Tokens) -> None:
    tokens = {role: file.new(role, {"*": role}) for role in ("viewer", "operator", "admin")}
    found = {}
    async with running_service(access_file=file.write()) as running:
        for role, token in tokens.items():
            async with calling(running, token) as who:
                for how in ({"dry_run": True}, {}, {"prune": True}):
                    code = await who.code("Apply", change=a_change(), **how)
                    found[role, *how] = code is not DENIED
    assert found == {
        ("viewer", "dry_run"): True, ("viewer",): False, ("viewer", "prune"): False,
        ("operator", "dry_run"): True, ("operator",): True, ("operator", "prune"): False,
        ("admin", "dry_run"): True, ("admin",): True, ("admin", "prune"): True,
    }  # fmt: skip


async def test_a_token_works_from_when_it_is_in_the_file_until_it_is_not(file: Tokens) -> None:
    file.new("other", {"*": "viewer"})
    async with running_service(access_file=file.write()) as running:
        token = file.new("alice", {"*": "viewer"})
        async with calling(running, token) as alice:
            assert await alice.code("WhoAmI") is UNAUTHENTICATED
            file.write()
            await until_code(alice, grpc.StatusCode.OK)
            del file.document["tokens"][1]
            file.write()
            await until_code(alice, UNAUTHENTICATED)


async def test_a_token_that_has_expired_is_refused(file: Tokens) -> None:
    token = file.new("alice", {"*": "viewer"}, expires_at="2020-01-01T00:00:00Z")
    async with (
        running_service(access_file=file.write()) as running,
        calling(running, token) as alice,
    ):
        assert await alice.code("WhoAmI") is UNAUTHENTICATED


async def test_a_wrong_file_leaves_the_one_before_in_force_and_is_told(
    file: Tokens, capsys: pytest.CaptureFixture[str]
) -> None:
    token = file.new("alice", {"*": "viewer"})
    async with (
        running_service(access_file=file.write(), **METERED) as running,
        calling(running, token) as alice,
        calls.calling(running) as metered,
    ):

        async def until_outdated(value: float) -> None:
            async def is_so() -> bool:
                return await metered.metric(OUTDATED, file="access") == value

            await calls.until(is_so)

        good = file.path.read_text()
        file.path.write_text(f"tokens: [{{name: x, sha256: {token}, rolls: 1}}]")
        await until_outdated(1)
        assert await alice.code("WhoAmI") is grpc.StatusCode.OK
        file.path.write_text(good)
        await until_outdated(0)
    said = capsys.readouterr()
    assert "tokens[0].sha256" in said.out + said.err
    assert token not in said.out + said.err


async def test_open_streams_end_when_their_credentials_are_withdrawn(file: Tokens) -> None:
    file.new("other", {"*": "viewer"})
    token = file.new("gateways", {"*": "gateway"})
    async with (
        running_service(access_file=file.write()) as running,
        grpc.aio.insecure_channel(running.decision_address) as channel,
    ):
        stub: Any = decision_pb2_grpc.DecisionServiceStub(channel)
        how = {"metadata": bearer(token), "timeout": LIMIT_S}
        watching = stub.WatchPolicies(pb.WatchPoliciesRequest(gateway="g"), **how)
        await watching.read()
        asking = stub.DecideStream(**how)
        await asking.write(pb.DecideStreamRequest(requests=[pb.NumberedRequest(id=1)]))
        assert (await asking.read()).responses[0].id == 1
        del file.document["tokens"][1]
        file.write()
        assert await watching.code() is UNAUTHENTICATED
        assert await asking.code() is UNAUTHENTICATED
        assert "no longer" in await asking.details()


async def test_an_open_stream_goes_on_while_other_credentials_change(file: Tokens) -> None:
    token = file.new("gateways", {"*": "gateway"})
    async with (
        running_service(access_file=file.write()) as running,
        grpc.aio.insecure_channel(running.decision_address) as channel,
    ):
        stub: Any = decision_pb2_grpc.DecisionServiceStub(channel)
        asking = stub.DecideStream(metadata=bearer(token), timeout=LIMIT_S)
        await asking.wait_for_connection()
        added = file.new("alice", {"*": "viewer"})
        file.write()
        async with calling(running, added) as alice:
            await until_code(alice, grpc.StatusCode.OK)
        await asking.write(pb.DecideStreamRequest(requests=[pb.NumberedRequest(id=7)]))
        assert (await asking.read()).responses[0].id == 7


async def test_two_tokens_at_once_or_another_scheme_are_refused(file: Tokens) -> None:
    token = file.new("alice", {"*": "viewer"})
    async with (
        running_service(access_file=file.write()) as running,
        grpc.aio.insecure_channel(running.admin_address) as channel,
    ):
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        for metadata in (
            (*bearer(token), *bearer(token)),
            (("authorization", f"Basic {token}"),),
            (("authorization", token),),
            (("authorization", "Bearer"),),
        ):
            with pytest.raises(grpc.RpcError) as error:
                await stub.WhoAmI(admin_pb.WhoAmIRequest(), metadata=metadata)
            assert error.value.code() is UNAUTHENTICATED


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"listen": "0.0.0.0:0"}, "--listen 0.0.0.0:0"),
        ({"admin_listen": "[::]:0"}, "--admin-listen"),
        ({"metrics_listen": "10.1.2.3:9464"}, "--metrics-listen"),
        ({"listen": "example.invalid:1"}, "--listen"),
        ({"insecure": False}, "--access-file"),
        ({"access_file": "x", "insecure": True}, "--insecure"),
        ({"access_file": "/nowhere/access.yml"}, "/nowhere/access.yml"),
        ({"tls_cert": "x"}, "--tls-key"),
        ({"tls_client_ca": "x"}, "--tls-cert"),
        ({"tls_cert": "/nowhere/c", "tls_key": "/nowhere/k"}, "/nowhere/c"),
    ],
)
async def test_settings_that_would_let_anybody_in_are_refused(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(BadSettings) as error:
        async with running_service(**settings):
            pass
    assert complaint in str(error.value)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0", "127.9.9.9:0"])
async def test_insecure_is_for_addresses_of_this_machine_alone(address: str) -> None:
    async with running_service(listen=address):
        pass


async def test_health_has_an_address_of_its_own(file: Tokens) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    file.new("alice", {"*": "viewer"})
    access = {"access_file": file.write(), "health_listen": "127.0.0.1:0"}
    async with (
        running_service(**access) as running,
        grpc.aio.insecure_channel(running.health_address) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT_S)
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            await stub.WhoAmI(admin_pb.WhoAmIRequest(), timeout=LIMIT_S)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_process_never_writes_a_token(file: Tokens) -> None:
    good = file.new("alice", {"*": "admin"})
    wrong = f"{good}x"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "decision_svc", "--log-level=debug", "--metrics-listen="),
        *("--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"),
        f"--access-file={file.write()}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while b'"ready"' not in said and (line := await process.stdout.readline()):
                said += line
        ready = json.loads(said.splitlines()[-1])
        running = Running(
            decision_address=ready["decision"], admin_address=ready["admin"], metrics_address=""
        )
        for token in (good, wrong):
            async with calling(running, token) as who:
                await who.code("RegisterVersion", change=a_change(), version=a_version())
                await who.code("GetPolicy", service_key=token)
        file.path.write_text(yaml.safe_dump([good]))
        async with asyncio.timeout(PATIENCE_S):
            while b"credentials refused" not in said and (line := await process.stdout.readline()):
                said += line
    finally:
        process.terminate()
        said += await process.stdout.read()
        await process.wait()
    assert b"call refused" in said
    assert good.encode() not in said
