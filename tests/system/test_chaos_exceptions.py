"""A plugin that raises under load: it costs the one request, in which nothing was decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from dev_stack import stack as dev_stack
from dev_stack.stack import STABLE
from support.admin import admin_of
from support.chaos import Chaos, chaos_stack, stored, users_of
from support.faulty_plugin import AFTER_A_CALL, AFTER_HEADERS, BEFORE_ANY_CALL, MARKER
from support.load import User, load

# The seed's deadlines are of milliseconds: who waits for seconds has met a lock or a time-out. A
# busy machine holds anybody up for a second or two.
NOT_FELT_S = 5.0


def declare(addresses: Mapping[str, str]) -> dict[str, Any]:
    """The seed, and a route whose plugin raises before it has called Kong."""
    document = dev_stack.declared(addresses)
    service = {"name": BEFORE_ANY_CALL, "host": dev_stack.STABLE_UPSTREAM, "port": 80}
    document["services"].append(service)
    route = {"name": BEFORE_ANY_CALL, "service": BEFORE_ANY_CALL, "paths": ["/raises"]}
    document["routes"].append(route)
    config = {"service_key": BEFORE_ANY_CALL}
    document["plugins"].append(
        {"name": "canary-release", "service": BEFORE_ANY_CALL, "config": config}
    )
    return document


@pytest.fixture(scope="module")
def stack() -> Iterator[Chaos]:
    def faulty(stack: Chaos) -> None:
        stack.plugin_module = "support.faulty_plugin"

    with chaos_stack(faulty, declare=declare) as running:
        yield running


@pytest.fixture(scope="module")
def users(stack: Chaos) -> list[User]:
    with admin_of(stack.admin_address) as admin:
        return users_of(stored(admin))


def unlucky(users: list[User]) -> list[User]:
    """Users for whom the plugin raises, each at another place.

    Whoever has been sent on and told so by then gets what was decided, the others stable.
    """
    found = []
    for index, user in enumerate(users):
        why = (BEFORE_ANY_CALL, AFTER_A_CALL, AFTER_HEADERS)[index % 3]
        changed = replace(user, name=f"{why}:{user.name}", why=why)
        if why == BEFORE_ANY_CALL:
            changed = replace(changed, path="/raises", version=STABLE)
        else:
            changed = replace(changed, headers={**user.headers, MARKER: why})
        found.append(replace(changed, version=STABLE) if why == AFTER_A_CALL else changed)
    return found


async def test_an_exception_costs_one_decision_and_nobody_else_anything(
    stack: Chaos, users: list[User]
) -> None:
    before = stack.troubles()["plugin-error"]
    everybody = [user for pair in zip(users, unlucky(users), strict=True) for user in pair]
    async with load(stack.gateway.address, everybody) as found:
        await found.round()
        await found.round()
    found.check()
    assert found.slowest_s < NOT_FELT_S
    raised = sum(found.by_why[why] for why in (BEFORE_ANY_CALL, AFTER_A_CALL, AFTER_HEADERS))
    assert stack.troubles()["plugin-error"] - before == raised
    assert stack.plugin_samples()["canary_plugin_events_in_progress"] == 0
