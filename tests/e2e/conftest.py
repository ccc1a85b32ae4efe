"""One stack for all end-to-end tests; each test ends the release it starts."""

from __future__ import annotations

import http.client
import json
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from dev_stack.processes import wait_until
from dev_stack.stack import Stack
from support.admin import Admin, admin_of
from support.stack import GATEWAY, PATH, PATIENCE_S, Client, client_of, running_stack

# Only a real Kong starts a plugin server.
collect_ignore = [] if GATEWAY == "kong" else ["test_start_command.py"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure is shown with what the plugin server and the gateway said last."""
    report = yield
    running = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(running, Stack):
        report.sections.append(("plugin server", running.plugin.output()[-3_000:]))
        report.sections.append(("decision service", running.decision.output()[-2_000:]))
        report.sections.append(("gateway", running.gateway.log()[-2_000:]))
    return report


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with running_stack() as running:
        yield running


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    async with client_of(stack) as found:
        yield found


@pytest.fixture
def admin(stack: Stack) -> Iterator[Admin]:
    with admin_of(stack.admin_address) as found:
        yield found
        found.end()
    # The next test must not take this one's release for its own.
    wait_until(lambda: rules(stack) == "baseline", PATIENCE_S, "the baseline's return")


def rules(stack: Stack) -> str:
    """The release that gives a tester the canary, as the canary is told; "" if it gets stable."""
    connection = http.client.HTTPConnection(stack.gateway.address, timeout=PATIENCE_S)
    try:
        connection.request("GET", PATH, headers={"x-canary-test": "true"})
        told = json.loads(connection.getresponse().read())["headers"]
    finally:
        connection.close()
    return str(told.get("x-canary-release", ""))


@pytest.fixture
def orders(stack: Stack) -> Iterator[Admin]:
    with admin_of(stack.admin_address, "orders") as found:
        yield found
        found.end()


@pytest.fixture
def plain_baseline(stack: Stack) -> Iterator[Admin]:
    """A service whose declared baseline gives nobody the canary."""
    with admin_of(stack.admin_address, "private") as found:
        yield found
        found.end()
