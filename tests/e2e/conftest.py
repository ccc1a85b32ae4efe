"""One stack for all end-to-end tests; each test ends the release it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from dev_stack.demo import get
from dev_stack.processes import wait_until
from dev_stack.stack import CANARY, Stack
from support.admin import Admin, admin_of
from support.stack import GATEWAY, Client, client_of, running_stack

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
    declared = {"x-canary-test": "true"}
    wait_until(
        lambda: get(stack.gateway.address, declared) == (200, CANARY), 10, "the baseline's return"
    )


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
