"""The controller as a client and as a process: credentials, refusals, health, an end in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2 as policy_pb
from canary_controller.__main__ import main
from canary_controller.admin import Known, Write
from canary_controller.errors import (
    BadSettings,
    LostRace,
    Refused,
    Unknown,
    Unreachable,
)
from canary_controller.rpc.client import Client, CredentialFiles
from canary_controller.rpc.health import serving_health
from canary_engine.record import ReleaseRecord
from canary_engine.step import Action, Because, Do
from click.testing import CliRunner
from dev_stack.gateways import command
from dev_stack.processes import Process
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.access import Tokens
from support.authority import Authority
from support.calls import SHOP, Calls, a_change, ready_service
from support.process_wide import put_back
from support.redis_server import free_port
from support.service import running_service

RAISE = Action(do=Do.RAISE, because=Because.NEXT_STEP, why="x", share=20_000, control=80_000)
NOBODY = CredentialFiles()


@pytest.fixture
async def shop() -> AsyncIterator[Calls]:
    async with ready_service() as calls:
        steps = [policy_pb.PlanStep(weight=weight) for weight in (5, 20)]
        stable = policy_pb.Version(version="v1", status=policy_pb.VERSION_STATUS_STABLE)
        versions = [stable, policy_pb.Version(version="v2")]
        policy = policy_pb.Policy(plan=policy_pb.Plan(steps=steps), versions=versions)
        await calls.admin.Apply(pb.ApplyRequest(change=a_change(), policy=policy))
        start = pb.StartReleaseRequest(change=a_change(), version="v2", percentage=5)
        await calls.admin.StartRelease(start)
        yield calls


@asynccontextmanager
async def client_of(
    address: str, files: CredentialFiles = NOBODY, deadline_s: float = 5
) -> AsyncIterator[Client]:
    client = Client(address, deadline_s, files)
    try:
        yield client
    finally:
        await client.close()


async def test_a_write_is_made_at_the_revision_that_was_looked_at_and_by_the_newest_token(
    shop: Calls,
) -> None:
    async with client_of(shop.running.admin_address) as client:
        (found,) = (await client.follow([])).releases
        assert found.policy is not None
        assert found.policy.release is not None
        assert await client.services() == [SHOP]
        write = Write(service_key=SHOP, revision=found.revision, action=RAISE, token=5)
        made = await client.write(write)
        with pytest.raises(LostRace):
            await client.write(write)
        old = Write(service_key=SHOP, revision=made, action=RAISE, token=4)
        lower = Action(do=Do.HALT, because=Because.REFUSED, why="x")
        with pytest.raises(Refused, match="too late"):
            await client.write(Write(service_key=SHOP, revision=made, action=lower, token=4))
        assert await client.write(old) == made, "it changes nothing"
        known = Known(service_key=SHOP, revision=made)
        (again,) = (await client.follow([known])).releases
        assert again.policy is None
        release = (await shop.policy())["release"]
        assert (release["percentage"], release["control"], release["fence"]) == (20, 80, 5)


async def test_a_record_is_unknown_until_it_is_written_and_refuses_an_older_token(
    shop: Calls,
) -> None:
    async with client_of(shop.running.admin_address) as client:
        with pytest.raises(Unknown):
            await client.record(SHOP, "r-1")
        record = ReleaseRecord(service_key=SHOP, release_id="r-1", fence=2, verdict="pass")
        await client.put_record(record)
        assert await client.record(SHOP, "r-1") == record
        with pytest.raises(Refused, match="too late"):
            await client.put_record(ReleaseRecord(service_key=SHOP, release_id="r-1", fence=1))


async def test_a_service_that_is_not_there_is_unreachable_within_the_deadline() -> None:
    async with client_of(f"127.0.0.1:{free_port()}", deadline_s=0.2) as client:
        with pytest.raises(Unreachable):
            await client.follow([])


async def test_the_controller_shows_its_token_over_tls_and_needs_the_role_operator(
    tmp_path: Path,
) -> None:
    authority, tokens = Authority(tmp_path / "ca"), Tokens(tmp_path / "access.yaml")
    files = authority.server()
    good, weak = (tmp_path / name for name in ("good", "weak"))
    good.write_text(tokens.new("controller", {"*": "operator"}) + "\n")
    weak.write_text(tokens.new("looker", {"*": "viewer"}))
    tls = {"tls_cert": str(files.certificate), "tls_key": str(files.key)}
    async with running_service(access_file=tokens.write(), **tls) as running:
        shown = CredentialFiles(token=str(good), ca=str(authority.file))
        async with client_of(running.admin_address, shown) as client:
            assert (await client.hold_lease("me", 5)).is_held
            good.unlink()
            with pytest.raises(Refused, match="--token-file"):
                await client.hold_lease("me", 5)
        shown = CredentialFiles(token=str(weak), ca=str(authority.file))
        async with client_of(running.admin_address, shown) as client:
            with pytest.raises(Refused):
                await client.hold_lease("me", 5)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (CredentialFiles(token="/nowhere/token"), "--token-file"),
        (CredentialFiles(certificate="/nowhere/pem"), "give both or none"),
        (CredentialFiles(ca="/nowhere/pem"), "--tls-ca"),
    ],
)
async def test_credentials_that_are_no_use_are_told_at_the_start(
    files: CredentialFiles, complaint: str
) -> None:
    with pytest.raises(BadSettings, match=complaint):
        Client("127.0.0.1:1", 1, files)


async def test_a_controller_is_not_serving_before_a_tick_went_well() -> None:
    async with (
        serving_health("127.0.0.1:0") as told,
        grpc.aio.insecure_channel(told.address) as channel,
    ):
        stub, request = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest()
        answer = await stub.Check(request, timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        await told.tell(is_well=True)
        answer = await stub.Check(request, timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_controller_that_is_stopped_gives_its_lease_up_at_once(
    shop: Calls, tmp_path: Path
) -> None:
    options = ("--holder", "one", "--lease-s", "300", "--health-listen", "127.0.0.1:0")
    run = command("canary_controller", "--admin", shop.running.admin_address, *options)
    process = Process(
        "controller", [*run, "--metrics-listen", ""], tmp_path / "log", ready_word='"ready"'
    )
    ready = json.loads(await asyncio.to_thread(process.start))
    try:
        async with grpc.aio.insecure_channel(ready["health"]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            await is_serving(health)
        async with client_of(shop.running.admin_address) as client:
            held = await client.hold_lease("other", 5)
            assert (held.is_held, held.holder) == (False, "one")
            assert await asyncio.to_thread(process.stop) == 0
            assert (await client.hold_lease("other", 5)).is_held
    finally:
        process.kill()


async def is_serving(health: health_pb2_grpc.HealthStub) -> None:
    """Wait until the first tick went well."""
    async with asyncio.timeout(20):
        while True:
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest())
            except grpc.aio.AioRpcError:
                continue
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


@pytest.mark.parametrize(
    "wrong",
    [
        ["--look-every", "1h"],
        ["--lease-s", "10", "--look-every", "6s"],
        ["--notify-file", "/nowhere/notify.yaml"],
        ["--webhook-secret-file", "/nowhere/secret"],
        ["--metrics-listen", "nowhere"],
        ["--token-file", "/nowhere/token"],
    ],
)
def test_a_controller_does_not_start_with_settings_that_are_wrong(wrong: list[str]) -> None:
    with put_back():
        result = CliRunner().invoke(main, ["--metrics-listen", "", *wrong])
    assert result.exit_code == 2
    assert wrong[0] in result.output
