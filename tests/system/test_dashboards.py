"""Dashboards and rules on a real Prometheus that scrapes a running stack with traffic."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator

import pytest
from dev_stack import processes
from dev_stack.stack import STABLE, Stack
from support import dashboards
from support.admin import admin_of
from support.dashboards import Asked
from support.load import User, load
from support.observed import Observed, observing
from support.stack import running_stack

WITHIN_S = 90.0
# What a stack that is well, and has no credentials, has nothing of: these may be empty, though
# Prometheus must read them.
NOT_WHILE_WELL = {
    ("decision-service", "Refused"),
    ("decision-service", "Credentials"),
    ("gateway-plugin", "Troubles"),
}
# A busy machine may be slow; it may not be wrong.
SLOW = {
    "CanaryControllerLate", "CanaryDecisionsSlow", "CanaryPluginAlone", "CanarySlow",
    "CanaryVerySlow",
}  # fmt: skip
PLAN = {
    "steps": [{"weight": 20, "hold": "2s", "min_samples": 1}, {"weight": 40, "hold": "1h"}],
    "check_interval": "1s",
}
USERS = [
    User(name=f"u-{n}", headers={"x-user-id": f"u-{n}"}, version=STABLE, why="the draw")
    for n in range(200)
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack(controller=()) as running:
        yield running


@pytest.fixture(scope="module")
def observed(stack: Stack) -> Iterator[Observed]:
    """Prometheus, while a release with a plan gets traffic."""
    with admin_of(stack.admin_address) as admin:
        admin.release(20)
        admin("Apply", policy={"plan": PLAN})
    with observing(stack) as found, traffic(stack):
        yield found


class traffic:  # noqa: N801 - reads as a word in a with statement
    """Users who ask all the time, in a loop and thread of their own."""

    def __init__(self, stack: Stack) -> None:
        self._address = stack.gateway.address
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._ask()))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _ask(self) -> None:
        async with load(self._address, USERS, clients=2, rest_s=0.05):
            await self._over.wait()


def filled_in(text: str) -> str:
    """A query with its variables as Grafana fills them in."""
    for name, value in (
        ("$service_key", "yyc3-xy-api-service"),
        ("$instance", ".*"),
        ("$__rate_interval", "10s"),
    ):
        text = text.replace(name, value)
    return text


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    processes.wait_until(is_true, WITHIN_S, what)


def test_prometheus_scrapes_every_program_of_the_stack(observed: Observed) -> None:
    wait_until(lambda: set(observed.targets().values()) == {"up"}, "every target is up")
    assert observed.targets().keys() == {
        "canary-decision-svc", "canary-plugin-server", "canary-controller"
    }  # fmt: skip


@pytest.mark.parametrize(
    "asked", list(dashboards.queries()), ids=lambda asked: f"{asked.dashboard}: {asked.panel}"
)
def test_a_panel_has_something_to_draw(observed: Observed, asked: Asked) -> None:
    text = filled_in(asked.text)
    if (asked.dashboard, asked.panel) in NOT_WHILE_WELL:
        observed.query(text)
        return
    wait_until(lambda: bool(observed.query(text)), f"data for {asked}")
    named = set(re.findall(r"{{(\w+)}}", asked.legend))
    for sample in observed.query(text):
        assert named <= sample["metric"].keys()


@pytest.mark.parametrize("dashboard", [file.stem for file in dashboards.FILES])
def test_a_dashboard_s_variable_has_values_to_choose_from(
    observed: Observed, dashboard: str
) -> None:
    ((_, variable),) = [found for found in dashboards.variables() if found[0] == dashboard]
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert asked
    assert asked[2] == variable["name"]
    wait_until(lambda: bool(observed.label_values(asked[1], asked[2])), variable["name"])


def test_every_rule_can_be_evaluated_on_what_the_programs_show(observed: Observed) -> None:
    wait_until(
        lambda: {rule["health"] for rule in observed.rules()} == {"ok"}, "every rule evaluated"
    )
    assert [rule["lastError"] for rule in observed.rules() if rule.get("lastError")] == []


def test_nothing_alarms_while_all_is_well(observed: Observed) -> None:
    wait_until(
        lambda: bool(observed.query("service_key_variant:canary_outcomes:rate5m > 0")), "outcomes"
    )
    wait_until(lambda: alarming(observed) <= SLOW, "no alarm")


def alarming(observed: Observed) -> set[str]:
    """Alerts whose condition holds, for long enough or not yet."""
    return {
        rule["name"] for rule in observed.rules() if rule["type"] == "alerting" and rule["alerts"]
    }


def test_the_titles_of_what_may_be_empty_are_there() -> None:
    assert {(asked.dashboard, asked.panel) for asked in dashboards.queries()} >= NOT_WHILE_WELL
