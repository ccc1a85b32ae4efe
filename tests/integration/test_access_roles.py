"""Every call of every service, by every role: docs/access.md says who may, and so it is."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2 as admin_pb
from canary.admin.v1 import admin_pb2_grpc
from decision_svc.access.roles import METHODS, OPEN
from decision_svc.app import Running
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.access import Tokens, bearer, refused
from support.calls import LIMIT_S
from support.service import running_service

ROOT = Path(__file__).resolve().parents[2]
OWN, OTHER = "orders", "payments"
ROLES = ("viewer", "operator", "admin")
HOLDERS = {
    **{f"{role} of {key}": {key: role} for role in ROLES for key in (OWN, OTHER, "*")},
    "gateway": {"*": "gateway"},
}


def documented() -> dict[str, tuple[str, str]]:
    """Role and reach of every call, as people read it."""
    text = (ROOT / "docs" / "access.md").read_text()
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (\w+) \| ([^|]*?) ?\|$", text, re.M)
    return {call: (role, reach) for call, role, reach in rows}


def may(holder: str, role: str, reach: str) -> bool:
    """Whether this holder is to be let in, calling for the key OWN."""
    if role == "nobody":
        return True
    (key, has), *_ = HOLDERS[holder].items()
    if "gateway" in (role, has):
        return role == has
    covers = {"every key": key == "*", "any key": True}.get(reach, key in (OWN, "*"))
    return covers and ROLES.index(has) >= ROLES.index(role)


@dataclass
class Service:
    """A running service and everybody's tokens."""

    running: Running
    tokens: dict[str, str]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    file = Tokens(tmp_path / "access.yml")
    tokens = {holder: file.new(holder, roles) for holder, roles in HOLDERS.items()}
    async with running_service(access_file=file.write()) as running:
        yield Service(running, tokens)


async def served(channel: grpc.aio.Channel, token: str) -> list[MethodDescriptor]:
    """Every method that the port says it has."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    answers = stub.ServerReflectionInfo(iter(asked), metadata=bearer(token), timeout=LIMIT_S)
    (names,) = [[s.name for s in a.list_services_response.service] async for a in answers]
    pool = descriptor_pool.Default()
    return [m for name in names for m in pool.FindServiceByName(name).methods]


def request_for(method: MethodDescriptor) -> Any:
    """An empty request, but for the service key OWN."""
    request: Any = message_factory.GetMessageClass(method.input_type)()
    fields = method.input_type.fields_by_name
    if "change" in fields:
        request.change.service_key = OWN
    elif "request" in fields:
        request.request.service_key = OWN
    elif "record" in fields:
        request.record.service_key = OWN
    elif "service_key" in fields:
        request.service_key = OWN
    return request


async def is_let_in(channel: grpc.aio.Channel, method: MethodDescriptor, token: str) -> bool:
    """Make the call, and see whether it is refused for who makes it."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    who, request = bearer(token), request_for(method)
    codec = (
        lambda message: message.SerializeToString(),
        message_factory.GetMessageClass(method.output_type).FromString,
    )
    try:
        if method.client_streaming:
            both = channel.stream_stream(path, *codec)
            async for _ in both(iter(()), timeout=LIMIT_S, metadata=who):
                break
        elif method.server_streaming:
            told = channel.unary_stream(path, *codec)
            async for _ in told(request, timeout=LIMIT_S, metadata=who):
                break
        else:
            await channel.unary_unary(path, *codec)(request, timeout=LIMIT_S, metadata=who)
    except grpc.RpcError as error:
        return not refused(error)
    return True


def ports(running: Running) -> Iterator[str]:
    yield running.decision_address
    yield running.admin_address


def name_of(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}.{method.name}"


async def test_the_table_people_read_has_every_call_of_every_port(service: Service) -> None:
    found = set()
    for address in ports(service.running):
        async with grpc.aio.insecure_channel(address) as channel:
            found |= {name_of(m) for m in await served(channel, service.tokens["viewer of *"])}
    assert found == set(documented())
    assert {m.split(".")[-1].replace("/", ".") for m in {*METHODS, *OPEN}} == found


@pytest.mark.parametrize("holder", HOLDERS)
async def test_every_call_lets_in_whom_the_table_says(service: Service, holder: str) -> None:
    expected, found = {}, {}
    for address in ports(service.running):
        async with grpc.aio.insecure_channel(address) as channel:
            for method in await served(channel, service.tokens["viewer of *"]):
                name = name_of(method)
                expected[name] = may(holder, *documented()[name])
                found[name] = await is_let_in(channel, method, service.tokens[holder])
    assert found == expected


@pytest.mark.parametrize("token", ["", "canary_wrong", "a.b.c"])
async def test_without_good_credentials_nothing_but_health_answers(
    service: Service, token: str
) -> None:
    found = set()
    for address in ports(service.running):
        async with grpc.aio.insecure_channel(address) as channel:
            for method in await served(channel, service.tokens["viewer of *"]):
                if await is_let_in(channel, method, token):
                    found.add(name_of(method))
    assert found == {"Health.Check", "Health.List", "Health.Watch"}


async def test_a_call_that_has_no_role_is_nobody_s(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(METHODS, "/canary.admin.v1.AdminService/ListServices")
    async with grpc.aio.insecure_channel(service.running.admin_address) as channel:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            await stub.ListServices(
                admin_pb.ListServicesRequest(), metadata=bearer(service.tokens["admin of *"])
            )
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "nobody" in str(error.value.details())


async def test_a_refusal_names_the_role_and_the_service_key(service: Service) -> None:
    async with grpc.aio.insecure_channel(service.running.admin_address) as channel:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        change = admin_pb.Change(service_key=OWN, reason="why")
        with pytest.raises(grpc.RpcError) as error:
            await stub.SetPercentage(
                admin_pb.SetPercentageRequest(change=change, percentage=5),
                metadata=bearer(service.tokens["viewer of orders"]),
            )
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.value.details() == (
        "this takes the role operator for service key 'orders'; 'viewer of orders' does not have it"
    )
