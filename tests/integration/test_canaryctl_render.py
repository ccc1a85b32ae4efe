"""``canaryctl render``: files for Istio and for Kong, and a gateway takes its own."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from canaryctl.app import cli
from click.testing import CliRunner
from dev_stack.stack import CANARY, STABLE
from support.calls import until_so
from support.istio import validator
from support.service import serve_in_thread
from support.stack import running_stack

SERVICE = "orders"
WRITTEN = ("--reason", "for the test", "--actor", "ada")


@pytest.fixture
def address() -> Iterator[str]:
    """A service with a release at 5 % that testers are in by a header."""
    with serve_in_thread() as service:
        release(service.admin_address, 5)
        yield service.admin_address


def run(address: str, *words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, [*words, "--address", address])
    return result.exit_code, result.stdout, result.stderr


def done(address: str, *words: str) -> str:
    code, out, err = run(address, *words)
    assert (code, err) == (0, "")
    return out


def release(address: str, percentage: float) -> None:
    register = ("version", "register", SERVICE)
    done(address, *register, STABLE, "--upstream", "orders-stable", "--status", "stable", *WRITTEN)
    done(address, *register, CANARY, "--upstream", "orders-canary", *WRITTEN)
    start = ("release", "start", SERVICE, CANARY, "--percentage", str(percentage))
    done(address, *start, *WRITTEN)
    rule = ("--source", "header", "--key", "x-canary-test", "--exact", "true")
    done(address, "rule", "add", SERVICE, "testers", *rule, "--variant", "canary", *WRITTEN)


def test_istio_s_objects_say_who_is_forced_and_what_the_others_get(address: str) -> None:
    text = done(address, "render", "istio", SERVICE, "--namespace", "shop")
    rule, service = yaml.safe_load_all(text)
    assert text.startswith(f"# {SERVICE}, revision 4: release ")
    assert f" of {CANARY}, in-progress, 5 %\n" in text
    assert "# the mesh draws for each request, not for each user\n" in text
    assert (rule["kind"], service["kind"]) == ("DestinationRule", "VirtualService")
    for thing in (rule, service):
        assert list(validator().iter_errors(thing)) == []
        assert thing["metadata"] == {"name": SERVICE, "namespace": "shop"}
    forced, weighted = service["spec"]["http"]
    assert forced["match"] == [{"headers": {"x-canary-test": {"exact": "true"}}}]
    assert [part["weight"] for part in weighted["route"]] == [95, 5]


def test_the_same_state_gives_the_same_text(address: str) -> None:
    assert done(address, "render", "istio", SERVICE) == done(address, "render", "istio", SERVICE)


def test_a_script_is_told_the_objects_and_what_was_left_out(address: str) -> None:
    done(address, "whitelist", "add", SERVICE, "--user", "u-1", *WRITTEN)
    found = json.loads(done(address, "render", "istio", SERVICE, "--output", "json"))
    assert (found["service_key"], found["revision"]) == (SERVICE, 5)
    assert [thing["kind"] for thing in found["objects"]] == ["DestinationRule", "VirtualService"]
    (part,) = found["left_out"]
    assert (part["what"], part["protects"]) == ("the whitelist", False)


def test_a_halted_release_gives_everybody_stable(address: str) -> None:
    done(address, "release", "halt", SERVICE, *WRITTEN)
    text = done(address, "render", "istio", SERVICE, "--host", "orders.shop.svc.cluster.local")
    _, service = yaml.safe_load_all(text)
    assert "no release takes traffic" in text
    (route,) = service["spec"]["http"]
    assert [part["weight"] for part in route["route"]] == [100, 0]


def test_routes_that_would_give_protected_clients_the_canary_are_refused(address: str) -> None:
    office = ("--source", "ip", "--cidr", "192.0.2.0/24", "--variant", "stable")
    done(address, "rule", "add", SERVICE, "office", *office, *WRITTEN)
    code, out, err = run(address, "render", "istio", SERVICE)
    assert (code, out) == (1, "")
    assert "rule office keeps clients on stable: a mesh does not match a client's address" in err
    assert "--leave-out" in err
    text = done(address, "render", "istio", SERVICE, "--leave-out")
    assert "# left out: rule office: a mesh does not match a client's address\n" in text


@pytest.mark.parametrize("host", ["Orders", "orders_1", "-orders", "a" * 64, "orders..svc", ""])
def test_a_host_that_no_service_can_have_is_refused(address: str, host: str) -> None:
    code, _, err = run(address, "render", "istio", SERVICE, f"--host={host or '.'}")
    assert code == 2
    assert "--host" in err


@pytest.mark.parametrize(
    "target", ["orders-stable=", "orders-stable=host", "orders-stable=h:99999"]
)
def test_a_target_that_is_no_address_is_refused(address: str, target: str) -> None:
    where = ("--url", "http://orders-stable", "--path", "/orders")
    code, _, err = run(address, "render", "kong", SERVICE, *where, "--target", target)
    assert code == 2
    assert "--target" in err


def rendered(address: str, *options: str) -> Any:
    """What the gateway's file is made of, as a function of where the versions are."""

    def declare(addresses: Mapping[str, str]) -> dict[str, Any]:
        text = done(
            address, "render", "kong", SERVICE, "--url", "http://orders-stable:80",
            "--path", "/orders", "--target", f"orders-stable={addresses[STABLE]}",
            "--target", f"orders-canary={addresses[CANARY]}", *options,
        )  # fmt: skip
        document: dict[str, Any] = yaml.safe_load(text)
        return document

    return declare


def version(gateway: str, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{gateway}/orders/1", headers=named)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["version"])


async def test_the_gateway_takes_the_file_and_follows_releases_without_another(
    address: str,
) -> None:
    with running_stack(declare=rendered(address), gateway="dev") as stack:
        gateway = stack.gateway.address
        assert version(gateway, x_canary_test="true") == STABLE
        release(stack.admin_address, 100)
        await until_so(lambda: version(gateway) == CANARY)
        done(stack.admin_address, "release", "rollback", SERVICE, *WRITTEN)
        await until_so(lambda: version(gateway) == STABLE)
        assert version(gateway, x_canary_test="true") == STABLE


def test_a_baseline_rules_where_no_release_does(address: str) -> None:
    with running_stack(declare=rendered(address, "--baseline"), gateway="dev") as stack:
        gateway = stack.gateway.address
        assert version(gateway, x_canary_test="true") == CANARY
        found = {version(gateway, x_user_id=f"u-{number}") for number in range(200)}
        assert found == {STABLE, CANARY}
