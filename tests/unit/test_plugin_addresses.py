"""Addresses of a decision service: what gRPC takes, and a clear word for the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from canary_plugin.deciders.addresses import Address, address


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("decision:50051", ("", "decision", 50051)),
        ("127.0.0.1:1", ("", "127.0.0.1", 1)),
        ("[::1]:50051", ("", "::1", 50051)),
        ("dns:decision:50051", ("", "decision", 50051)),
        ("dns:///decision.canary.svc:50051", ("", "decision.canary.svc", 50051)),
        ("ipv4:10.0.0.1:50051", ("", "10.0.0.1", 50051)),
        ("ipv6:[::1]:50051", ("", "::1", 50051)),
        ("unix:/run/canary/decision.sock", ("/run/canary/decision.sock", "", 0)),
        ("unix:///run/canary/decision.sock", ("/run/canary/decision.sock", "", 0)),
        ("unix:decision.sock", ("decision.sock", "", 0)),
        ("unix:/run/a%20b", ("/run/a b", "", 0)),
        ("unix-abstract:canary", ("\0canary", "", 0)),
    ],
)
def test_addresses_are_written_as_for_grpc(text: str, found: tuple[str, str, int]) -> None:
    read = address(text)
    assert (read.path, read.host, read.port) == found


@pytest.mark.parametrize(
    "text",
    ["", "decision", "decision:", ":50051", "decision:0", "decision:99999", "::1", "::1:50051",
     "unix:", "http://decision:50051", "dns://8.8.8.8/decision:50051", "xds:///decision", "a:५"],
)  # fmt: skip
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no address of a decision service") as caught:
        address(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["decision:50051", "[::1]:50051"])
def test_the_authority_is_what_was_written(text: str) -> None:
    assert address(text).authority == text


async def test_a_name_stands_for_all_its_addresses_and_the_last_one_used_comes_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts = [f"10.0.0.{number}" for number in range(8)]

    async def found(host: str, port: int, **_: Any) -> list[Any]:
        assert (host, port) == ("decision", 50051)
        # The same twice, as the system's resolver may say it.
        return [(2, 1, 6, "", (ip, port)) for ip in [*hosts, hosts[0]]]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
    read = address("decision:50051")
    orders = [await read.endpoints(("10.0.0.3", 50051)) for _ in range(30)]
    for order in orders:
        assert sorted(order) == [(host, 50051) for host in hosts]
        assert order[-1] == ("10.0.0.3", 50051)
    assert len({order[0] for order in orders}) > 1, "gateways share out over the replicas"


async def test_a_path_stands_for_itself() -> None:
    assert await Address("unix:/a", path="/a").endpoints() == ["/a"]
